//! What is driven: how a service of predictions is asked, and how its database tells what became of them.

use std::{net::SocketAddr, time::Duration};

use sqlx::{
    Connection as _, PgConnection, PgPool, Row,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::{sleep, timeout};

use crate::cpu::Processes;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often the database is asked whether all is over: seldom, since it costs Postgres some milliseconds while a backlog shrinks.
const PERIOD: Duration = Duration::from_millis(250);

/// How a service is asked, and where it keeps what it was asked.
pub(crate) struct Dialect {
    /// Where predictions are made.
    pub(crate) path: &'static str,
    /// What an id is put behind to read its prediction.
    pub(crate) read: &'static str,
    /// What stands before and after the value in a request's body.
    pub(crate) around: (&'static str, &'static str),
    /// Whether anything is unfinished. It is asked often, so it is to be answered from an index.
    pub(crate) is_over: &'static str,
    /// The end of the last one, in seconds since 1970; how many there are, whatever became of them.
    pub(crate) ends: &'static str,
    /// How many of the ids $1 with the values $2 succeeded, with just that as input and as output.
    pub(crate) right: &'static str,
    /// Forgets all of them.
    pub(crate) clear: &'static str,
}

/// Our own.
pub(crate) const AUGUR: Dialect = Dialect {
    path: "/v1/models/augur/echo/predictions",
    read: "/v1/predictions/",
    around: (r#"{"input":{"value":"#, "}}"),
    is_over: "SELECT NOT EXISTS (SELECT FROM predictions WHERE status = 0)
                 AND NOT EXISTS (SELECT FROM predictions WHERE status = 1 AND lease_until IS NOT NULL)",
    ends: "SELECT extract(epoch FROM max(completed_at))::float8, count(*) FROM predictions",
    right: "SELECT count(DISTINCT predictions.id)
            FROM UNNEST($1::text[], $2::text[]) AS sent (id, value)
            JOIN predictions ON predictions.id = sent.id::uuid
            JOIN inputs ON inputs.prediction_id = predictions.id
            WHERE status = 2 AND input::jsonb ->> 'value' = value AND output::jsonb = to_jsonb(value)",
    clear: "TRUNCATE predictions, inputs, deliveries, delivery_attempts, idempotency_keys CASCADE",
};

/// The same with a model that takes 20 ms for each batch, and one prediction at a time.
pub(crate) const AUGUR_SLEEPING: Dialect =
    Dialect { around: (r#"{"input":{"sleep_ms":20,"alone":true,"value":"#, "}}"), ..AUGUR };

/// What the recipes in `bench/peers` have in common.
pub(crate) const PEER: Dialect = Dialect {
    path: "/predictions",
    read: "/predictions/",
    around: (r#"{"input":"#, "}"),
    is_over: "SELECT NOT EXISTS (SELECT FROM jobs WHERE status <> 'succeeded')",
    ends: "SELECT extract(epoch FROM max(completed_at))::float8, count(*) FROM jobs",
    right: "SELECT count(DISTINCT jobs.id)
            FROM UNNEST($1::text[], $2::text[]) AS sent (id, value)
            JOIN jobs ON jobs.id = sent.id::uuid
            WHERE status = 'succeeded' AND input::jsonb = to_jsonb(value) AND output::jsonb = to_jsonb(value)",
    clear: "TRUNCATE jobs",
};

/// A running service.
pub(crate) struct Subject {
    pub(crate) dialect: &'static Dialect,
    pub(crate) address: SocketAddr,
    pub(crate) database: PgPool,
    /// A session that looks at indexes alone, whatever the planner knows of the tables.
    pub(crate) watch: PgConnection,
    /// What it costs to run: its processes and its servers.
    pub(crate) processes: Processes,
}

impl Subject {
    pub(crate) async fn new(
        dialect: &'static Dialect,
        address: SocketAddr,
        database_url: &str,
        processes: Processes,
    ) -> Self {
        let options: PgConnectOptions = database_url.parse().expect("an address of Postgres");
        let watch = options.clone().options([("enable_seqscan", "off")]);
        let watch = PgConnection::connect_with(&watch).await.expect("Postgres answers");
        let database = PgPoolOptions::new().max_connections(4).connect_with(options).await.expect("Postgres answers");
        Self { dialect, address, database, watch, processes }
    }

    /// Waits until nothing is unfinished.
    pub(crate) async fn over(&mut self) {
        let wait = async {
            let is_over = self.dialect.is_over;
            while !sqlx::query(is_over).fetch_one(&mut self.watch).await.expect("Postgres answers").get::<bool, _>(0) {
                sleep(PERIOD).await;
            }
        };
        assert!(timeout(PATIENCE, wait).await.is_ok(), "predictions are unfinished for too long");
    }

    /// Forgets all predictions, and has what was written until now written out, so that it burdens nothing that follows.
    pub(crate) async fn clear(&self) {
        for statement in [self.dialect.clear, "CHECKPOINT"] {
            sqlx::query(statement).execute(&self.database).await.expect("the tables are known");
        }
    }
}
