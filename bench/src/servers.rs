//! The servers that everything is measured on, with the settings that are stated in the conditions.

use ::servers::{Postgres, Redis};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use crate::cpu;

/// What Postgres is told beyond its defaults, as whoever runs one for this on a machine of 8 GB or more would: its buffers hold
/// the working set, and no checkpoint is forced by the amount of writing alone.
const SETTINGS: [(&str, &str); 3] =
    [("shared_buffers", "2GB"), ("max_wal_size", "8GB"), ("checkpoint_timeout", "15min")];
/// What the conditions say of Postgres.
const STATED: [&str; 5] = ["fsync", "synchronous_commit", "shared_buffers", "max_wal_size", "checkpoint_timeout"];

/// Postgres and Redis, each a process of its own, gone when this process is.
pub(crate) struct Servers {
    postgres: Postgres,
    redis: Redis,
}

impl Servers {
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With further settings of Postgres.
    pub(crate) async fn with(settings: &[(&str, &str)]) -> Self {
        let (mut postgres, redis) = tokio::join!(Postgres::start(), Redis::start());
        let mut connection = PgConnection::connect(&postgres.url()).await.expect("Postgres answers");
        for (name, value) in SETTINGS.iter().chain(settings) {
            let set = AssertSqlSafe(format!("ALTER SYSTEM SET {name} = '{value}'"));
            sqlx::query(set).execute(&mut connection).await.expect("the setting is known");
        }
        connection.close().await.expect("the connection closes");
        // Some are read at the start only. Postgres loses nothing by it.
        postgres.stop_immediately().await;
        postgres.start_again().await;
        Self { postgres, redis }
    }

    /// A new empty database.
    pub(crate) async fn database(&self) -> String {
        self.postgres.create_database().await
    }

    pub(crate) fn redis_url(&self) -> String {
        self.redis.url()
    }

    /// Both, by their first processes.
    pub(crate) async fn processes(&self) -> cpu::Processes {
        let mut connection = PgConnection::connect(&self.postgres.url()).await.expect("Postgres answers");
        let backend =
            sqlx::query("SELECT pg_backend_pid()").fetch_one(&mut connection).await.expect("Postgres answers");
        let backend = u32::try_from(backend.get::<i32, _>(0)).expect("ids of processes are positive");
        let redis = self.redis_info("process_id").await.parse().expect("the id of a process is a number");
        [("Postgres".to_owned(), vec![cpu::parent(backend)]), ("Redis".to_owned(), vec![redis])].into()
    }

    /// One line of what Redis says of itself.
    pub(crate) async fn redis_info(&self, name: &str) -> String {
        let address = self.redis.url();
        let stream = TcpStream::connect(address.trim_start_matches("redis://")).await.expect("Redis listens");
        let mut stream = BufReader::new(stream);
        stream.write_all(b"INFO\r\n").await.expect("Redis answers");
        let mut length = String::new();
        stream.read_line(&mut length).await.expect("Redis answers");
        let length = length.trim_start_matches('$').trim().parse().expect("an answer begins with its length");
        let mut text = vec![0; length];
        stream.read_exact(&mut text).await.expect("Redis answers");
        let text = String::from_utf8(text).expect("Redis speaks UTF-8");
        let value = text.lines().filter_map(|line| line.split_once(':')).find(|(found, _)| *found == name);
        value.expect("Redis knows it").1.to_owned()
    }

    /// Version and settings, for people.
    pub(crate) async fn stated(&self) -> Vec<(String, String)> {
        let mut connection = PgConnection::connect(&self.postgres.url()).await.expect("Postgres answers");
        let mut stated = Vec::new();
        for name in ["server_version"].iter().chain(&STATED) {
            let show = AssertSqlSafe(format!("SHOW {name}"));
            let value = sqlx::query(show).fetch_one(&mut connection).await.expect("the setting is known").get(0);
            stated.push((format!("postgres {name}"), value));
        }
        stated.push(("redis version".to_owned(), self.redis_info("redis_version").await));
        stated.push(("redis aof_enabled".to_owned(), self.redis_info("aof_enabled").await));
        stated
    }
}
