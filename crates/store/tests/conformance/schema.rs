//! Opening, migrating, and what happens when the database is not as expected.

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
