//! Postgres, Redis, one API and several workers as separate processes, to be killed, paused and started again by tests.

use std::{
    ffi::OsString,
    time::{Duration, Instant},
};

use serde_json::Value;
use servers::{Postgres, Process, Redis};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};
use uuid::Uuid;

use crate::{Journal, Load, PATIENCE, Tripwire, Webhooks, answered, audit, outbox, program};

/// Clusters at a time, of the tests of one program: each keeps about one processor busy, and two fill a small machine.
static PLACES: Semaphore = Semaphore::const_new(2);

/// What a cluster consists of.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many workers.
    pub workers: usize,
    /// Their lease, in whole seconds.
    pub lease: Duration,
    /// The most predictions that one holds.
    pub slots: u32,
    /// Whether and how webhooks are sent.
    pub webhooks: Option<Webhooks>,
    /// The most predictions that wait, if not as many as usual.
    pub queue_limit: Option<u32>,
    /// Whether programs see a database's clock that [`Cluster::advance`] moves.
    pub has_fake_clock: bool,
}

impl Default for Plan {
    /// Four workers, with a lease that is short for the sake of the tests' duration.
    fn default() -> Self {
        let lease = Duration::from_secs(3);
        Self { workers: 4, lease, slots: 16, webhooks: None, queue_limit: None, has_fake_clock: false }
    }
}

/// A running cluster. What its programs logged is shown when a test fails.
pub struct Cluster {
    /// Its Postgres.
    pub postgres: Postgres,
    /// Its Redis.
    pub redis: Redis,
    /// The API's way to Redis.
    pub tripwire: Tripwire,
    /// Its `augur-api`, always at the same address.
    pub api: Process,
    /// Its `augur-worker`s.
    pub workers: Vec<Process>,
    /// Who the workers are at present: each start gives a new id.
    pub worker_ids: Vec<Uuid>,
    /// Its senders of webhooks: `augur-worker`s that do nothing else.
    pub senders: Vec<Process>,
    pub(crate) sender_command: Vec<OsString>,
    pub(crate) api_command: Vec<OsString>,
    pub(crate) has_fake_clock: bool,
    pub(crate) database: PgPool,
    /// Where its API is, as `http://` has it.
    pub address: String,
    pub(crate) client: reqwest::Client,
    /// The directory of models that its workers follow.
    pub models: TempDir,
    _place: SemaphorePermit<'static>,
}

impl Cluster {
    /// Starts servers, schema, audit, workers and API, in this order, and waits until predictions can be sent.
    ///
    /// # Panics
    /// When something does not start; shows its log.
    pub async fn start(plan: Plan) -> Self {
        let place = PLACES.acquire().await.expect("it is never closed");
        let (postgres, redis) = tokio::join!(Postgres::start(), Redis::start());
        let database_url = postgres.create_database().await;
        let database = PgPoolOptions::new().max_connections(4).connect(&database_url).await.expect("Postgres answers");

        migrate(&database_url).await;
        audit::install(&database).await;
        let database_url = match plan.has_fake_clock {
            true => outbox::install_clock(&database, &database_url).await,
            false => database_url,
        };

        let tripwire = Tripwire::start(&redis.url()).await;
        let servers = [("--database-url", database_url.clone()), ("--redis-url", redis.url())];
        let servers_of_api = [("--database-url", database_url), ("--redis-url", tripwire.url())];
        let models = tempfile::tempdir().expect("temporary directories can be made");
        let worker = command("augur-worker", &servers)
            .chain(["--enable-echo".into(), "--models-dir".into(), models.path().into()])
            .chain(["--lease".into(), format!("{}s", plan.lease.as_secs()).into()])
            .chain(["--slots".into(), plan.slots.to_string().into()])
            // Tests kill workers at random: what was hit alone several times is unlucky, not poison.
            .chain(["--max-crashes".into(), "1000".into()])
            .chain(["--only".into(), "predictions".into()]);
        let worker: Vec<OsString> = worker.collect();
        let workers = (0..plan.workers).map(|_| Process::new("augur-worker", worker.clone())).collect();

        let sender = command("augur-worker", &servers).chain(["--only".into(), "deliveries".into()]);
        let sender_command: Vec<OsString> =
            sender.chain(plan.webhooks.iter().flat_map(Webhooks::settings_of_sender)).collect();
        let senders = 0..plan.webhooks.map_or(0, |webhooks| webhooks.senders);
        let senders = senders.map(|_| Process::new("augur-sender", sender_command.clone())).collect();

        let port = servers::free_port();
        let api = command("augur-api", &servers_of_api)
            .chain(["--listen".into(), format!("127.0.0.1:{port}").into()])
            .chain(plan.queue_limit.iter().flat_map(|limit| ["--queue-limit".into(), limit.to_string().into()]))
            .chain(plan.webhooks.iter().flat_map(Webhooks::settings_of_api));
        let api_command: Vec<OsString> = api.collect();
        let api = Process::new("augur-api", api_command.clone());
        let mut cluster = Self {
            postgres,
            redis,
            tripwire,
            api,
            workers,
            worker_ids: vec![Uuid::nil(); plan.workers],
            senders,
            sender_command,
            api_command,
            has_fake_clock: plan.has_fake_clock,
            database,
            address: format!("http://127.0.0.1:{port}"),
            client: reqwest::Client::builder().timeout(Duration::from_secs(30)).build().expect("a client"),
            models,
            _place: place,
        };
        for index in 0..plan.workers {
            cluster.start_worker(index).await;
        }
        cluster.start_api().await;
        for index in 0..cluster.senders.len() {
            cluster.start_sender(index).await;
        }
        cluster
    }

    /// Starts the API (again) and waits until it listens.
    ///
    /// # Panics
    /// When it does not; shows its log.
    pub async fn start_api(&self) {
        self.api.start().await;
        self.api.line_that_begins("listening on ", PATIENCE).await;
    }

    /// Starts a worker (again), waits until it is ready and notes who it is now.
    ///
    /// # Panics
    /// When it does not get ready; shows its log.
    pub async fn start_worker(&mut self, index: usize) {
        let before = audit::workers(&self.database).await;
        self.workers[index].start().await;
        self.workers[index].line_that_begins("ready", PATIENCE).await;
        let after = audit::workers(&self.database).await;
        let new: Vec<_> = after.difference(&before).collect();
        assert_eq!(new.len(), 1, "one new worker has announced itself");
        self.worker_ids[index] = *new[0];
    }

    /// SIGKILL for a worker.
    pub async fn kill_worker(&self, index: usize) {
        self.workers[index].end("KILL").await;
    }

    /// Begins to send predictions, in the background.
    #[must_use]
    pub fn send(&self, seed: u64, load: Load) -> tokio::task::JoinHandle<Journal> {
        tokio::spawn(load.send(self.address.clone(), seed))
    }

    /// `GET` of a path, as [`answered`]: status and JSON body.
    ///
    /// # Panics
    /// When the API does not answer with JSON.
    pub async fn get(&self, path: &str) -> (u16, Value) {
        answered(self.client.get(format!("{}{path}", self.address))).await
    }

    /// Completions that the fence refused, as `GET /v1/queue` tells.
    ///
    /// # Panics
    /// When it does not tell.
    pub async fn stale_completions(&self) -> u64 {
        let (_, queue) = self.get("/v1/queue").await;
        queue["stale_completions"].as_u64().expect("a number of stale completions")
    }

    /// Changes the database behind everybody's back: SQL statements, as its superuser.
    ///
    /// # Panics
    /// When Postgres refuses them.
    pub async fn tamper(&self, statements: &'static str) {
        audit::tamper(&self.database, statements).await;
    }

    /// How many of these are stored.
    ///
    /// # Panics
    /// When Postgres does not answer.
    pub async fn stored(&self, ids: &[Uuid]) -> usize {
        audit::stored(&self.database, ids).await
    }

    /// How many predictions are not finished; one that is canceled or failed is.
    ///
    /// # Panics
    /// When Postgres does not answer.
    pub async fn unfinished(&self) -> i64 {
        audit::unfinished(&self.database).await
    }

    /// Waits until every stored prediction is finished.
    ///
    /// # Panics
    /// When that takes too long; shows what is stuck.
    pub async fn until_finished(&self) {
        let begun = Instant::now();
        while self.unfinished().await > 0 {
            if begun.elapsed() > PATIENCE {
                panic!("predictions are stuck:\n{}", audit::describe_unfinished(&self.database).await);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn command(name: &str, servers: &[(&str, String)]) -> impl Iterator<Item = OsString> {
    let servers: Vec<OsString> =
        servers.iter().flat_map(|(flag, value)| [OsString::from(flag), OsString::from(value)]).collect();
    [OsString::from(program(name))].into_iter().chain(servers)
}

async fn migrate(database_url: &str) {
    let command =
        tokio::process::Command::new(program("augur")).args(["migrate", "--database-url", database_url]).output();
    let output = command.await.expect("augur can be started");
    assert!(output.status.success(), "augur migrate fails: {}", String::from_utf8_lossy(&output.stderr));
}

impl Drop for Cluster {
    #[allow(clippy::print_stderr, reason = "the test runner shows it when the test fails")]
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let workers = self.workers.iter().enumerate().map(|(index, worker)| (format!("augur-worker {index}"), worker));
        let senders = self.senders.iter().enumerate().map(|(index, sender)| (format!("sender {index}"), sender));
        for (name, process) in std::iter::once(("augur-api".to_owned(), &self.api)).chain(workers).chain(senders) {
            let log = process.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n");
            eprintln!("---- the end of the log of {name} ({} lines in all)\n{tail}", lines.len());
        }
    }
}

const LOG_LINES_SHOWN: usize = 60;
