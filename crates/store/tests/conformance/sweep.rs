//! Sweeping and purging: who is blamed for a lease that ran out, deadlines, and what is kept for how long.

use std::time::Duration;

use prediction::{FailureCode, Status, WorkerId};
use store::{Accepted, Location, NewPrediction, Outcome, RunMetrics, Sweep, Swept};

use crate::fixture::{Fixture, LEASE, SPENT, SWEEP, eventually, json, new};

on_both!(
    three_solo_crashes_are_poison,
    those_held_together_are_not_blamed,
    deadlines_end_what_waits_and_what_runs,
    leases_are_left_alone_when_they_cannot_be_trusted,
    expired_records_are_purged,
    keys_and_workers_are_purged,
);

/// Sweeps until something was swept: a lease must first be over.
async fn swept(fixture: &Fixture) -> Swept {
    eventually(async || Some(fixture.store.sweep(SWEEP).await.unwrap()).filter(|swept| *swept != Swept::default()))
        .await
}

async fn three_solo_crashes_are_poison(fixture: Fixture) {
    let id = fixture.claimed(SPENT).await.id;
    assert_eq!(swept(&fixture).await, Swept { requeued: vec![id], ended: vec![] });
    for crash in 1..=3 {
        assert_eq!(fixture.claim_suspect(SPENT).await.unwrap().run.id, id);
        let expected = if crash < 3 {
            Swept { requeued: vec![id], ended: vec![] }
        } else {
            Swept { requeued: vec![], ended: vec![id] }
        };
        assert_eq!(swept(&fixture).await, expected, "crash {crash}");
        assert_eq!(fixture.number("SELECT sum(crashes) FROM predictions").await, crash);
    }
    let found = fixture.store.get("", &[id]).await.unwrap().remove(0);
    assert_eq!((found.status, found.failure.unwrap().code), (Status::Failed, FailureCode::Poison));
    assert_eq!(found.attempt, 4);
    let counts = "SELECT count(*) FROM predictions WHERE epoch = 8 AND retries = 0 AND releases = 0";
    assert_eq!(fixture.number(counts).await, 1);
}

async fn those_held_together_are_not_blamed(fixture: Fixture) {
    let ids = fixture.accept((0..5).map(|_| new())).await;
    fixture.store.claim(fixture.worker, &ids, SPENT).await.unwrap();
    let mut requeued = Vec::new();
    eventually(async || {
        requeued.extend(fixture.store.sweep(SWEEP).await.unwrap().requeued);
        (requeued.len() == 5).then_some(())
    })
    .await;
    assert_eq!(fixture.number("SELECT count(*) FROM predictions WHERE crashes = 0 AND queued_at IS NULL").await, 5);
    // Each succeeds once it runs alone.
    while let Some(claimed) = fixture.claim_suspect(LEASE).await {
        let metrics = RunMetrics::default();
        let outcome = Outcome::Succeeded { run: claimed.run, output: json("1"), metrics };
        fixture.store.complete(fixture.worker, vec![outcome]).await.unwrap();
    }
    assert_eq!(fixture.store.finished(&ids).await.unwrap().len(), 5);
}

async fn deadlines_end_what_waits_and_what_runs(fixture: Fixture) {
    let soon = || NewPrediction { deadline: Some(Duration::from_millis(300)), ..new() };
    let mut ids = fixture.accept([soon(), soon()]).await;
    let unhurried = fixture.accept([NewPrediction { deadline: Some(LEASE), ..new() }]).await[0];
    let run = fixture.store.claim(fixture.worker, &ids[..1], LEASE).await.unwrap().claimed.first().map(|c| c.run);
    let mut ended = Vec::new();
    eventually(async || {
        ended.extend(fixture.store.sweep(Sweep { leases: false, ..SWEEP }).await.unwrap().ended);
        (ended.len() == 2).then_some(())
    })
    .await;
    ended.sort();
    ids.sort();
    assert_eq!(ended, ids);
    for found in fixture.store.get("", &ids).await.unwrap() {
        assert_eq!((found.status, found.failure.unwrap().code), (Status::Canceled, FailureCode::DeadlineExceeded));
    }
    if let Some(run) = run {
        assert_eq!(fixture.store.renew(WorkerId::generate(), &[run], LEASE).await.unwrap().lost, [run.id]);
    }
    assert!(fixture.store.finished(&[unhurried]).await.unwrap().is_empty());
}

async fn leases_are_left_alone_when_they_cannot_be_trusted(fixture: Fixture) {
    let run = fixture.claimed(SPENT).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(fixture.store.sweep(Sweep { leases: false, ..SWEEP }).await.unwrap(), Swept::default());
    if matches!(fixture.location, Location::Postgres { .. }) {
        // The server has not been up for one lease: its workers may not have had the time to renew.
        let long = Sweep { lease: Duration::from_secs(10 * 365 * 86_400), ..SWEEP };
        assert_eq!(fixture.store.sweep(long).await.unwrap(), Swept::default());
    }
    assert_eq!(swept(&fixture).await.requeued, [run.id]);
}

async fn expired_records_are_purged(fixture: Fixture) {
    let passing = || NewPrediction { retention: Duration::ZERO, ..new() };
    let ids = fixture.accept([passing(), passing(), new(), passing()]).await;
    for id in &ids[..3] {
        fixture.store.cancel("", *id).await.unwrap();
    }
    assert_eq!(fixture.store.purge(LEASE, 1).await.unwrap().predictions, 1);
    assert_eq!(fixture.store.purge(LEASE, 10).await.unwrap().predictions, 1);
    assert_eq!(fixture.store.purge(LEASE, 10).await.unwrap().predictions, 0);
    let kept = fixture.store.get("", &ids).await.unwrap();
    assert_eq!(kept.len(), 2, "one is kept longer, one is not finished");
    for (table, rows) in [("predictions", 2), ("inputs", 2), (fixture.outcomes(), 1)] {
        assert_eq!(fixture.number(format!("SELECT count(*) FROM {table}")).await, rows, "{table}");
    }
}

async fn keys_and_workers_are_purged(fixture: Fixture) {
    let keyed = || NewPrediction { idempotency_key: Some("key".into()), ..new() };
    let first = fixture.accept([keyed()]).await[0];
    fixture.store.purge(LEASE, 10).await.unwrap();
    assert_eq!(fixture.store.accept(vec![keyed()]).await.unwrap(), [Accepted::Replayed { id: first }]);
    let purged = fixture.store.purge(Duration::ZERO, 1).await.unwrap();
    assert_eq!((purged.keys, purged.is_full(1), purged.is_full(2)), (1, true, false));
    fixture.accept([keyed()]).await;

    let gone = WorkerId::generate();
    fixture.store.publish(gone, "host", &[], 5).await.unwrap();
    fixture.store.publish(WorkerId::generate(), "host", &[], 2).await.unwrap();
    let yesterday = match fixture.location {
        Location::Postgres { .. } => "seen_at - interval '25 hours'",
        Location::Sqlite { .. } => "seen_at - 90000000000",
    };
    fixture.execute(format!("UPDATE workers SET seen_at = {yesterday} WHERE stale = 5")).await.unwrap();
    fixture.store.purge(LEASE, 10).await.unwrap();
    assert_eq!(fixture.number("SELECT count(*) FROM workers").await, 1);
    assert_eq!(fixture.store.stale_completions().await.unwrap(), 7);
}
