//! Ends that are nobody's failure: cancels, deadlines, a worker that stops.

use std::time::{Duration, Instant};

use prediction::{FailureCode, Status, WorkerId};
use queue::Notice;
use serde_json::json;

use crate::stage::{PATIENCE, Stage, until};

on_both!(
    a_canceled_prediction_frees_its_slot,
    a_passed_deadline_frees_its_slot,
    a_stopping_worker_lets_runs_finish,
    a_stopping_worker_hands_back_what_takes_too_long,
);

const FOR_EVER_MS: u64 = 600_000;

async fn a_canceled_prediction_frees_its_slot(stage: Stage) {
    let worker = stage.worker(|config| config.slots = 1).await;
    // With a notice, as the API tells it, and without, as when it is lost.
    for tell in [true, false] {
        let running = [stage.send_sleeper(FOR_EVER_MS).await];
        stage.wait_for(&running, Status::Processing).await;
        let (waiting, next) = ([stage.send_sleeper(0).await], [stage.send_sleeper(0).await]);
        stage.store.cancel("", waiting[0]).await.unwrap();
        stage.store.cancel("", running[0]).await.unwrap();
        if tell {
            stage.queue.tell(Notice::Canceled(running.into())).await;
        }
        stage.wait_for(&next, Status::Succeeded).await;
        assert_eq!(stage.wait_for(&running, Status::Canceled).await[0].attempt, 1);
        assert_eq!(stage.wait_for(&waiting, Status::Canceled).await[0].attempt, 0);
    }
    worker.stop().await;
}

async fn a_passed_deadline_frees_its_slot(stage: Stage) {
    let worker = stage.worker(|config| config.slots = 1).await;
    let late = stage
        .send(vec![json!({"value": 1, "sleep_ms": FOR_EVER_MS})], |new| new.deadline = Some(Duration::from_secs(3)))
        .await;
    until(async || stage.get(&late).await[0].status != Status::Starting).await;
    let next = [stage.send_sleeper(0).await];
    stage.wait_for(&next, Status::Succeeded).await;
    let canceled = stage.wait_for(&late, Status::Canceled).await;
    assert_eq!(canceled[0].failure.as_ref().unwrap().code, FailureCode::DeadlineExceeded);
    worker.stop().await;
}

async fn a_stopping_worker_lets_runs_finish(stage: Stage) {
    let begun = Instant::now();
    loop {
        let worker = stage.worker(|_| {}).await;
        let running = [stage.send_sleeper(10_000).await];
        stage.wait_for(&running, Status::Processing).await;
        worker.stop().await;
        let ended = stage.get(&running).await;
        // What was claimed, and had not begun when the worker was told to stop, is handed back.
        let has_begun = (ended[0].status, ended[0].attempt) != (Status::Starting, 1);
        if has_begun || begun.elapsed() > PATIENCE {
            assert_eq!((ended[0].status, ended[0].attempt), (Status::Succeeded, 1));
            break;
        }
    }
    let alive = stage.store.models(Duration::from_secs(60)).await.unwrap();
    assert!(alive.iter().all(|model| model.workers == 0), "withdrawn");
}

async fn a_stopping_worker_hands_back_what_takes_too_long(stage: Stage) {
    let worker = stage.worker(|config| (config.slots, config.grace) = (2, Duration::ZERO)).await;
    let mut ids = vec![stage.send_sleeper(FOR_EVER_MS).await, stage.send_sleeper(FOR_EVER_MS).await];
    stage.wait_for(&ids, Status::Processing).await;
    ids.push(stage.send_sleeper(FOR_EVER_MS).await);
    worker.stop().await;
    let attempts: Vec<_> = stage.wait_for(&ids, Status::Starting).await.iter().map(|found| found.attempt).collect();
    assert_eq!(attempts, [1, 1, 0]);
    let claim = stage.store.claim(WorkerId::generate(), &ids, Duration::from_secs(60)).await.unwrap();
    assert!(claim.suspects.is_empty(), "handed back, not crashed");
    assert_eq!(claim.claimed.iter().map(|claimed| claimed.retries).collect::<Vec<_>>(), [0, 0, 0]);
}
