//! How Postgres finds rows: by their ids, whatever it remembers of how many there were; and on how many connections.

use prediction::{PredictionId, WorkerId};
use store::{Location, Outcome, RunMetrics, Store};

use crate::fixture::{Fixture, LEASE, SPENT, SWEEP, eventually, json, new, open};

const MANY: usize = 3_000;
const BATCH: usize = 10;
const SESSIONS: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'augur'";

/// Plans are made once in a session. Those made while the table was known to be empty must do for a full one.
#[tokio::test]
async fn no_batch_reads_the_whole_table() {
    let fixture = Fixture::postgres().await;
    fixture.execute("VACUUM ANALYZE predictions").await.unwrap();
    let store = one_connection(&fixture).await;
    let planned = accept(&store, 1).await;
    work(&store, &planned).await;
    let ids = accept(&store, MANY).await;
    for batch in ids.chunks(BATCH).take(3) {
        work(&store, batch).await;
    }
    // A backend tells of all its reading when it ends. The other one is the fixture's.
    store.close().await;
    eventually(async || (fixture.number(SESSIONS).await == 1).then_some(())).await;
    let read = read(&fixture).await;
    let changed = 3 * BATCH as i64;
    assert!((changed..MANY as i64).contains(&read), "{read} rows and entries were read to change {changed} rows");
}

/// One after the other, calls use one connection, which has in its caches what they need.
#[tokio::test]
async fn calls_in_turn_share_a_connection() {
    let fixture = Fixture::postgres().await;
    migrated(&fixture).await;
    for _ in 0..20 {
        let ids = accept(&fixture.store, 1).await;
        work(&fixture.store, &ids).await;
    }
    assert_eq!(fixture.number(SESSIONS).await, 1);
}

/// What is killed while idle is not lent again, but replaced.
#[tokio::test]
async fn connections_that_died_while_idle_are_replaced() {
    let fixture = Fixture::postgres().await;
    let ids = accept(&fixture.store, 1).await;
    migrated(&fixture).await;
    const KILL: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'augur'";
    assert_eq!(fixture.number(KILL).await, 1);
    eventually(async || fixture.store.get("", &ids).await.ok()).await;
    work(&fixture.store, &ids).await;
}

/// Waits until the session that migrated is gone.
async fn migrated(fixture: &Fixture) {
    eventually(async || (fixture.number(SESSIONS).await == 1).then_some(())).await;
}

async fn one_connection(fixture: &Fixture) -> Store {
    let Location::Postgres { url, .. } = &fixture.location else { unreachable!("only Postgres plans") };
    open(&Location::Postgres { url: url.clone(), max_connections: 1 }).await
}

async fn accept(store: &Store, count: usize) -> Vec<PredictionId> {
    let batch: Vec<_> = (0..count).map(|_| new()).collect();
    let ids = batch.iter().map(|new| new.id).collect();
    store.accept(batch).await.unwrap();
    ids
}

/// Everything that is done by id: claim, renew and only look, wait again, claim once more, finish.
async fn work(store: &Store, ids: &[PredictionId]) {
    let worker = WorkerId::generate();
    let claimed = store.claim(worker, ids, SPENT).await.unwrap().claimed;
    let runs: Vec<_> = claimed.iter().map(|claimed| claimed.run).collect();
    for _ in ["extends", "looks"] {
        assert_eq!(store.renew(worker, &runs, LEASE).await.unwrap().lost, []);
    }
    let released: Vec<_> = runs.into_iter().map(|run| Outcome::Released { run }).collect();
    store.complete(worker, released).await.unwrap();
    store.mark_unqueued(ids).await.unwrap();
    store.sweep(SWEEP).await.unwrap();
    let claimed = store.claim(worker, ids, LEASE).await.unwrap().claimed;
    assert_eq!(claimed.len(), ids.len());
    let succeeded = |run| Outcome::Succeeded { run, output: json("1"), metrics: RunMetrics::default() };
    let outcomes: Vec<_> = claimed.into_iter().map(|claimed| succeeded(claimed.run)).collect();
    store.complete(worker, outcomes).await.unwrap();
}

/// Rows and entries of indexes of predictions that were read.
async fn read(fixture: &Fixture) -> i64 {
    const READ: &str = "
        SELECT (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = 'predictions')::bigint + seq_tup_read
        FROM pg_stat_user_tables WHERE relname = 'predictions'";
    fixture.number(READ).await
}
