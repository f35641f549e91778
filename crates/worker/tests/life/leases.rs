//! Leases that end: the fence refuses late results, and what was held runs again, alone.

use std::time::Duration;

use prediction::{PredictionId, Status, WorkerId};
use serde_json::json;
use store::CancelResult;

use crate::stage::{Stage, until};

on_both!(a_late_result_is_refused_and_counted, suspects_run_alone);

async fn a_late_result_is_refused_and_counted(stage: Stage) {
    let worker = stage.worker(|config| config.lease = Duration::from_secs(60)).await;
    // Without a notice the worker learns of the cancel by its result or, up to a second later, by a renewal; again until
    // it was by a result, and that has been published.
    until(async || {
        let id = stage.send_sleeper(300).await;
        until(async || stage.get(&[id]).await[0].status != Status::Starting).await;
        let canceled = matches!(stage.store.cancel("", id).await.unwrap(), CancelResult::Canceled(_));
        let next = [stage.send_sleeper(0).await];
        stage.wait_for(&next, Status::Succeeded).await;
        assert_eq!(stage.get(&[id]).await[0].output.is_none(), canceled);
        stage.store.stale_completions().await.unwrap() > 0
    })
    .await;
    worker.stop().await;
}

async fn suspects_run_alone(stage: Stage) {
    let suspects = stage.send(vec![json!({"value": "alone", "sleep_ms": 300}); 3], |_| {}).await;
    let dead = WorkerId::generate();
    let claim = stage.store.claim(dead, &suspects, Duration::from_millis(1)).await.unwrap();
    assert_eq!(claim.claimed.len(), suspects.len());

    let worker = stage.worker(|config| config.lease = Duration::from_secs(5)).await;
    let others = stage.send((0..40).map(|n| json!({"value": n, "sleep_ms": 50})).collect(), |_| {}).await;
    let all = [suspects.clone(), others].concat();
    until(async || {
        let found = stage.get(&all).await;
        let runs: Vec<PredictionId> =
            found.iter().filter(|one| one.status == Status::Processing && one.attempt > 0).map(|one| one.id).collect();
        let swept: Vec<_> = found.iter().filter(|one| suspects.contains(&one.id) && one.attempt > 1).collect();
        if swept.iter().any(|one| one.status == Status::Processing) {
            assert_eq!(runs.len(), 1, "{runs:?}");
        }
        found.iter().all(|one| one.status == Status::Succeeded)
    })
    .await;
    for prediction in stage.get(&suspects).await {
        assert_eq!(prediction.attempt, 2);
    }
    worker.stop().await;
}
