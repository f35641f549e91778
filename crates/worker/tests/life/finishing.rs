//! How predictions finish: once each, with their output, or with a failure after as many tries as they have.

use std::time::Duration;

use prediction::{FailureCode, Status, WorkerId};
use queue::Notice;
use serde_json::{Value, json};
use store::{Outcome, Run};

use crate::stage::{PATIENCE, Stage, digits, echo, new, output, spec_of_digits, until};

on_both!(
    two_workers_finish_each_once,
    whoever_waits_in_the_process_is_told_how_it_ended,
    failures_are_tried_again_as_often_as_allowed,
    a_retry_is_taken_up_when_it_is_due,
    a_slow_model_does_not_hold_up_a_fast_one
);

async fn two_workers_finish_each_once(stage: Stage) {
    let mut notices = stage.queue.listen();
    let (first, second) = (stage.worker(|_| {}).await, stage.worker(|_| {}).await);
    let ids = stage.send((0..200).map(|n| json!({"value": n})).collect(), |_| {}).await;
    for (n, prediction) in stage.wait_for(&ids, Status::Succeeded).await.iter().enumerate() {
        assert_eq!((output(prediction), prediction.attempt), (json!(n), 1));
        assert!(prediction.metrics.batch_size.is_some_and(|size| size > 0));
    }
    let mut told = 0;
    while told < ids.len() {
        let notice = tokio::time::timeout(Duration::from_secs(30), notices.recv()).await.unwrap().unwrap();
        let Notice::Finished(finished) = notice else { panic!("{notice:?}") };
        told += finished.iter().filter(|id| ids.contains(id)).count();
    }
    first.stop().await;
    second.stop().await;
}

async fn whoever_waits_in_the_process_is_told_how_it_ended(stage: Stage) {
    let worker = stage.worker(|_| {}).await;
    let fails = json!({"value": 1, "sleep_ms": 2000, "fail": "permanent"});
    for input in [json!({"value": 1, "sleep_ms": 2000}), fails] {
        let id = stage.send(vec![input], |_| {}).await[0];
        let waiting = worker.waiters.wait_for(id);
        let known = stage.get(&[id]).await.remove(0);
        assert!(!known.status.is_terminal(), "it sleeps");
        let ended = tokio::time::timeout(PATIENCE, waiting.woken()).await.unwrap().expect("how it ended").of(known);
        let stored = stage.get(&[id]).await.remove(0);
        assert_eq!(serde_json::to_value(ended).unwrap(), serde_json::to_value(stored).unwrap());
    }
    worker.stop().await;
}

async fn failures_are_tried_again_as_often_as_allowed(stage: Stage) {
    let worker = stage.worker(|_| {}).await;
    let fail = |how: &str| vec![json!({"value": 1, "fail": how})];
    let mut ids = stage.send(fail("permanent"), |_| {}).await;
    ids.extend(stage.send(fail("retryable"), |new| new.max_retries = 0).await);
    ids.extend(stage.send(fail("retryable"), |new| new.max_retries = 1).await);
    ids.extend(stage.send(vec![json!({"valeu": 1})], |_| {}).await);
    let failed = stage.wait_for(&ids, Status::Failed).await;
    let ends: Vec<_> = failed.iter().map(|one| (one.failure.as_ref().unwrap().code, one.attempt)).collect();
    let error = FailureCode::ModelError;
    assert_eq!(ends, [(error, 1), (error, 1), (error, 2), (FailureCode::InvalidInput, 1)]);
    worker.stop().await;
}

async fn a_retry_is_taken_up_when_it_is_due(stage: Stage) {
    let ids = stage.send(vec![json!({"value": 7})], |_| {}).await;
    let other = WorkerId::generate();
    let claim = stage.store.claim(other, &ids, Duration::from_secs(60)).await.unwrap();
    let run: Run = claim.claimed[0].run;
    stage.store.complete(other, vec![Outcome::Retry { run, delay: Duration::from_millis(500) }]).await.unwrap();
    let worker = stage.worker(|_| {}).await;
    let succeeded = stage.wait_for(&ids, Status::Succeeded).await;
    assert_eq!((output(&succeeded[0]), succeeded[0].attempt), (json!(7), 2));
    worker.stop().await;
}

async fn a_slow_model_does_not_hold_up_a_fast_one(stage: Stage) {
    slow_beside_fast(stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_without_a_queue() {
    slow_beside_fast(Stage::without_queue().await).await;
}

/// More of one model than there are slots, none of which ends, then some of another model.
async fn slow_beside_fast(stage: Stage) {
    let slow = json!({"value": "slow", "sleep_ms": 600_000, "alone": true});
    let slow = stage.send(vec![slow; 150], |_| {}).await;
    let config = inference::Config { enable_echo: true, ..digits() };
    let digits = spec_of_digits().await;
    let worker = stage.worker_of(config, |_| {}).await;
    let processing = async || {
        stage.get(&slow).await.iter().filter(|prediction| prediction.status == Status::Processing).count() >= 32
    };
    until(processing).await;
    let fast = stage
        .send(vec![json!({"pixels": vec![0; 64]}); 100], |new| {
            (new.model, new.version) = (digits.name.clone(), digits.version.clone());
        })
        .await;
    stage.wait_for(&fast, Status::Succeeded).await;
    worker.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_queue_workers_ask_the_store() {
    let stage = Stage::without_queue().await;
    let ids = stage.send((0..50).map(|n| json!({"value": n})).collect(), |_| {}).await;
    let worker = stage.worker(|config| config.slots = 8).await;
    stage.wait_for(&ids, Status::Succeeded).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_digits_are_read() {
    let stage = Stage::embedded().await;
    let spec = spec_of_digits().await;
    let worker = stage.worker_of(digits(), |_| {}).await;
    let ids = stage
        .send(vec![json!({"pixels": vec![0; 64]}), json!({"pixels": [1, 2]})], |new| {
            (new.model, new.version) = (spec.name.clone(), spec.version.clone());
        })
        .await;
    let succeeded = stage.wait_for(&ids[..1], Status::Succeeded).await;
    assert!(matches!(output(&succeeded[0]), Value::Object(_)));
    let failed = stage.wait_for(&ids[1..], Status::Failed).await;
    assert_eq!(failed[0].failure.as_ref().unwrap().code, FailureCode::InvalidInput);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_here_serves_is_left_waiting() {
    let stage = Stage::embedded().await;
    let elsewhere = new(&echo(), &json!({"value": 1}), |new| new.version = "0".repeat(64).parse().unwrap());
    let unserved = [elsewhere.id];
    stage.store.accept(vec![elsewhere]).await.unwrap();
    let worker = stage.worker(|config| config.poll_store = true).await;
    let served = stage.send(vec![json!({"value": 2})], |_| {}).await;
    stage.wait_for(&served, Status::Succeeded).await;
    worker.stop().await;
    let left = stage.get(&unserved).await;
    assert_eq!((left[0].status, left[0].attempt), (Status::Starting, 0));
}
