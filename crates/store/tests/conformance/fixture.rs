//! A migrated store on a database of a test's own, a way past it to the database, and predictions to put into it.

use std::{collections::BTreeMap, time::Duration};

use prediction::{DeliveryId, Event, ModelName, PredictionId, Priority, StreamKey, Version, WorkerId};
use serde_json::value::RawValue;
use sqlx::{AssertSqlSafe, PgPool, SqlitePool, sqlite::SqliteConnectOptions, types::Uuid};
use store::{
    Answer, Attempt, Claimed, ClaimedDelivery, DeliveryFilter, Location, NewPrediction, NextStep, Room, Run, Settled,
    Store, StoreError, Sweep, Webhook, Written,
};
use tempfile::TempDir;

/// Long enough that no lease runs out in a test that does not want it.
pub(crate) const LEASE: Duration = Duration::from_secs(600);
/// A lease that is over at once.
pub(crate) const SPENT: Duration = Duration::ZERO;
/// A sweep of a server that may have started just now.
pub(crate) const SWEEP: Sweep = Sweep { lease: Duration::ZERO, max_crashes: 3, limit: 1000, leases: true };

enum Raw {
    Postgres(PgPool),
    Sqlite { pool: SqlitePool, _directory: TempDir },
}

/// Where a prediction stands, as its row says.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct State {
    pub(crate) id: Uuid,
    pub(crate) status: i16,
    pub(crate) epoch: i32,
    pub(crate) attempts: i32,
    pub(crate) retries: i32,
    pub(crate) crashes: i32,
    pub(crate) releases: i32,
    pub(crate) suspect: bool,
    pub(crate) solo: bool,
    pub(crate) inputs: i64,
    pub(crate) outcomes: i64,
}

/// A store and the database behind it.
pub(crate) struct Fixture {
    pub(crate) store: Store,
    pub(crate) location: Location,
    /// Who claims and completes.
    pub(crate) worker: WorkerId,
    raw: Raw,
}

impl Fixture {
    pub(crate) async fn postgres() -> Self {
        let url = servers::database().await;
        let raw = PgPool::connect_lazy(&url).expect("the address can be read");
        let location = Location::Postgres { url, max_connections: 8 };
        Self::migrated(location, Raw::Postgres(raw)).await
    }

    pub(crate) async fn sqlite() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("augur.sqlite");
        let pool = SqlitePool::connect_lazy_with(SqliteConnectOptions::new().filename(&path));
        Self::migrated(Location::Sqlite { path }, Raw::Sqlite { pool, _directory: directory }).await
    }

    async fn migrated(location: Location, raw: Raw) -> Self {
        let store = open(&location).await;
        store.migrate().await.expect("the migrations apply");
        Self { store, location, worker: WorkerId::generate(), raw }
    }

    /// Runs a statement past the store.
    pub(crate) async fn execute(&self, sql: impl Into<String>) -> sqlx::Result<u64> {
        let query = AssertSqlSafe(sql.into());
        Ok(match &self.raw {
            Raw::Postgres(pool) => sqlx::query(query).execute(pool).await?.rows_affected(),
            Raw::Sqlite { pool, .. } => sqlx::query(query).execute(pool).await?.rows_affected(),
        })
    }

    /// From now on the database refuses to do this to rows of this table that are so: `NEW.id = …` for an UPDATE.
    pub(crate) async fn refuse(&self, what: &str, table: &str, condition: &str) {
        let rule = match &self.raw {
            Raw::Postgres(_) => {
                format!("FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION refuse_change('as the test wants it')")
            }
            Raw::Sqlite { .. } => format!("WHEN {condition} BEGIN SELECT RAISE(ABORT, 'as the test wants it'); END"),
        };
        self.execute(format!("CREATE TRIGGER guilty BEFORE {what} ON {table} {rule}")).await.expect("a trigger");
    }

    /// Reads one number past the store.
    pub(crate) async fn number(&self, sql: impl Into<String>) -> i64 {
        let query = AssertSqlSafe(sql.into());
        match &self.raw {
            Raw::Postgres(pool) => sqlx::query_scalar(query).fetch_one(pool).await,
            Raw::Sqlite { pool, .. } => sqlx::query_scalar(query).fetch_one(pool).await,
        }
        .expect("a number")
    }

    /// What outcomes there are, to select from: Postgres has each in the row of its prediction, SQLite in a table of their own.
    pub(crate) fn outcomes(&self) -> &'static str {
        match &self.raw {
            Raw::Postgres(_) => {
                "(SELECT id AS prediction_id, code FROM predictions WHERE num_nonnulls(output, code) > 0) AS outcomes"
            }
            Raw::Sqlite { .. } => "outputs",
        }
    }

    /// What a change of a prediction's row that ends it also has to set: for an output, and for an error.
    pub(crate) fn outcome_columns(&self) -> (&'static str, &'static str) {
        match &self.raw {
            Raw::Postgres(_) => (", output = '1'", ", code = 'model_error', message = 'it broke', retryable = false"),
            Raw::Sqlite { .. } => ("", ""),
        }
    }

    /// Gives what is processing an output that is no JSON, past the store. In Postgres that ends it.
    pub(crate) async fn break_output(&self, id: PredictionId) {
        let id = self.id(id);
        let statement = match &self.raw {
            Raw::Postgres(_) => format!(
                "UPDATE predictions SET status = 2, worker = NULL, lease_until = NULL, completed_at = created_at,
                 expires_at = created_at, output = 'no JSON' WHERE id = {id}"
            ),
            Raw::Sqlite { .. } => format!("INSERT INTO outputs (prediction_id, output) VALUES ({id}, 'no JSON')"),
        };
        assert_eq!(self.execute(statement).await.expect("it is taken"), 1);
    }

    /// The rule by which the database refuses a statement: its name in Postgres; SQLite does not always tell.
    pub(crate) async fn refusal(&self, sql: &str) -> Option<String> {
        let error = self.execute(sql).await.expect_err(sql);
        match &self.raw {
            Raw::Postgres(_) => {
                let rule = error.as_database_error().and_then(sqlx::error::DatabaseError::constraint);
                Some(rule.unwrap_or_else(|| panic!("{sql}: no rule but {error}")).to_owned())
            }
            Raw::Sqlite { .. } => None,
        }
    }

    /// Where every prediction stands, read past the store.
    pub(crate) async fn states(&self) -> BTreeMap<PredictionId, State> {
        let states = AssertSqlSafe(format!(
            "SELECT id, status, epoch, attempts, retries, crashes, releases, suspect, solo,
                    (SELECT count(*) FROM inputs WHERE prediction_id = predictions.id) AS inputs,
                    (SELECT count(*) FROM {} WHERE prediction_id = predictions.id) AS outcomes
             FROM predictions",
            self.outcomes()
        ));
        let states: Vec<State> = match &self.raw {
            Raw::Postgres(pool) => sqlx::query_as(states).fetch_all(pool).await,
            Raw::Sqlite { pool, .. } => sqlx::query_as(states).fetch_all(pool).await,
        }
        .expect("the states can be read");
        states.into_iter().map(|state| (PredictionId(state.id), state)).collect()
    }

    /// An id as this database's SQL writes it.
    pub(crate) fn id(&self, id: PredictionId) -> String {
        match &self.raw {
            Raw::Postgres(_) => format!("'{id}'"),
            Raw::Sqlite { .. } => format!("x'{}'", id.0.simple()),
        }
    }

    /// Stores these.
    pub(crate) async fn accept(&self, batch: impl IntoIterator<Item = NewPrediction>) -> Vec<PredictionId> {
        let batch: Vec<_> = batch.into_iter().collect();
        let ids = batch.iter().map(|new| new.id).collect();
        let answers = self.store.accept(batch).await.expect("the batch is stored");
        assert!(answers.iter().all(|answer| matches!(answer, store::Accepted::Created { .. })), "{answers:?}");
        ids
    }

    /// Stores one and claims it.
    pub(crate) async fn claimed(&self, lease: Duration) -> Run {
        let ids = self.accept([new()]).await;
        let claim = self.store.claim(self.worker, &ids, lease).await.expect("the claim is answered");
        claim.claimed.first().expect("it waits").run
    }

    /// Takes deliveries, at most 16 to each origin and endpoint, from the first lines.
    pub(crate) async fn send(&self, limit: u32, lease: Duration) -> Vec<ClaimedDelivery> {
        let sent = self.store.claim_deliveries(WorkerId::generate(), &Room::each(16), None, limit, lease).await;
        sent.expect("the claim is answered").claimed
    }

    /// Writes what became of one delivery, after an attempt with this answer.
    pub(crate) async fn settle(&self, delivery: &ClaimedDelivery, status: u16, next: NextStep) -> Written {
        let settled = attempted(delivery, status, next);
        self.store.settle_deliveries(&[settled]).await.expect("the word is taken")[0]
    }

    /// The tenant's deliveries, sorted.
    pub(crate) async fn deliveries(&self, tenant: &str) -> Vec<DeliveryId> {
        let page = self.store.deliveries(tenant, &DeliveryFilter::default(), None, 10_000).await.expect("a page");
        let mut ids: Vec<DeliveryId> = page.entries.iter().map(|delivery| delivery.id).collect();
        ids.sort();
        ids
    }

    /// Claims a suspect to run alone, if there is one.
    pub(crate) async fn claim_suspect(&self, lease: Duration) -> Option<Claimed> {
        self.store.claim_suspect(self.worker, &serves(), lease).await.expect("the claim is answered")
    }
}

/// Opens a store; a busy server may not let anybody in at once.
pub(crate) async fn open(location: &Location) -> Store {
    let opened = eventually(async || match Store::open(location).await {
        Err(StoreError::Unavailable(_)) => None,
        opened => Some(opened),
    });
    opened.await.expect("the store opens")
}

/// The model of all these predictions.
pub(crate) fn model() -> ModelName {
    "augur/echo".parse().expect("a good name")
}

/// Its version.
pub(crate) fn version() -> Version {
    "0123456789abcdef".repeat(4).parse().expect("a good version")
}

pub(crate) fn serves() -> Vec<(ModelName, Version)> {
    vec![(model(), version())]
}

pub(crate) fn stream() -> StreamKey {
    StreamKey { model: model(), version: version(), priority: Priority::Normal }
}

pub(crate) fn json(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).expect("valid JSON")
}

/// A prediction with nothing special about it.
pub(crate) fn new() -> NewPrediction {
    NewPrediction {
        id: PredictionId::generate(),
        tenant: String::new(),
        model: model(),
        version: version(),
        input: json(r#"{"value": "\u0000 é"}"#),
        priority: Priority::Normal,
        deadline: None,
        metadata: None,
        fingerprint: [7; 32],
        idempotency_key: None,
        max_retries: 3,
        retention: Duration::from_secs(3600),
        queued: false,
        webhook: None,
        claimant: None,
    }
}

/// A webhook at this origin for these events.
pub(crate) fn webhook(origin: &str, events: &[Event]) -> Webhook {
    Webhook {
        url: format!("{origin}/hook?to=me"),
        endpoint: format!("{origin}/hook"),
        origin: origin.to_owned(),
        events: events.iter().copied().collect(),
    }
}

/// A prediction whose caller is told of these events.
pub(crate) fn told(events: &[Event]) -> NewPrediction {
    NewPrediction { webhook: Some(webhook("https://example.com:443", events)), ..new() }
}

/// What a sender writes after an attempt with this answer.
pub(crate) fn attempted(delivery: &ClaimedDelivery, status: u16, next: NextStep) -> Settled {
    let result = Ok(Answer { status, body: b"an answer".to_vec() });
    let attempt = Attempt { at: delivery.claimed_at, latency: Duration::from_millis(3), result };
    Settled { sending: delivery.sending, attempt: Some(attempt), next }
}

/// Waits until `condition` gives something; the time-out is for a test that would otherwise hang.
pub(crate) async fn eventually<T>(mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect("it happens within 30 seconds")
}
