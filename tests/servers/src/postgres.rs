//! A Postgres server of a test's own.

use std::{
    ffi::OsString,
    path::Path,
    time::{Duration, Instant},
};

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use crate::{
    port::{free_port, was_taken},
    process::{self, Process},
    programs,
    user::User,
};

/// Crash recovery after [`Postgres::stop_immediately`] on a busy small machine included.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// What `pg_ctl stop -m immediate` sends.
const IMMEDIATE_STOP: &str = "QUIT";

/// A Postgres server of a test's own. It syncs as in production, so that what it acknowledged survives
/// [`Postgres::stop_immediately`]. It is gone when this value is dropped or the process ends.
pub struct Postgres {
    process: Process,
    port: u16,
}

impl Postgres {
    /// Initialises a data directory and starts a server on a free port.
    ///
    /// # Panics
    /// When Postgres is not installed or does not start; says what to install or what it logged.
    pub async fn start() -> Self {
        loop {
            let server = Self::prepared().await;
            if server.has_started().await {
                return server;
            }
        }
    }

    async fn prepared() -> Self {
        let programs = programs::postgres();
        let directory = process::directory("augur-postgres");
        let user = User::for_server_refusing_root(&directory);
        if let Some(user) = user {
            user.own(&directory);
        }
        initialise(&programs, user, &directory).await;

        let port = free_port();
        let mut command: Vec<OsString> =
            vec![programs.join("postgres").into(), "-D".into(), directory.join("data").into()];
        let port_text = port.to_string();
        let directory_text = directory.to_str().expect("temporary directories are named in UTF-8");
        for (name, value) in [
            ("port", port_text.as_str()),
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", directory_text),
            ("max_connections", "200"),
            ("fsync", "on"),
            ("synchronous_commit", "on"),
        ] {
            command.extend(["-c".into(), format!("{name}={value}").into()]);
        }
        Self { process: Process::guarded(directory, user, IMMEDIATE_STOP, command), port }
    }

    /// The address of its `postgres` database.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Makes an empty database and returns its address.
    ///
    /// # Panics
    /// When the server is stopped.
    pub async fn create_database(&self) -> String {
        create_database(&self.url()).await
    }

    /// `pg_ctl stop -m immediate`: as if the power failed. Returns once the server is gone.
    pub async fn stop_immediately(&mut self) {
        self.process.end(IMMEDIATE_STOP).await;
    }

    /// Starts it again on the same port and data, and waits until it answers.
    ///
    /// # Panics
    /// When it does not within a minute; shows what it logged.
    pub async fn start_again(&mut self) {
        assert!(self.has_started().await, "its port is taken");
    }

    /// Starts it and waits until it answers; whether it does, or its port was taken.
    async fn has_started(&self) -> bool {
        self.process.start().await;
        let begun = Instant::now();
        while let Err(error) = answer(&self.url()).await {
            let alive = self.process.is_alive().await;
            if !alive && was_taken(&self.process.log()) {
                return false;
            }
            assert!(
                alive && begun.elapsed() < START_TIMEOUT,
                "Postgres does not answer ({error}); its log:\n{}",
                self.process.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        true
    }
}

async fn initialise(programs: &Path, user: Option<User>, directory: &Path) {
    let mut initdb = User::command(user, &programs.join("initdb"));
    initdb.args([
        "--auth=trust",
        "--username=postgres",
        "--encoding=UTF8",
        "--locale=C",
        "--no-sync",
        "--no-instructions",
    ]);
    initdb.arg("--pgdata").arg(directory.join("data")).current_dir(directory);
    let result = tokio::process::Command::from(initdb).output().await.expect("initdb can be started");
    assert!(result.status.success(), "initdb failed: {}", String::from_utf8_lossy(&result.stderr));
}

async fn answer(url: &str) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::query("SELECT 1").execute(&mut connection).await?;
    connection.close().await
}

/// Makes an empty database with a random name on the server at `url` and returns its address.
pub(crate) async fn create_database(url: &str) -> String {
    let name = format!("augur_test_{}", Uuid::new_v4().simple());
    let mut connection = PgConnection::connect(url).await.expect("the Postgres for tests answers");
    let create = format!("CREATE DATABASE {name}");
    sqlx::query(AssertSqlSafe(create)).execute(&mut connection).await.expect("the tests' user may create databases");
    connection.close().await.expect("the connection closes");
    with_database(url, &name)
}

/// Executes statements on the database at `url`.
///
/// # Panics
/// When the database does not answer, or refuses.
pub async fn execute(url: &str, statements: &str) {
    let mut connection = PgConnection::connect(url).await.expect("the Postgres for tests answers");
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut connection).await.expect("the statements can be executed");
    connection.close().await.expect("the connection closes");
}

/// The same address with another database's name.
fn with_database(url: &str, name: &str) -> String {
    let (address, parameters) = url.split_once('?').map_or((url, None), |(address, rest)| (address, Some(rest)));
    let (scheme, rest) = address.split_once("://").expect("a Postgres address has a scheme");
    let server = rest.split_once('/').map_or(rest, |(server, _)| server);
    let parameters = parameters.map(|parameters| format!("?{parameters}")).unwrap_or_default();
    format!("{scheme}://{server}/{name}{parameters}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_database_in_an_address_is_replaced() {
        let cases = [
            ("postgres://u:p@host:1/old?sslmode=disable", "postgres://u:p@host:1/new?sslmode=disable"),
            ("postgres://host/old", "postgres://host/new"),
            ("postgresql://host", "postgresql://host/new"),
        ];
        for (before, after) in cases {
            assert_eq!(with_database(before, "new"), after);
        }
    }
}
