//! Opening, migrating, and what happens when the database is not as expected.

use prediction::{FailureCode, PredictionId, Status};
use sqlx::{Connection, PgConnection, migrate::Migrator, types::Uuid};
use store::{Location, Schema, Store, StoreError};

use crate::fixture::{Fixture, LEASE, new};

on_both!(a_fresh_database_is_behind_until_migrated, a_newer_schema_is_recognised, a_dedicated_handle_sees_the_same);

/// An empty database like the fixture's, and what must live as long as it is used.
async fn fresh(fixture: &Fixture) -> (Location, Option<tempfile::TempDir>) {
    match &fixture.location {
        Location::Postgres { .. } => (Location::Postgres { url: servers::database().await, max_connections: 4 }, None),
        Location::Sqlite { .. } => {
            let directory = tempfile::tempdir().unwrap();
            (Location::Sqlite { path: directory.path().join("new/augur.sqlite") }, Some(directory))
        }
    }
}

async fn a_fresh_database_is_behind_until_migrated(fixture: Fixture) {
    let (location, _directory) = fresh(&fixture).await;
    let store = Store::open(&location).await.unwrap();
    store.ping().await.unwrap();
    assert_eq!(store.schema().await.unwrap(), Schema::Behind);
    let error = store.accept(vec![new()]).await.unwrap_err();
    assert!(matches!(error, StoreError::Schema | StoreError::Refused(_)), "{error}");
    let (one, two) = tokio::join!(store.migrate(), store.migrate());
    one.unwrap();
    two.unwrap();
    assert_eq!(store.schema().await.unwrap(), Schema::Current);
    store.accept(vec![new()]).await.unwrap();
    store.close().await;
    assert!(matches!(store.ping().await, Err(StoreError::Unavailable(_))));
}

async fn a_newer_schema_is_recognised(fixture: Fixture) {
    assert_eq!(fixture.store.schema().await.unwrap(), Schema::Current);
    fixture
        .execute(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             SELECT 9999, 'from the future', success, checksum, 0 FROM _sqlx_migrations WHERE version = 1",
        )
        .await
        .unwrap();
    assert_eq!(fixture.store.schema().await.unwrap(), Schema::Ahead);
    assert!(matches!(fixture.store.migrate().await, Err(StoreError::Schema)));
}

async fn a_dedicated_handle_sees_the_same(fixture: Fixture) {
    let run = fixture.claimed(LEASE).await;
    let dedicated = fixture.store.dedicated().await.unwrap();
    assert_eq!(dedicated.get("", &[run.id]).await.unwrap().len(), 1);
    assert_eq!(dedicated.is_shared(), matches!(fixture.location, Location::Postgres { .. }));
}

#[tokio::test]
async fn a_sqlite_file_has_one_user() {
    let fixture = Fixture::sqlite().await;
    assert!(matches!(Store::open(&fixture.location).await, Err(StoreError::Locked)));
    let ids = fixture.accept([new()]).await;
    fixture.store.close().await;
    let second = Store::open(&fixture.location).await.unwrap();
    assert_eq!(second.get("", &ids).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_absent_server_is_unavailable() {
    let url = format!("postgres://nobody@127.0.0.1:{}/none", servers::free_port());
    let opened = Store::open(&Location::Postgres { url, max_connections: 2 }).await;
    assert!(matches!(opened, Err(StoreError::Unavailable(_))));
    let opened = Store::open(&Location::Postgres { url: "not a URL".to_owned(), max_connections: 2 }).await;
    assert!(matches!(opened, Err(StoreError::Unavailable(_))));
}

/// Connections die under the store and it goes on, whatever it was doing.
#[tokio::test]
async fn terminated_connections_are_replaced() {
    let fixture = Fixture::postgres().await;
    let id = fixture.accept([new()]).await[0];
    fixture
        .execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .await
        .unwrap();
    let found = crate::fixture::eventually(async || fixture.store.get("", &[id]).await.ok()).await;
    assert_eq!(found.len(), 1);
}

/// What was there before migration 0010, which moves outcomes from a table of their own into the rows of their predictions: one that
/// succeeded, one that failed, one that was canceled while it waited, one that waits, one that runs.
const BEFORE_OUTCOMES: &str = r#"
    INSERT INTO versions (model, version) VALUES ('augur/echo', repeat('0123456789abcdef', 4));
    INSERT INTO predictions (id, tenant, version_id, priority, max_retries, retention, created_at, not_before)
    SELECT lpad(n::text, 32, '0')::uuid, '', 1, 0, 3, interval '1 day', now(), now() FROM generate_series(1, 5) AS n;
    INSERT INTO inputs (prediction_id, tenant, created_at, input, fingerprint)
    SELECT id, '', created_at, '{"value": 1}', sha256('') FROM predictions;
    UPDATE predictions SET status = 1, epoch = 1, attempts = 1, claimed_at = now(), started_at = now(), lease_until = now(),
        worker = id
    WHERE right(id::text, 1) IN ('1', '2', '5');
    UPDATE predictions SET status = right(id::text, 1)::smallint + 1, epoch = epoch + 1, lease_until = NULL, worker = NULL,
        completed_at = now(), expires_at = now() + retention
    WHERE right(id::text, 1) IN ('1', '2', '3');
    INSERT INTO outputs (prediction_id, output, code, message, retryable, logs, predict_seconds, batch_size, tokens)
    SELECT id, outcome.*
    FROM predictions
    JOIN (VALUES ('{"label":  3}', NULL, NULL, NULL::boolean, 'a line', 0.25, 4, 12),
                 (NULL, 'model_error', 'it broke', true, '', 0.5, 1, NULL),
                 (NULL, 'canceled', 'it was canceled', false, '', NULL, NULL, NULL))
        AS outcome (output, code, message, retryable, logs, predict_seconds, batch_size, tokens)
        ON CASE status WHEN 2 THEN output IS NOT NULL WHEN 3 THEN code = 'model_error' WHEN 4 THEN code = 'canceled' END;
"#;

/// A store whose next migration is 0010, with what these statements leave there.
async fn before_outcomes(statements: &[&'static str]) -> Store {
    static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/postgres");
    let url = servers::database().await;
    let mut database = PgConnection::connect(&url).await.unwrap();
    MIGRATIONS.run_to(9, &mut database).await.unwrap();
    for statements in statements {
        sqlx::raw_sql(*statements).execute(&mut database).await.unwrap();
    }
    Store::open(&Location::Postgres { url, max_connections: 1 }).await.unwrap()
}

#[tokio::test]
async fn outcomes_that_were_stored_apart_are_kept() {
    let store = before_outcomes(&[BEFORE_OUTCOMES]).await;
    store.migrate().await.unwrap();
    let found = async |number: u128| {
        let found = store.get("", &[PredictionId(Uuid::from_u128(number))]).await.unwrap().pop().unwrap();
        let output = found.output.map(|output| output.get().to_owned());
        let failure = found.failure.map(|failure| (failure.code, failure.message, failure.retryable));
        let metrics = (found.metrics.predict_time, found.metrics.batch_size, found.metrics.tokens);
        (found.status, output, failure, found.logs, metrics)
    };
    let none = (None, None, None);
    assert_eq!(
        found(1).await,
        (Status::Succeeded, Some(r#"{"label":  3}"#.into()), None, "a line".into(), (Some(0.25), Some(4), Some(12)))
    );
    let broke = (FailureCode::ModelError, "it broke".to_owned(), true);
    assert_eq!(found(2).await, (Status::Failed, None, Some(broke), String::new(), (Some(0.5), Some(1), None)));
    let canceled = (FailureCode::Canceled, "it was canceled".to_owned(), false);
    assert_eq!(found(3).await, (Status::Canceled, None, Some(canceled), String::new(), none));
    assert_eq!(found(4).await, (Status::Starting, None, None, String::new(), none));
    assert_eq!(found(5).await, (Status::Processing, None, None, String::new(), none));
}

#[tokio::test]
async fn what_is_over_without_an_outcome_is_named_and_nothing_is_moved() {
    let damage = "DELETE FROM outputs WHERE code = 'model_error'";
    let store = before_outcomes(&[BEFORE_OUTCOMES, damage]).await;
    let error = store.migrate().await.unwrap_err().to_string();
    assert!(error.contains("00000000-0000-0000-0000-000000000002") && !error.contains("000000000003"), "{error}");
    assert_eq!(store.schema().await.unwrap(), Schema::Behind);
}
