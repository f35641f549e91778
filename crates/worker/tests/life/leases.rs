//! Leases that end: the fence refuses late results, and what was held runs again, alone.

use std::time::{Duration, Instant};

use prediction::{Status, WorkerId};
use serde_json::json;
use store::{CancelResult, Sweep};
use tokio::time::sleep;

use crate::stage::{PATIENCE, Stage, until};

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
    // Others come all the time: the suspects have their turn only a lease later.
    let (begun, mut others) = (Instant::now(), Vec::new());
    while !stage.get(&suspects).await.iter().all(|one| one.status == Status::Succeeded) {
        assert!(begun.elapsed() < PATIENCE, "the suspects have no turn");
        others.push(stage.send_sleeper(50).await);
        sleep(Duration::from_millis(20)).await;
    }
    let others = stage.wait_for(&others, Status::Succeeded).await;
    let mut ended = Vec::new();
    for suspect in stage.wait_for(&suspects, Status::Succeeded).await {
        assert_eq!(suspect.attempt, 2);
        // The latest that it can have begun to run, and the end of what is kept from the others.
        let completed_at = suspect.completed_at.unwrap();
        let begun_at = completed_at - Duration::from_secs_f64(suspect.metrics.predict_time.unwrap());
        for other in &others {
            let started_at = other.started_at.unwrap();
            assert!(!(begun_at..completed_at).contains(&started_at), "{other:?} was begun beside {suspect:?}");
        }
        ended.push((completed_at, begun_at));
    }
    ended.sort();
    assert!(ended.windows(2).all(|pair| pair[0].0 <= pair[1].1), "one suspect ran beside another: {ended:?}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspect_that_nobody_told_of_is_found() {
    // Not by a ticket either.
    let stage = Stage::without_queue().await;
    let ids = stage.send(vec![json!({"value": 1})], |_| {}).await;
    let claim = stage.store.claim(WorkerId::generate(), &ids, Duration::from_millis(1)).await.unwrap();
    assert_eq!(claim.claimed.len(), 1);
    let sweep = Sweep { lease: Duration::from_millis(1), max_crashes: 3, limit: 10, leases: true };
    until(async || stage.store.sweep(sweep).await.unwrap().requeued == ids).await;
    // Whoever swept is gone.
    let worker = stage.worker(|_| {}).await;
    assert_eq!(stage.wait_for(&ids, Status::Succeeded).await[0].attempt, 2);
    worker.stop().await;
}
