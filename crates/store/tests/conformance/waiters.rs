//! Those who wait in the process that ends a prediction are told what is stored of its end.

use futures::FutureExt;
use prediction::{Failure, FailureCode, Prediction, PredictionId};
use store::{Claimant, Ended, NewPrediction, Outcome, Run, RunMetrics, Waiters, Waiting, Written};

use crate::fixture::{Fixture, LEASE, SPENT, SWEEP, eventually, json, new};

on_both!(
    what_is_told_is_what_is_stored,
    nobody_is_told_of_what_has_not_ended,
    each_run_of_a_prediction_is_counted,
    other_handles_tell_nobody,
);

const METRICS: RunMetrics = RunMetrics { predict_seconds: 0.1, batch_size: 3, tokens: Some(7) };

fn succeeded(run: Run) -> Outcome {
    Outcome::Succeeded { run, output: json(r#"{ "a": [1, "é"] }"#), metrics: METRICS }
}

async fn get(fixture: &Fixture, id: PredictionId) -> Prediction {
    fixture.store.get("", &[id]).await.unwrap().remove(0)
}

/// What is told, if anything is by now.
fn told(waiting: &Waiting) -> Option<std::sync::Arc<Ended>> {
    waiting.woken().now_or_never().flatten()
}

async fn what_is_told_is_what_is_stored(fixture: Fixture) {
    let waiters = Waiters::default();
    let store = fixture.store.telling(&waiters);
    let claimant = Some(Claimant { worker: fixture.worker, lease: LEASE });
    let metadata = Some(json(r#"{"who": 1}"#));
    let (succeeds, fails) = (new(), NewPrediction { deadline: Some(LEASE), metadata, ..new() });
    let ids = fixture.accept([succeeds, fails, NewPrediction { claimant, ..new() }]).await;
    let mut known = Vec::new();
    for id in &ids {
        known.push(get(&fixture, *id).await);
    }
    // The first one twice.
    let mut waiting: Vec<Waiting> = ids.iter().map(|id| waiters.wait_for(*id)).collect();
    waiting.push(waiters.wait_for(ids[0]));
    known.push(known[0].clone());
    store.claim(fixture.worker, &ids, LEASE).await.unwrap();
    let runs: Vec<Run> = ids.iter().map(|id| Run { id: *id, epoch: 1 }).collect();
    let failure = Failure::new(FailureCode::ModelError, "it broke").with_retryable(true);
    let metrics = RunMetrics { tokens: None, ..METRICS };
    let outcomes = [
        succeeded(runs[0]),
        Outcome::Failed { run: runs[1], failure, metrics },
        succeeded(runs[2]),
        succeeded(runs[0]),
    ];
    let written = store.complete(fixture.worker, outcomes).await.unwrap();
    assert_eq!(written, [Written::Applied, Written::Applied, Written::Applied, Written::Stale]);
    for (waiting, known) in waiting.iter().zip(known) {
        let stored = serde_json::to_value(get(&fixture, known.id).await).unwrap();
        let ended = told(waiting).expect("it is told");
        assert_eq!(serde_json::to_value(ended.of(known)).unwrap(), stored);
        assert!(told(waiting).is_none(), "once");
    }
}

async fn nobody_is_told_of_what_has_not_ended(fixture: Fixture) {
    let waiters = Waiters::default();
    let store = fixture.store.telling(&waiters);
    let ids = fixture.accept((0..3).map(|_| new())).await;
    let waiting: Vec<Waiting> = ids.iter().map(|id| waiters.wait_for(*id)).collect();
    let claimed = store.claim(fixture.worker, &ids, LEASE).await.unwrap().claimed;
    let outcomes: Vec<Outcome> = (claimed.iter().zip(0..))
        .map(|(claimed, place)| match place {
            0 => Outcome::Retry { run: claimed.run, delay: LEASE },
            1 => Outcome::Released { run: claimed.run },
            _ => succeeded(Run { epoch: 7, ..claimed.run }),
        })
        .collect();
    let written = store.complete(fixture.worker, outcomes).await.unwrap();
    assert_eq!(written, [Written::Applied, Written::Applied, Written::Stale]);
    assert!(waiting.iter().all(|waiting| waiting.woken().now_or_never().is_none()));
    // Of what somebody else has ended, they hear no more than that.
    waiters.wake(&ids);
    assert!(waiting.iter().all(|waiting| matches!(waiting.woken().now_or_never(), Some(None))));
}

async fn each_run_of_a_prediction_is_counted(fixture: Fixture) {
    let waiters = Waiters::default();
    let store = fixture.store.telling(&waiters);
    let run = fixture.claimed(SPENT).await;
    let waiting = waiters.wait_for(run.id);
    let known = get(&fixture, run.id).await;
    eventually(async || (store.sweep(SWEEP).await.unwrap().requeued == [run.id]).then_some(())).await;
    let again = fixture.claim_suspect(LEASE).await.unwrap().run;
    assert_eq!(store.complete(fixture.worker, [succeeded(run), succeeded(again)]).await.unwrap().len(), 2);
    let ended = told(&waiting).expect("it is told").of(known);
    assert_eq!(ended.attempt, 2);
    let stored = get(&fixture, run.id).await;
    assert_eq!(serde_json::to_value(ended).unwrap(), serde_json::to_value(stored).unwrap());
}

async fn other_handles_tell_nobody(fixture: Fixture) {
    let waiters = Waiters::default();
    let _telling = fixture.store.telling(&waiters);
    let run = fixture.claimed(LEASE).await;
    let waiting = waiters.wait_for(run.id);
    assert_eq!(fixture.store.complete(fixture.worker, [succeeded(run)]).await.unwrap(), [Written::Applied]);
    assert!(waiting.woken().now_or_never().is_none());
}
