//! What the database itself notes while a test runs: every claim, every ending, and every change to what was over. Only here
//! and in the outbox do the tests know the schema.

use std::collections::{BTreeMap, BTreeSet};

use prediction::Status;
use sqlx::{AssertSqlSafe, PgPool, Row, raw_sql};
use uuid::Uuid;

/// Triggers of the tests' own, beside those of the schema that refuse illegal changes: these trust nobody and note all.
const AUDIT: &str = "
    CREATE TABLE audit_changes (
        at timestamptz NOT NULL DEFAULT clock_timestamp(),
        id uuid NOT NULL, old_status smallint NOT NULL, new_status smallint NOT NULL, epoch integer NOT NULL, worker uuid
    );
    CREATE TABLE audit_outcomes (id uuid NOT NULL);
    CREATE TABLE audit_deletions (id uuid NOT NULL);

    CREATE FUNCTION audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO audit_changes (id, old_status, new_status, epoch, worker)
        VALUES (NEW.id, OLD.status, NEW.status, NEW.epoch, NEW.worker);
        RETURN NULL;
    END $$;
    CREATE FUNCTION audit_outcome() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO audit_outcomes VALUES (NEW.id);
        RETURN NULL;
    END $$;
    CREATE FUNCTION audit_deletion() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO audit_deletions VALUES (OLD.id);
        RETURN NULL;
    END $$;

    CREATE TRIGGER audit_change AFTER UPDATE ON predictions FOR EACH ROW
    WHEN (OLD.epoch <> NEW.epoch OR OLD.status <> NEW.status OR OLD.completed_at IS DISTINCT FROM NEW.completed_at)
    EXECUTE FUNCTION audit_change();
    CREATE TRIGGER audit_outcome AFTER UPDATE ON predictions FOR EACH ROW
    WHEN ((OLD.output, OLD.code, OLD.message, OLD.retryable, OLD.logs, OLD.predict_seconds, OLD.batch_size, OLD.tokens)
          IS DISTINCT FROM
          (NEW.output, NEW.code, NEW.message, NEW.retryable, NEW.logs, NEW.predict_seconds, NEW.batch_size, NEW.tokens))
    EXECUTE FUNCTION audit_outcome();
    CREATE TRIGGER audit_deletion AFTER DELETE ON predictions FOR EACH ROW EXECUTE FUNCTION audit_deletion();
";

/// Begins to note.
pub(crate) async fn install(database: &PgPool) {
    raw_sql(AUDIT).execute(database).await.expect("the audit fits the schema");
}

/// Changes the database behind everybody's back.
pub(crate) async fn tamper(database: &PgPool, statements: &'static str) {
    raw_sql(statements).execute(database).await.expect("the statements are sound");
}

/// Who has announced itself as a worker.
pub(crate) async fn workers(database: &PgPool) -> BTreeSet<Uuid> {
    let rows = sqlx::query("SELECT id FROM workers").fetch_all(database).await.expect("Postgres answers");
    rows.iter().map(|row| row.get(0)).collect()
}

/// How many of these are stored.
pub(crate) async fn stored(database: &PgPool, ids: &[Uuid]) -> usize {
    let stored = sqlx::query_scalar("SELECT id FROM predictions WHERE id = ANY($1)").bind(ids).fetch_all(database);
    let stored: Vec<Uuid> = stored.await.expect("Postgres answers");
    stored.len()
}

/// How many predictions are not terminal.
pub(crate) async fn unfinished(database: &PgPool) -> i64 {
    count(database, "SELECT count(*) FROM predictions WHERE status < 2").await
}

/// The predictions that are not terminal, for people.
pub(crate) async fn describe_unfinished(database: &PgPool) -> String {
    let rows = sqlx::query("SELECT to_jsonb(p)::text FROM predictions p WHERE status < 2 ORDER BY id LIMIT 10");
    let rows = rows.fetch_all(database).await.expect("Postgres answers");
    rows.iter().map(|row| row.get::<String, _>(0)).collect::<Vec<_>>().join("\n")
}

/// How many predictions were charged for what happened to their workers.
pub(crate) async fn charged(database: &PgPool) -> i64 {
    count(database, "SELECT count(*) FROM predictions WHERE suspect OR crashes > 0 OR retries > 0").await
}

/// The status of every stored prediction.
pub(crate) async fn statuses(database: &PgPool) -> BTreeMap<Uuid, Status> {
    let rows = sqlx::query("SELECT id, status FROM predictions").fetch_all(database).await.expect("Postgres answers");
    let status = |code| Status::from_code(code).expect("the schema allows no other status");
    rows.iter().map(|row| (row.get(0), status(row.get(1)))).collect()
}

/// The predictions that this worker holds.
pub(crate) async fn held_by(database: &PgPool, worker: Uuid) -> Vec<Uuid> {
    let rows = sqlx::query("SELECT id FROM predictions WHERE status = 1 AND worker = $1").bind(worker);
    let rows = rows.fetch_all(database).await.expect("Postgres answers");
    rows.iter().map(|row| row.get(0)).collect()
}

/// The database's clock, in seconds.
pub(crate) async fn now(database: &PgPool) -> f64 {
    let row = sqlx::query("SELECT extract(epoch FROM clock_timestamp())::float8").fetch_one(database).await;
    row.expect("Postgres answers").get(0)
}

/// The seconds from `moment` until each of these was claimed by another than `worker`; those that were not are left out.
pub(crate) async fn seconds_until_claimed(database: &PgPool, ids: &[Uuid], worker: Uuid, moment: f64) -> Vec<f64> {
    let rows = sqlx::query(
        "SELECT extract(epoch FROM min(at))::float8 - $2 FROM audit_changes
         WHERE id = ANY ($1) AND new_status = 1 AND worker <> $3 AND at > to_timestamp($2) GROUP BY id",
    );
    let rows = rows.bind(ids).bind(moment).bind(worker).fetch_all(database).await.expect("Postgres answers");
    rows.iter().map(|row| row.get(0)).collect()
}

/// How many predictions each worker has finished.
pub(crate) async fn finished_by(database: &PgPool) -> BTreeMap<Uuid, i64> {
    // The ending clears the worker; the claim before it, of the same epoch, names it.
    let rows = sqlx::query(
        "SELECT claim.worker, count(*) FROM audit_changes ending
         JOIN audit_changes claim ON claim.id = ending.id AND claim.epoch = ending.epoch AND claim.new_status = 1
         WHERE ending.new_status IN (2, 3) GROUP BY 1",
    );
    let rows = rows.fetch_all(database).await.expect("Postgres answers");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// What the audit found wrong, and how much ran more than once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Findings {
    /// Claims after the first one of each prediction.
    pub(crate) reruns: i64,
    /// Changes of predictions that were terminal.
    pub(crate) changed_terminal: i64,
    /// Predictions that did not become terminal exactly once.
    pub(crate) not_ended_once: i64,
    /// Predictions without exactly one outcome, now or ever.
    pub(crate) not_one_outcome: i64,
    /// Predictions deleted.
    pub(crate) deleted: i64,
}

/// Reads the audit.
pub(crate) async fn findings(database: &PgPool) -> Findings {
    Findings {
        reruns: count(
            database,
            "SELECT (count(*) - count(DISTINCT id)) FROM audit_changes WHERE new_status = 1 AND old_status = 0",
        )
        .await,
        changed_terminal: count(database, "SELECT count(*) FROM audit_changes WHERE old_status >= 2").await,
        not_ended_once: count(
            database,
            "SELECT count(*) FROM predictions p WHERE 1 <>
             (SELECT count(*) FROM audit_changes a WHERE a.id = p.id AND a.old_status < 2 AND a.new_status >= 2)",
        )
        .await,
        not_one_outcome: count(
            database,
            "SELECT count(*) FROM predictions p WHERE num_nonnulls(output, code) <> 1
             OR 1 <> (SELECT count(*) FROM audit_outcomes a WHERE a.id = p.id)",
        )
        .await,
        deleted: count(database, "SELECT count(*) FROM audit_deletions").await,
    }
}

async fn count(database: &PgPool, query: &'static str) -> i64 {
    sqlx::query(AssertSqlSafe(query)).fetch_one(database).await.expect("Postgres answers").get(0)
}
