//! Claiming and renewing: one holder each, fair order, leases.

use std::{collections::HashSet, time::Duration};

use prediction::{Failure, FailureCode, PredictionId, Priority, Status, WorkerId};
use sqlx::{Connection as _, PgConnection};
use store::{Location, NewPrediction, Outcome, Renewed, Run, RunMetrics, Written, renewed_for};

use crate::fixture::{Fixture, LEASE, SPENT, SWEEP, eventually, json, new, serves};

on_both!(
    a_claim_hands_over_all_that_a_run_needs,
    what_does_not_wait_is_not_claimed,
    concurrent_claims_never_share,
    the_next_are_claimed_in_fair_order,
    suspects_are_named_and_run_alone,
    renewing_keeps_what_is_held,
    renewing_writes_what_has_little_left,
    an_input_that_cannot_be_read_spoils_no_other,
);

async fn a_claim_hands_over_all_that_a_run_needs(fixture: Fixture) {
    let sent = NewPrediction {
        input: json(r#"{"value": 1}"#),
        deadline: Some(Duration::from_secs(3600)),
        max_retries: 5,
        ..new()
    };
    fixture.accept([sent.clone()]).await;
    let claim = fixture.store.claim(fixture.worker, &[sent.id], LEASE).await.unwrap();
    let [claimed] = &claim.claimed[..] else { panic!("{claim:?}") };
    assert_eq!((claimed.run.id, claimed.run.epoch), (sent.id, 1));
    assert_eq!((&claimed.model, &claimed.version), (&sent.model, &sent.version));
    assert_eq!((claimed.input.as_ref().unwrap().get(), claimed.retries, claimed.max_retries), (sent.input.get(), 0, 5));
    let left = claimed.deadline_in.unwrap();
    assert!(left <= Duration::from_secs(3600) && left > Duration::from_secs(1800), "{left:?}");
    let found = fixture.store.get("", &[sent.id]).await.unwrap().remove(0);
    assert_eq!((found.status, found.attempt), (Status::Processing, 1));
    assert!(found.started_at.is_some() && found.metrics.queue_time.is_some());
}

async fn an_input_that_cannot_be_read_spoils_no_other(fixture: Fixture) {
    let no_text = if fixture.store.is_shared() { "'no'" } else { "CAST(x'ff' AS TEXT)" };
    for spoilt in ["'no'", "'{\"value\": 1'", "''", no_text] {
        let ids = fixture.accept([new(), new(), new()]).await;
        let statement = format!("UPDATE inputs SET input = {spoilt} WHERE prediction_id = {}", fixture.id(ids[1]));
        assert_eq!(fixture.execute(statement).await.unwrap(), 1);
        let claim = match spoilt {
            "''" => fixture.store.claim_next(fixture.worker, &serves(), &[], 10, LEASE).await,
            _ => fixture.store.claim(fixture.worker, &ids, LEASE).await,
        };
        let claimed = claim.unwrap().claimed;
        let read = |id| claimed.iter().find(|claimed| claimed.run.id == id).map(|claimed| claimed.input.is_some());
        assert_eq!([read(ids[0]), read(ids[1]), read(ids[2])], [Some(true), Some(false), Some(true)], "{spoilt}");
        let run = claimed.iter().find(|claimed| claimed.run.id == ids[1]).unwrap().run;
        let (failure, metrics) = (Failure::new(FailureCode::Internal, "no"), RunMetrics::default());
        let outcome = Outcome::Failed { run, failure, metrics };
        assert_eq!(fixture.store.complete(fixture.worker, [outcome]).await.unwrap(), [Written::Applied]);
        let found = fixture.store.get("", &ids[1..2]).await.unwrap().remove(0);
        assert!(found.status == Status::Failed && found.input.is_none() && found.data_removed, "{spoilt}: {found:?}");
    }
}

async fn what_does_not_wait_is_not_claimed(fixture: Fixture) {
    let held = fixture.claimed(LEASE).await;
    let paused = fixture.claimed(LEASE).await;
    fixture.store.complete(fixture.worker, vec![Outcome::Retry { run: paused, delay: LEASE }]).await.unwrap();
    let late = fixture.accept([NewPrediction { deadline: Some(Duration::ZERO), ..new() }]).await[0];
    let canceled = fixture.accept([new()]).await[0];
    fixture.store.cancel("", canceled).await.unwrap();
    let ids = [held.id, paused.id, late, canceled, PredictionId::generate()];
    let claim = fixture.store.claim(fixture.worker, &ids, LEASE).await.unwrap();
    assert!(claim.claimed.is_empty() && claim.suspects.is_empty(), "{claim:?}");
    let claim = fixture.store.claim_next(fixture.worker, &serves(), &[], 10, LEASE).await.unwrap();
    assert!(claim.claimed.is_empty(), "{claim:?}");
    assert!(fixture.store.claim(fixture.worker, &[], LEASE).await.unwrap().claimed.is_empty());
}

async fn concurrent_claims_never_share(fixture: Fixture) {
    let ids = fixture.accept((0..200).map(|_| new())).await;
    let claimers = (0..8).map(|claimer| {
        let (store, ids) = (fixture.store.clone(), ids.clone());
        tokio::spawn(async move {
            let worker = WorkerId::generate();
            let mut claimed: Vec<Run> = Vec::new();
            loop {
                let claim = if claimer % 2 == 0 {
                    store.claim(worker, &ids, LEASE).await.unwrap()
                } else {
                    store.claim_next(worker, &serves(), &[], 7, LEASE).await.unwrap()
                };
                claimed.extend(claim.claimed.iter().map(|claimed| claimed.run));
                if claim.claimed.is_empty() {
                    return claimed;
                }
            }
        })
    });
    let runs: Vec<Run> = futures::future::join_all(claimers).await.into_iter().flat_map(|runs| runs.unwrap()).collect();
    let distinct: HashSet<PredictionId> = runs.iter().map(|run| run.id).collect();
    assert_eq!((runs.len(), distinct.len()), (200, 200));
}

async fn the_next_are_claimed_in_fair_order(fixture: Fixture) {
    let mut expected = Vec::new();
    for priority in [Priority::Low, Priority::Normal, Priority::High] {
        let other = NewPrediction { priority, model: "other/model".parse().unwrap(), ..new() };
        let ids = fixture.accept([NewPrediction { priority, ..new() }]).await;
        // The clock of one database ticks in milliseconds.
        tokio::time::sleep(Duration::from_millis(2)).await;
        let others = fixture.accept([other]).await;
        expected.insert(0, [ids[0], others[0]]);
    }
    let expected = expected.concat();
    let mut serves = serves();
    serves.push(("other/model".parse().unwrap(), serves[0].1.clone()));
    let mut claimed = Vec::new();
    for _ in 0..2 {
        let claim = fixture.store.claim_next(fixture.worker, &serves, &[], 3, LEASE).await.unwrap();
        claimed.extend(claim.claimed.into_iter().map(|claimed| claimed.run.id));
    }
    assert_eq!(claimed, expected);
}

async fn suspects_are_named_and_run_alone(fixture: Fixture) {
    let run = fixture.claimed(SPENT).await;
    eventually(async || (fixture.store.sweep(SWEEP).await.unwrap().requeued == [run.id]).then_some(())).await;
    let innocent = fixture.accept([new()]).await[0];
    let worker = WorkerId::generate();
    let claim = fixture.store.claim(worker, &[run.id, innocent], LEASE).await.unwrap();
    assert_eq!(claim.claimed.iter().map(|claimed| claimed.run.id).collect::<Vec<_>>(), [innocent]);
    assert_eq!(claim.suspects, [run.id]);
    let claim = fixture.store.claim_next(worker, &serves(), &[], 10, LEASE).await.unwrap();
    assert!(claim.claimed.is_empty());
    assert_eq!(claim.suspects, [run.id]);
    assert!(fixture.store.claim_suspect(worker, &[], LEASE).await.unwrap().is_none());
    let alone = fixture.store.claim_suspect(worker, &serves(), LEASE).await.unwrap().unwrap();
    // Claimed, swept, claimed.
    assert_eq!(alone.run, Run { id: run.id, epoch: 3 });
    assert!(fixture.store.claim_suspect(worker, &serves(), LEASE).await.unwrap().is_none());
}

async fn renewing_writes_what_has_little_left(fixture: Fixture) {
    let ids = fixture.accept((0..3).map(|_| new())).await;
    let (hour, most, little) = (Duration::from_secs(3600), Duration::from_secs(3300), Duration::from_secs(3100));
    assert_eq!(renewed_for(hour), Duration::from_secs(3240));
    let mut runs = Vec::new();
    for (id, lease) in ids.iter().zip([hour, most, little]) {
        runs.extend(fixture.store.claim(fixture.worker, &[*id], lease).await.unwrap().claimed.iter().map(|c| c.run));
    }
    let left = async || {
        let mut left = Vec::new();
        for PredictionId(id) in &ids {
            left.push(match fixture.location {
                Location::Sqlite { .. } => {
                    fixture.number(format!("SELECT lease_until FROM predictions WHERE id = x'{}'", id.simple())).await
                }
                Location::Postgres { .. } => {
                    let micros = "(extract(epoch FROM lease_until) * 1000000)::bigint";
                    fixture.number(format!("SELECT {micros} FROM predictions WHERE id = '{id}'")).await
                }
            });
        }
        left
    };
    let before = left().await;
    assert_eq!(fixture.store.renew(fixture.worker, &runs, hour).await.unwrap(), Renewed::default());
    let after = left().await;
    assert_eq!(after[..2], before[..2], "these are held for long enough");
    let longer = i64::try_from((hour - little).as_micros()).unwrap();
    assert!(after[2] >= before[2] + longer, "{before:?} {after:?}");
}

async fn renewing_keeps_what_is_held(fixture: Fixture) {
    let worker = WorkerId::generate();
    let ids = fixture.accept((0..4).map(|_| new())).await;
    let claim = fixture.store.claim(worker, &ids, SPENT).await.unwrap();
    let mut runs: Vec<Run> = claim.claimed.iter().map(|claimed| claimed.run).collect();
    fixture.store.cancel("", runs[1].id).await.unwrap();
    runs[2].epoch += 1;
    let mut lost = fixture.store.renew(worker, &runs, LEASE).await.unwrap().lost;
    let mut expected = [runs[1].id, runs[2].id];
    lost.sort();
    expected.sort();
    assert_eq!(lost, expected);
    assert_eq!(fixture.store.renew(WorkerId::generate(), &runs[..1], LEASE).await.unwrap().lost, [runs[0].id]);
    assert!(fixture.store.renew(worker, &[], LEASE).await.unwrap().lost.is_empty());
    // Only the lease that was not renewed has run out.
    let swept =
        eventually(async || Some(fixture.store.sweep(SWEEP).await.unwrap()).filter(|swept| !swept.requeued.is_empty()));
    assert_eq!(swept.await.requeued, [runs[2].id]);
}

/// A statement of a connection that was given up goes on in the server.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_behind_one_that_was_given_up_loses_nothing() {
    let fixture = Fixture::postgres().await;
    let Location::Postgres { url, .. } = &fixture.location else { unreachable!("it is") };
    let ids = fixture.accept((0..3).map(|_| new())).await;
    let claim = fixture.store.claim(fixture.worker, &ids, SPENT).await.unwrap();
    let runs: Vec<Run> = claim.claimed.iter().map(|claimed| claimed.run).collect();
    let mut other = PgConnection::connect(url).await.unwrap();
    let mut held = other.begin().await.unwrap();
    let lock = "SELECT id FROM predictions WHERE id = $1 FOR UPDATE";
    sqlx::query(lock).bind(ids[0].0).execute(&mut *held).await.unwrap();
    let renew = async || {
        let dedicated = fixture.store.dedicated().await.unwrap();
        dedicated.renew(fixture.worker, &runs, LEASE).await.unwrap()
    };
    let waits = Duration::from_millis(300);
    assert!(tokio::time::timeout(waits, renew()).await.is_err(), "it waits for the lock");
    let free = async {
        tokio::time::sleep(waits).await;
        held.rollback().await.unwrap();
    };
    let (renewed, ()) = tokio::join!(renew(), free);
    assert_eq!(renewed, Renewed::default());
}
