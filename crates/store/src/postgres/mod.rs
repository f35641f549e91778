//! The store on Postgres: connections that never hang, the schema, the clock.

mod accept;
mod admission;
mod api_keys;
mod ask;
mod claim;
mod complete;
mod connection;
mod deliveries;
mod dispatch;
mod endpoints;
mod models;
mod outbox;
mod pool;
mod purge;
mod secrets;
mod send;
mod sweep;

use std::{collections::HashMap, sync::Arc, time::Duration};

use sqlx::{Connection, PgConnection, migrate::Migrator, postgres::PgConnectOptions};
use time::OffsetDateTime;
use tokio::sync::Mutex;

use crate::{Schema, StoreError, rows::VersionIds};
use connection::on_connection;
use pool::Pool;

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/postgres");

/// How long a call waits for a connection, made or free.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// The server gives up on a statement after this long…
const STATEMENT_TIMEOUT: &str = "10s";
/// …and this side on a call, whose server may have become unreachable.
const CALL_TIMEOUT: Duration = Duration::from_secs(12);
/// The same for the handle that renews leases, where an answer is worth nothing once the lease has run out.
const DEDICATED_CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// Settings of every session. The server notices within about 25 s that this side is gone, and frees its locks; a frozen
/// client does not hold its locks for ever; short statements are not compiled. Every statement here finds its rows by an index,
/// and is planned once: a queue fills faster than statistics follow, and a planner that remembers an empty table would read
/// a full one from end to end, for every batch. And no statement here is worth the start of further processes, which the planner would
/// have for a page of a list, as large tables are never to be read whole.
const SESSION: [(&str, &str); 13] = [
    ("statement_timeout", STATEMENT_TIMEOUT),
    ("idle_in_transaction_session_timeout", "15s"),
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "20000"),
    ("jit", "off"),
    ("max_parallel_workers_per_gather", "0"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("plan_cache_mode", "force_generic_plan"),
];

/// A handle on a Postgres database; cheap to clone.
#[derive(Clone)]
pub(crate) struct Postgres {
    pool: Pool,
    options: Arc<PgConnectOptions>,
    call_timeout: Duration,
    versions: Arc<VersionIds>,
    roles: Arc<Mutex<HashMap<&'static str, Role>>>,
}

/// A role that this node holds or asks for, and the session it belongs to.
struct Role {
    session: PgConnection,
    is_held: bool,
}

impl Postgres {
    pub(crate) async fn open(url: &str, max_connections: u32) -> Result<Self, StoreError> {
        let options: PgConnectOptions = url.parse().map_err(StoreError::Unavailable)?;
        let options = Arc::new(options.application_name("augur").options(SESSION));
        let pool = Pool::new(max_connections, Arc::clone(&options));
        let postgres =
            Self { pool, options, call_timeout: CALL_TIMEOUT, versions: Arc::default(), roles: Arc::default() };
        postgres.ping().await?;
        Ok(postgres)
    }

    pub(crate) fn dedicated(&self) -> Self {
        let pool = Pool::new(1, Arc::clone(&self.options));
        Self { pool, call_timeout: DEDICATED_CALL_TIMEOUT, ..self.clone() }
    }

    pub(crate) async fn schema(&self) -> Result<Schema, StoreError> {
        const HAS_HISTORY: &str = "SELECT to_regclass('_sqlx_migrations') IS NOT NULL";
        const HISTORY: &str = "SELECT version, checksum, success FROM _sqlx_migrations ORDER BY version";
        let has_history: bool =
            on_connection!(self, |connection| sqlx::query_scalar(HAS_HISTORY).fetch_one(connection).await)?;
        if !has_history {
            return Ok(Schema::Behind);
        }
        let history: Vec<(i64, Vec<u8>, bool)> =
            on_connection!(self, |connection| sqlx::query_as(HISTORY).fetch_all(connection).await)?;
        crate::schema::compare(&MIGRATIONS, &history)
    }

    pub(crate) async fn migrate(&self) -> Result<(), StoreError> {
        // A migration may take its time, and a node that comes second waits for the first: no time-outs here.
        let options = PgConnectOptions::clone(&self.options).options([("statement_timeout", "0")]);
        let mut connection = PgConnection::connect_with(&options).await?;
        let result = MIGRATIONS.run(&mut connection).await;
        // Frees the lock, whatever the result.
        let _ = connection.close().await;
        Ok(result?)
    }

    pub(crate) async fn ping(&self) -> Result<(), StoreError> {
        on_connection!(self, |connection| connection.ping().await)
    }

    pub(crate) async fn now(&self) -> Result<OffsetDateTime, StoreError> {
        on_connection!(self, |connection| sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(connection).await)
    }

    pub(crate) async fn close(&self) {
        for (_, role) in self.roles.lock().await.drain() {
            // A hung session dies with its socket when this time-out drops it.
            let _ = tokio::time::timeout(ACQUIRE_TIMEOUT, role.session.close()).await;
        }
        let _ = tokio::time::timeout(self.call_timeout, self.pool.close()).await;
    }
}
