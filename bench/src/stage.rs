//! What is measured: the servers and our programs, each a process of its own, gone when this process is.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use sqlx::{PgPool, Row, postgres::PgPoolOptions};
use tempfile::TempDir;
use tokio::{
    process::Command,
    sync::Semaphore,
    task::JoinSet,
    time::{interval, sleep, timeout},
};

use crate::{
    program::{Program, program},
    servers::Servers,
    subject::{AUGUR, Dialect, Subject},
};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(300);
/// Requests under way at once.
const CONCURRENCY: usize = 64;
/// Secrets are stored under the base64 of 32 bytes that protect nothing here; receivers are on this machine.
pub(crate) const WEBHOOKS: [&str; 4] =
    ["--webhook-key", "dGhlIGtleSBvZiB0aGUgYmVuY2htYXJrJ3Mgb3duISE=", "--webhook-allow", "127.0.0.0/8"];

/// What there is memory of, see [`Stage::memories_mib`].
pub(crate) const MEMORIES: [&str; 3] = ["API's memory", "worker's memory", "Redis' memory"];

/// One installation: a database, and the programs that work on it. Senders of webhooks and further workers come by themselves.
pub(crate) struct Stage {
    pub(crate) database: PgPool,
    pub(crate) database_url: String,
    pub(crate) address: SocketAddr,
    client: reqwest::Client,
    /// What all programs are told.
    arguments: Vec<OsString>,
    pub(crate) api: Program,
    worker: Option<Program>,
    models: TempDir,
    pub(crate) servers: Arc<Servers>,
}

impl Stage {
    /// Starts servers, makes the schema, and starts one worker for predictions and the API.
    pub(crate) async fn start() -> Self {
        let servers = Arc::new(Servers::start().await);
        let database_url = migrated(&servers).await;
        Self::on(servers, &database_url, &[]).await
    }

    /// Starts the worker and the API on a database that has our schema; the API with further arguments.
    pub(crate) async fn on(servers: Arc<Servers>, database_url: &str, more: &[&str]) -> Self {
        Self::serving(servers, database_url, more, &[]).await
    }

    /// The same with a worker that serves the models of these directories too.
    pub(crate) async fn serving(
        servers: Arc<Servers>,
        database_url: &str,
        more: &[&str],
        model_dirs: &[PathBuf],
    ) -> Self {
        let database = PgPoolOptions::new().max_connections(4).connect(database_url).await.expect("Postgres answers");
        let (_, namespace) = database_url.rsplit_once('/').expect("an address of Postgres ends with the database");
        let redis_url = servers.redis_url();
        let texts = ["--database-url", database_url, "--redis-url", &redis_url, "--queue-namespace", namespace];
        let texts = texts.into_iter().chain(WEBHOOKS).chain(["--log", "warn"]);
        let arguments: Vec<OsString> = texts.map(OsString::from).collect();
        let models = tempfile::tempdir().expect("temporary directories can be made");
        let dirs = model_dirs.iter().flat_map(|dir| ["--model", dir.to_str().expect("paths are in UTF-8")]);
        let worker = worker(&arguments, &models, &dirs.collect::<Vec<_>>()).await;
        let address = free_address();
        let api = arguments.iter().cloned().chain(["--listen".into(), address.to_string().into()]);
        let api = api.chain(more.iter().map(OsString::from));
        let api = Program::start(&program("augur-api"), api, &[], "listening on ").await;
        let (database_url, client, worker) = (database_url.to_owned(), reqwest::Client::new(), Some(worker));
        Self { database, database_url, address, client, arguments, api, worker, models, servers }
    }

    /// Asked as this dialect says.
    pub(crate) async fn subject(&self, dialect: &'static Dialect) -> Subject {
        let mut processes = self.servers.processes().await;
        processes.insert("the API".into(), vec![self.api.id()]);
        processes.extend(self.worker.iter().map(|worker| ("the worker".into(), vec![worker.id()])));
        Subject::new(dialect, self.address, &self.database_url, processes).await
    }

    /// Its worker, until it is retired.
    pub(crate) fn worker(&self) -> &Program {
        self.worker.as_ref().expect("it is not retired")
    }

    /// Ends its worker.
    pub(crate) async fn retire(&mut self) {
        self.worker.take().expect("it is retired once").end().await;
    }

    /// Starts a further worker for predictions.
    pub(crate) async fn another_worker(&self, more: &[&str]) -> Program {
        worker(&self.arguments, &self.models, more).await
    }

    /// Ends all its programs in order.
    pub(crate) async fn end(self) {
        self.api.end().await;
        if let Some(worker) = self.worker {
            worker.end().await;
        }
    }

    /// What programs are told to work on the same database.
    pub(crate) fn arguments(&self) -> impl Iterator<Item = OsString> {
        self.arguments.iter().cloned()
    }

    /// Starts a sender of webhooks.
    pub(crate) async fn sender(&self) -> Program {
        let sender = self.arguments().chain(["--only".into(), "deliveries".into()]);
        Program::start(&program("augur-worker"), sender, &[], "ready").await
    }

    /// Has predictions made whose ends these webhooks are told of, in turn; at a rate, or as fast as 64 callers can. Returns
    /// once all are finished.
    pub(crate) async fn predict(&self, count: usize, per_second: Option<u32>, webhooks: &[String]) {
        let url = format!("http://{}{}", self.address, AUGUR.path);
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

    /// Memory in MiB of the API, of this worker and of Redis, as [`MEMORIES`] names them.
    pub(crate) async fn memories_mib(&self, worker: &Program) -> [f64; 3] {
        let redis = self.servers.redis_info("used_memory").await;
        let redis: f64 = redis.parse().expect("a number of bytes");
        [self.api.resident_mib(), worker.resident_mib(), redis / f64::from(1 << 20)]
    }

    /// Forgets all predictions and deliveries.
    pub(crate) async fn clear(&self) {
        sqlx::query(AUGUR.clear).execute(&self.database).await.expect("the tables are known");
    }
}

/// A new database with our schema.
pub(crate) async fn migrated(servers: &Servers) -> String {
    let url = servers.database().await;
    let migrate = Command::new(program("augur")).args(["migrate", "--database-url", &url]).output().await;
    assert!(migrate.expect("augur can be started").status.success(), "the schema can be made");
    url
}

/// Where a program can listen.
pub(crate) fn free_address() -> SocketAddr {
    ([127, 0, 0, 1], ::servers::free_port()).into()
}

async fn worker(arguments: &[OsString], models: &TempDir, more: &[&str]) -> Program {
    let options = ["--only", "predictions", "--enable-echo", "--models-dir"].map(OsString::from);
    let all = arguments.iter().cloned().chain(options).chain([models.path().into()]);
    Program::start(&program("augur-worker"), all.chain(more.iter().map(OsString::from)), &[], "ready").await
}
