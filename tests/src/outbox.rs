//! What tests read of the outbox, and put into it behind everybody's back. Beside the audit, only here do the tests know the
//! schema.

use std::{collections::BTreeMap, time::Duration};

use prediction::DeliveryId;
use sqlx::{AssertSqlSafe, PgPool, Row, raw_sql};
use uuid::Uuid;

use crate::{Cluster, PATIENCE};

/// How many deliveries have which status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outbox {
    /// For their time to come.
    pub waiting: i64,
    /// Held by a sender.
    pub sending: i64,
    /// Taken by their receiver.
    pub delivered: i64,
    /// Given up after the last attempt.
    pub exhausted: i64,
    /// Given up because their endpoint wants no more.
    pub disabled: i64,
}

/// One attempt as it was recorded. Times are the database's, in seconds since 1970.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Its number, from 1.
    pub number: i32,
    /// When it began.
    pub at: f64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// The answer's HTTP status.
    pub status: Option<i16>,
    /// In one word, why there was none.
    pub error: Option<String>,
    /// The same for people.
    pub message: Option<String>,
    /// The beginning of the answer's body.
    pub answer: Option<Vec<u8>>,
}

impl Cluster {
    /// How the deliveries stand; of those to `endpoint`, if one is given.
    ///
    /// # Panics
    /// When Postgres does not answer.
    pub async fn outbox(&self, endpoint: Option<&str>) -> Outbox {
        let row = sqlx::query(
            "SELECT count(*) FILTER (WHERE status = 0), count(*) FILTER (WHERE status = 1),
                    count(*) FILTER (WHERE status = 2), count(*) FILTER (WHERE status = 3),
                    count(*) FILTER (WHERE status = 4)
             FROM deliveries WHERE $1 IS NULL OR endpoint = $1",
        );
        let row = row.bind(endpoint).fetch_one(&self.database).await.expect("Postgres answers");
        Outbox {
            waiting: row.get(0),
            sending: row.get(1),
            delivered: row.get(2),
            exhausted: row.get(3),
            disabled: row.get(4),
        }
    }

    /// Waits until the outbox is as `is_so` says.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn until_outbox(&self, what: &str, is_so: impl Fn(Outbox) -> bool) {
        let wait = async {
            while !is_so(self.outbox(None).await) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!("the outbox is not {what}: {:?}\n{}", self.outbox(None).await, self.describe_outbox().await);
        }
    }

    /// Waits until nothing waits and nothing is being sent.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn until_told(&self) {
        self.until_outbox("empty", |outbox| outbox.waiting + outbox.sending == 0).await;
    }

    /// The recorded attempts of a delivery, in order.
    ///
    /// # Panics
    /// When Postgres does not answer.
    pub async fn recorded(&self, delivery: DeliveryId) -> Vec<Recorded> {
        let rows = sqlx::query(
            "SELECT attempt, extract(epoch FROM at)::float8, latency / 1e6::float8, status, error, message, answer
             FROM delivery_attempts WHERE prediction_id = $1 AND event = $2 ORDER BY attempt",
        );
        let rows = rows.bind(delivery.prediction.0).bind(delivery.event.code()).fetch_all(&self.database).await;
        let recorded = rows.expect("Postgres answers");
        recorded
            .iter()
            .map(|row| Recorded {
                number: row.get(0),
                at: row.get(1),
                seconds: row.get(2),
                status: row.get(3),
                error: row.get(4),
                message: row.get(5),
                answer: row.get(6),
            })
            .collect()
    }

    /// When a delivery is due, by the database's clock.
    ///
    /// # Panics
    /// When there is none.
    pub async fn due_at(&self, delivery: DeliveryId) -> f64 {
        let row = sqlx::query(
            "SELECT extract(epoch FROM due_at)::float8 FROM deliveries WHERE prediction_id = $1 AND event = $2",
        );
        let row = row.bind(delivery.prediction.0).bind(delivery.event.code()).fetch_one(&self.database).await;
        row.expect("the delivery is there").get(0)
    }

    /// The latest time at which something waits for its attempt or a lease ends; none when all is over.
    ///
    /// # Panics
    /// When Postgres does not answer.
    pub async fn last_due(&self) -> Option<f64> {
        let row = sqlx::query(
            "SELECT extract(epoch FROM max(greatest(due_at, lease_until)))::float8 FROM deliveries WHERE status < 2",
        );
        row.fetch_one(&self.database).await.expect("Postgres answers").get(0)
    }

    /// How many deliveries wait and are due.
    ///
    /// # Panics
    /// When Postgres does not answer.
    pub async fn due_now(&self) -> i64 {
        let row = sqlx::query("SELECT count(*) FROM deliveries WHERE status = 0 AND due_at <= to_timestamp($1)");
        row.bind(self.now().await).fetch_one(&self.database).await.expect("Postgres answers").get(0)
    }

    /// When each prediction ended, in seconds since 1970.
    ///
    /// # Panics
    /// When Postgres does not answer.
    pub async fn completed_at(&self) -> BTreeMap<String, f64> {
        let rows =
            sqlx::query("SELECT id::text, extract(epoch FROM completed_at)::float8 FROM predictions WHERE status >= 2");
        let rows = rows.fetch_all(&self.database).await.expect("Postgres answers");
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    /// Puts due deliveries into the outbox that no API has vetted: `count` tests to a URL, of the origin it is said to be of.
    ///
    /// # Panics
    /// When Postgres refuses them.
    pub async fn add_unvetted(&self, url: &str, origin: &str, count: i32) -> Vec<Uuid> {
        let rows = sqlx::query(
            "INSERT INTO deliveries (prediction_id, created_at, due_at, begun_at, event, tenant, url, endpoint, origin)
             SELECT gen_random_uuid(), now.at, now.at, now.at, 0, $4, $1, $1, $2
             FROM (SELECT clock_timestamp() - interval '1 second' AS at) now, generate_series(1, $3)
             RETURNING prediction_id",
        );
        let rows = rows.bind(url).bind(origin).bind(count).bind(TENANT).fetch_all(&self.database).await;
        rows.expect("the schema takes any text").iter().map(|row| row.get(0)).collect()
    }

    /// The database's clock as the programs see it, in seconds since 1970.
    ///
    /// # Panics
    /// When Postgres does not answer.
    pub async fn now(&self) -> f64 {
        let query = if self.has_fake_clock {
            "SELECT extract(epoch FROM fake.clock_timestamp())::float8"
        } else {
            "SELECT extract(epoch FROM clock_timestamp())::float8"
        };
        sqlx::query(query).fetch_one(&self.database).await.expect("Postgres answers").get(0)
    }

    /// Moves the database's clock on by so many seconds, for the programs.
    ///
    /// # Panics
    /// When it is not a fake one.
    pub async fn advance(&self, seconds: f64) {
        let moved = sqlx::query("UPDATE fake.clock SET ahead = ahead + make_interval(secs => $1)").bind(seconds);
        moved.execute(&self.database).await.expect("the plan has a fake clock");
    }

    /// Makes a second of the database's clock, for the programs, last so many seconds from now on.
    ///
    /// # Panics
    /// When it is not a fake one.
    pub async fn slow_clock(&self, times: f64) {
        let slowed =
            sqlx::query("UPDATE fake.clock SET since = pg_catalog.clock_timestamp(), slowness = $1").bind(times);
        slowed.execute(&self.database).await.expect("the plan has a fake clock");
    }

    async fn describe_outbox(&self) -> String {
        let rows = sqlx::query("SELECT to_jsonb(d)::text FROM deliveries d WHERE status < 2 ORDER BY due_at LIMIT 5");
        let rows = rows.fetch_all(&self.database).await.expect("Postgres answers");
        rows.iter().map(|row| row.get::<String, _>(0)).collect::<Vec<_>>().join("\n")
    }
}

/// Whose the predictions are: requests need no key.
const TENANT: &str = "";

/// A clock that goes `ahead` of the real one, and `slowness` times as slow `since` some moment. Postgres takes this function for
/// its own where `pg_catalog` comes last.
const CLOCK: &str = "
    CREATE SCHEMA fake;
    CREATE TABLE fake.clock (ahead interval NOT NULL, since timestamptz NOT NULL, slowness float8 NOT NULL);
    INSERT INTO fake.clock VALUES (interval '0', pg_catalog.clock_timestamp(), 1);
    CREATE FUNCTION fake.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
    RETURN (SELECT since + (pg_catalog.clock_timestamp() - since) / slowness + ahead FROM fake.clock);
";

/// Gives the database a clock that [`Cluster::advance`] moves, and returns the address at which programs see it.
pub(crate) async fn install_clock(database: &PgPool, url: &str) -> String {
    raw_sql(AssertSqlSafe(CLOCK)).execute(database).await.expect("the clock fits the schema");
    format!("{url}?options=-c%20search_path%3Dfake,public,pg_catalog")
}
