//! Filling a store by SQL with what a long life would have left there, many rows at once.

use sqlx::{PgConnection, Row};

use crate::numbers::number;

/// Rows of one statement.
const CHUNK: usize = 200_000;

/// Predictions accepted one every 20 ms, the last one just now: ids that grow in time as ours do, values, and their inputs.
/// $1 from, $2 until, $3 in all.
macro_rules! rows {
    () => {
        "WITH echo AS MATERIALIZED (SELECT id AS version_id FROM versions WHERE model = 'augur/echo'),
         moments AS (
             SELECT n, now() - ($3 - n) * interval '20 ms' AS at
             FROM generate_series($1::bigint, $2::bigint - 1) AS n
         ),
         fresh AS MATERIALIZED (
             SELECT at, to_jsonb('what the service is to answer with, number ' || lpad(n::text, 9, '0'))::text AS value,
                 (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7'
                     || substr(md5(n::text), 1, 3) || '8' || lpad(to_hex(n), 15, '0'))::uuid AS id
             FROM moments
         ),
         payloads AS (
             INSERT INTO inputs (prediction_id, tenant, created_at, input, fingerprint)
             SELECT id, '', at, '{\"sleep_ms\":200,\"value\":' || value || '}', sha256(value::bytea) FROM fresh ORDER BY id
         )"
    };
}

const FINISHED: &str = concat!(
    rows!(),
    "INSERT INTO predictions
        (id, tenant, version_id, priority, max_retries, retention, created_at, not_before, queued_at, claimed_at, started_at,
         completed_at, expires_at, epoch, attempts, status, output, predict_seconds, batch_size)
    SELECT id, '', version_id, 0, 3, interval '7 days', at, at, at, at + interval '2 ms', at + interval '2 ms',
           at + interval '202 ms', at + interval '202 ms 7 days', 1, 1, 2, value, 0.2, 1
    FROM fresh CROSS JOIN echo
    ORDER BY id"
);

const WAITING: &str = concat!(
    rows!(),
    "INSERT INTO predictions (id, tenant, version_id, priority, max_retries, retention, created_at, not_before)
    SELECT id, '', version_id, 0, 3, interval '7 days', at, at FROM fresh CROSS JOIN echo
    ORDER BY id"
);

/// From everywhere, in no order.
const SAMPLE: &str = "SELECT id::text FROM predictions TABLESAMPLE BERNOULLI ($1) ORDER BY random() LIMIT $2";

/// Fills the store with predictions that have succeeded.
pub(crate) async fn finished(database: &mut PgConnection, count: usize) {
    fill(database, FINISHED, count).await;
}

/// Fills the store with predictions that wait, without tickets, and take 200 ms each.
pub(crate) async fn waiting(database: &mut PgConnection, count: usize) {
    fill(database, WAITING, count).await;
}

/// The ids of so many of the predictions, of which there are `count`, or of all.
pub(crate) async fn some(database: &mut PgConnection, count: usize, wanted: usize) -> Vec<String> {
    let percent = (number(2 * wanted) / number(count) * 100.0).min(100.0);
    let sample = sqlx::query(SAMPLE).bind(percent).bind(bigint(wanted)).fetch_all(database).await;
    sample.expect("the schema is ours").iter().map(|row| row.get(0)).collect()
}

async fn fill(database: &mut PgConnection, insert: &'static str, count: usize) {
    // The rules of how predictions change would refuse rows that are over from the beginning.
    execute(database, "ALTER TABLE predictions DISABLE TRIGGER predictions_begin").await;
    for from in (0..count).step_by(CHUNK) {
        let rows = sqlx::query(insert).bind(bigint(from)).bind(bigint(count.min(from + CHUNK))).bind(bigint(count));
        rows.execute(&mut *database).await.expect("the schema is ours");
    }
    execute(database, "ALTER TABLE predictions ENABLE TRIGGER predictions_begin").await;
    for table in ["VACUUM ANALYZE predictions", "VACUUM ANALYZE inputs", "CHECKPOINT"] {
        execute(database, table).await;
    }
}

fn bigint(count: usize) -> i64 {
    i64::try_from(count).expect("few enough")
}

async fn execute(database: &mut PgConnection, statement: &'static str) {
    sqlx::query(statement).execute(database).await.expect("the schema is ours");
}
