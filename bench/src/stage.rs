//! What is measured: Postgres, Redis and the programs, each a process of its own, gone when this process is.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use servers::{Postgres, Redis};
use sqlx::{PgPool, Row, postgres::PgPoolOptions};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    sync::Semaphore,
    task::JoinSet,
    time::{interval, sleep, timeout},
};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(300);
/// Requests under way at once.
const CONCURRENCY: usize = 64;
/// What secrets are stored under: the base64 of 32 bytes that protect nothing here.
const KEY: &str = "dGhlIGtleSBvZiB0aGUgYmVuY2htYXJrJ3Mgb3duISE=";

/// The programs lie beside this one.
///
/// # Panics
/// When they do not; says how they get there.
pub(crate) fn program(name: &str) -> PathBuf {
    let ourselves = std::env::current_exe().expect("our own path");
    let path = ourselves.parent().expect("a directory").join(name);
    assert!(path.is_file(), "{} is missing: cargo build --release -p bench -p api -p worker -p cli", path.display());
    path
}

/// The version of the Postgres that everything is measured on.
pub(crate) async fn postgres_version() -> String {
    let postgres = Postgres::start().await;
    let database = PgPoolOptions::new().max_connections(1).connect(&postgres.url()).await.expect("Postgres answers");
    sqlx::query("SHOW server_version").fetch_one(&database).await.expect("Postgres answers").get(0)
}

/// A program that ends with this value.
pub(crate) struct Program {
    child: Child,
    /// Read no further, but open: a program may not be able to go on without.
    _output: Lines<BufReader<ChildStdout>>,
    _log: TempDir,
}

impl Program {
    /// Starts it and waits until it prints a line that begins so.
    async fn start(name: &str, arguments: Vec<OsString>, ready: &str) -> Self {
        let log = tempfile::tempdir().expect("temporary directories can be made");
        let stderr = std::fs::File::create(log.path().join("log")).expect("a file can be made");
        let mut command = Command::new(program(name));
        for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AUGUR_")) {
            command.env_remove(variable);
        }
        command.env_remove("DATABASE_URL").env_remove("REDIS_URL").args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut lines = BufReader::new(child.stdout.take().expect("its output is a pipe")).lines();
        let wait = async {
            while let Ok(Some(line)) = lines.next_line().await {
                if line.starts_with(ready) {
                    return true;
                }
            }
            false
        };
        let is_ready = timeout(PATIENCE, wait).await == Ok(true);
        let said = || std::fs::read_to_string(log.path().join("log")).unwrap_or_default();
        assert!(is_ready, "{name} does not get ready: {}", said());
        Self { child, _output: lines, _log: log }
    }

    /// Its resident memory in MiB.
    pub(crate) fn resident_mib(&self) -> f64 {
        let id = self.child.id().expect("it runs");
        let status = std::fs::read_to_string(Path::new("/proc").join(id.to_string()).join("status"));
        let status = status.expect("the memory of a process can be read");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its resident memory");
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number");
        kib / 1024.0
    }

    /// SIGKILL.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.expect("it runs");
    }
}

/// Everything but the senders.
pub(crate) struct Stage {
    pub(crate) database: PgPool,
    servers: Vec<OsString>,
    address: String,
    client: reqwest::Client,
    _programs: [Program; 2],
    _models: TempDir,
    _servers: (Postgres, Redis),
}

impl Stage {
    /// Starts servers, schema, one worker for predictions and the API.
    pub(crate) async fn start() -> Self {
        let (postgres, redis) = tokio::join!(Postgres::start(), Redis::start());
        let database_url = postgres.create_database().await;
        let database = PgPoolOptions::new().max_connections(4).connect(&database_url).await.expect("Postgres answers");
        let migrate = Command::new(program("augur")).args(["migrate", "--database-url", &database_url]).output().await;
        assert!(migrate.expect("augur can be started").status.success(), "the schema can be made");

        let texts = ["--database-url", &database_url, "--redis-url", &redis.url(), "--webhook-key", KEY];
        let texts = texts.into_iter().chain(["--webhook-allow", "127.0.0.0/8", "--log", "warn"]);
        let servers: Vec<OsString> = texts.map(OsString::from).collect();
        let models = tempfile::tempdir().expect("temporary directories can be made");
        let worker = ["--only".into(), "predictions".into(), "--enable-echo".into(), "--models-dir".into()];
        let worker = servers.iter().cloned().chain(worker).chain([models.path().into()]).collect();
        let worker = Program::start("augur-worker", worker, "ready").await;
        let listen = format!("127.0.0.1:{}", servers::free_port());
        let api = servers.iter().cloned().chain(["--listen".into(), OsString::from(&listen)]).collect();
        let api = Program::start("augur-api", api, "listening on ").await;
        Self {
            database,
            servers,
            address: format!("http://{listen}"),
            client: reqwest::Client::new(),
            _programs: [worker, api],
            _models: models,
            _servers: (postgres, redis),
        }
    }

    /// Starts a sender of webhooks.
    pub(crate) async fn sender(&self) -> Program {
        let sender = self.servers.iter().cloned().chain(["--only".into(), "deliveries".into()]);
        Program::start("augur-worker", sender.collect(), "ready").await
    }

    /// Has predictions made whose ends these webhooks are told of, in turn; at a rate, or as fast as 64 callers can. Returns
    /// once all are finished.
    pub(crate) async fn predict(&self, count: usize, per_second: Option<u32>, webhooks: &[String]) {
        let url = format!("{}/v1/models/augur/echo/predictions", self.address);
        let places = Arc::new(Semaphore::new(CONCURRENCY));
        let mut ticks = per_second.map(|rate| interval(Duration::from_secs(1) / rate));
        let mut requests = JoinSet::new();
        for number in 0..count {
            if let Some(ticks) = &mut ticks {
                ticks.tick().await;
            }
            let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
            let body = serde_json::json!({
                "input": { "value": number },
                "webhook": webhooks[number % webhooks.len()],
                "webhook_events_filter": ["completed"],
            });
            let request = self.client.post(&url).json(&body);
            requests.spawn(async move {
                let response = request.send().await.and_then(reqwest::Response::error_for_status);
                drop(response.expect("it is accepted"));
                drop(place);
            });
        }
        requests.join_all().await;
        self.until("predictions are finished", "SELECT count(*) = 0 FROM predictions WHERE status < 2").await;
    }

    /// Waits until a question to the database is answered with yes.
    pub(crate) async fn until(&self, what: &str, question: &'static str) {
        let wait = async {
            while !sqlx::query(question).fetch_one(&self.database).await.expect("Postgres answers").get::<bool, _>(0) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        assert!(timeout(PATIENCE, wait).await.is_ok(), "waiting until {what} takes too long");
    }

    /// Forgets all predictions and deliveries.
    pub(crate) async fn clear(&self) {
        let tables = "TRUNCATE predictions, inputs, outputs, deliveries, delivery_attempts, idempotency_keys CASCADE";
        sqlx::query(tables).execute(&self.database).await.expect("the tables are known");
    }
}
