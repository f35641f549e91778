//! What decides whether more may be accepted: what waits, what was finished when, and what was accepted before.

use prediction::{Failure, FailureCode, PredictionId};
use store::{Accepted, NewPrediction, Outcome, RunMetrics, VersionCount};

use crate::fixture::{Fixture, LEASE, json, model, new, version};

on_both!(
    what_waits_is_counted_up_to_a_bound,
    what_runs_end_is_counted_once,
    what_was_accepted_is_found_again_and_nothing_is_written,
);

/// The counts, sorted.
fn sorted(mut counts: Vec<VersionCount>) -> Vec<(String, u64)> {
    counts.sort_by(|one, other| one.model.cmp(&other.model));
    counts.into_iter().map(|line| (line.model.to_string(), line.count)).collect()
}

fn other() -> NewPrediction {
    NewPrediction { model: "augur/other".parse().unwrap(), ..new() }
}

async fn what_waits_is_counted_up_to_a_bound(fixture: Fixture) {
    let store = &fixture.store;
    assert!(store.waiting(10).await.unwrap().is_empty());
    let ids = fixture.accept((0..7).map(|_| new())).await;
    fixture.accept([other()]).await;
    let waiting = async |bound| sorted(store.waiting(bound).await.unwrap());
    let counts = |echo, other| [("augur/echo".to_owned(), echo), ("augur/other".to_owned(), other)];
    assert_eq!(waiting(10).await, counts(7, 1));
    assert_eq!(waiting(7).await, counts(7, 1));
    assert_eq!(waiting(3).await, counts(3, 1));
    let claim = store.claim(fixture.worker, &ids[..3], LEASE).await.unwrap();
    store.cancel("", ids[3]).await.unwrap();
    assert_eq!(waiting(10).await, counts(3, 1));
    // What is handed back waits again.
    store.complete(fixture.worker, vec![Outcome::Released { run: claim.claimed[0].run }]).await.unwrap();
    assert_eq!(waiting(10).await, counts(4, 1));
}

async fn what_runs_end_is_counted_once(fixture: Fixture) {
    let store = &fixture.store;
    let begun = store.now().await.unwrap();
    let ids = fixture.accept((0..4).map(|_| new())).await;
    let claim = store.claim(fixture.worker, &ids[..3], LEASE).await.unwrap();
    let runs: Vec<_> = claim.claimed.iter().map(|claimed| claimed.run).collect();
    let metrics = RunMetrics::default();
    let failure = Failure { code: FailureCode::ModelError, message: "no".to_owned(), retryable: false };
    store
        .complete(
            fixture.worker,
            vec![
                Outcome::Succeeded { run: runs[0], output: json("1"), metrics },
                Outcome::Failed { run: runs[1], failure, metrics },
            ],
        )
        .await
        .unwrap();
    // No run has ended these.
    for id in &ids[2..] {
        store.cancel("", *id).await.unwrap();
    }
    let ends: Vec<_> =
        store.get("", &ids[..2]).await.unwrap().iter().map(|found| found.completed_at.unwrap()).collect();
    let (first, last) = (*ends.iter().min().unwrap(), *ends.iter().max().unwrap());
    let now = store.now().await.unwrap().max(last);
    let both = [VersionCount { model: model(), version: version(), count: 2 }];
    assert_eq!(store.finished_between(begun - time::Duration::SECOND, now).await.unwrap(), both);
    // Stretches that meet count each end once: one is open where the other is closed.
    let before = time::Duration::MICROSECOND;
    assert_eq!(store.finished_between(first - before, last).await.unwrap(), both);
    assert!(store.finished_between(last, now).await.unwrap().is_empty());
    assert!(store.finished_between(begun - time::Duration::SECOND, first - before).await.unwrap().is_empty());
}

async fn what_was_accepted_is_found_again_and_nothing_is_written(fixture: Fixture) {
    let store = &fixture.store;
    let keyed = NewPrediction { idempotency_key: Some("key".to_owned()), ..new() };
    let repeated = NewPrediction { id: PredictionId::generate(), ..keyed.clone() };
    for fresh in [&keyed, &repeated] {
        assert_eq!(store.accepted_before(fresh).await.unwrap(), None);
    }
    assert!(store.list("", &store::ListFilter::default(), None, 1).await.unwrap().predictions.is_empty());
    fixture.accept([keyed.clone()]).await;
    let ask = async |new: NewPrediction| store.accepted_before(&new).await.unwrap();
    assert_eq!(ask(repeated.clone()).await, Some(Accepted::Replayed { id: keyed.id }));
    assert_eq!(ask(NewPrediction { fingerprint: [8; 32], ..repeated.clone() }).await, Some(Accepted::KeyConflict));
    assert_eq!(ask(NewPrediction { idempotency_key: Some("other".to_owned()), ..repeated.clone() }).await, None);
    assert_eq!(ask(NewPrediction { tenant: "other".to_owned(), ..repeated }).await, None);
    // By its id, as it is repeated with PUT.
    let put = NewPrediction { idempotency_key: None, ..keyed.clone() };
    assert_eq!(ask(put.clone()).await, Some(Accepted::Replayed { id: keyed.id }));
    assert_eq!(ask(NewPrediction { fingerprint: [8; 32], ..put.clone() }).await, Some(Accepted::IdConflict));
    assert_eq!(ask(NewPrediction { tenant: "other".to_owned(), ..put }).await, Some(Accepted::IdConflict));
}
