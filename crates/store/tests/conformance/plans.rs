//! How Postgres finds rows: by their ids, whatever it remembers of how many there were; and on how many connections.

use prediction::{Event, PredictionId, WorkerId};
use store::{Location, Outcome, Room, Run, RunMetrics, Store};

use crate::fixture::{Fixture, LEASE, SPENT, SWEEP, eventually, json, new, open, told};

const MANY: usize = 3_000;
const BATCH: usize = 10;
/// What deliveries are made of.
const TOLD: [&str; 3] = ["deliveries", "predictions", "inputs"];
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
    let read = read(&fixture, "predictions").await;
    let changed = 3 * BATCH as i64;
    assert!((changed..MANY as i64).contains(&read), "{read} rows and entries were read to change {changed} rows");
}

/// The same for what is told: what a sender takes is found by its ids, and so are its payloads.
#[tokio::test]
async fn no_claim_of_deliveries_reads_a_whole_table() {
    let fixture = Fixture::postgres().await;
    for table in TOLD {
        fixture.execute(format!("VACUUM ANALYZE {table}")).await.unwrap();
    }
    let store = one_connection(&fixture).await;
    let send = async || {
        let room = Room::each(BATCH as u32);
        let claim = store.claim_deliveries(WorkerId::generate(), &room, None, BATCH as u32, LEASE).await.unwrap();
        claim.claimed.len()
    };
    end_and_tell(&fixture.store, 1).await;
    assert_eq!(send().await, 1, "this is when plans are made");
    end_and_tell(&fixture.store, MANY).await;
    fixture.store.close().await;
    eventually(async || (fixture.number(SESSIONS).await == 1).then_some(())).await;
    let mut before = Vec::new();
    for table in TOLD {
        before.push(read(&fixture, table).await);
    }
    for _ in 0..3 {
        assert_eq!(send().await, BATCH);
    }
    store.close().await;
    eventually(async || (fixture.number(SESSIONS).await == 0).then_some(())).await;
    for (table, before) in TOLD.into_iter().zip(before) {
        let read = read(&fixture, table).await - before;
        let taken = 3 * BATCH as i64;
        assert!((taken..MANY as i64).contains(&read), "{table}: {read} rows and entries were read to take {taken}");
    }
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
    let outcomes: Vec<_> = claimed.into_iter().map(|claimed| succeeded(claimed.run)).collect();
    store.complete(worker, outcomes).await.unwrap();
}

/// Stores so many predictions whose callers are told of their end, and ends them.
async fn end_and_tell(store: &Store, count: usize) {
    let worker = WorkerId::generate();
    let batch: Vec<_> = (0..count).map(|_| told(&[Event::Completed])).collect();
    let ids: Vec<PredictionId> = batch.iter().map(|new| new.id).collect();
    store.accept(batch).await.unwrap();
    for ids in ids.chunks(200) {
        let claimed = store.claim(worker, ids, LEASE).await.unwrap().claimed;
        let outcomes = claimed.into_iter().map(|claimed| succeeded(claimed.run));
        store.complete(worker, outcomes.collect::<Vec<_>>()).await.unwrap();
    }
}

fn succeeded(run: Run) -> Outcome {
    Outcome::Succeeded { run, output: json("1"), metrics: RunMetrics::default() }
}

/// Rows of a table and entries of its indexes that were read.
async fn read(fixture: &Fixture, table: &str) -> i64 {
    let read = format!(
        "SELECT (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = '{table}')::bigint + seq_tup_read
         FROM pg_stat_user_tables WHERE relname = '{table}'"
    );
    fixture.number(read).await
}
