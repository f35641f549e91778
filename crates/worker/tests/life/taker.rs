//! What an API in the worker's process accepts while the worker has room needs no ticket; who waits already goes first.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;
use prediction::{Event, Events, PredictionId, Status};
use serde_json::json;
use store::{Accepter, Claimed, Enqueue, NewPrediction, Places, Run, Taker};

use crate::stage::{PATIENCE, Stage, Worker, echo, new, of, output, until};

/// An API's accepter beside this worker, and how many tickets it queued.
fn accepter(stage: &Stage, taker: Option<Taker>) -> (Accepter, Arc<AtomicUsize>) {
    let (queued, queue) = (Arc::new(AtomicUsize::new(0)), stage.queue.clone());
    let count = Arc::clone(&queued);
    let enqueue: Enqueue = Arc::new(move |tickets| {
        count.fetch_add(tickets.len(), Ordering::Relaxed);
        let queue = queue.clone();
        Box::pin(async move { queue.push(tickets).await })
    });
    (Accepter::start(stage.store.clone(), enqueue, taker, 2, 1024), queued)
}

async fn accept(accepter: &Accepter, news: &[NewPrediction]) -> Vec<PredictionId> {
    let accepted = join_all(news.iter().map(|new| accepter.accept(new.clone()))).await;
    assert!(accepted.iter().all(Result::is_ok), "{accepted:?}");
    news.iter().map(|new| new.id).collect()
}

fn news(count: usize) -> Vec<NewPrediction> {
    let echo = echo();
    (0..count).map(|n| new(&echo, &json!({ "value": n }), |_| {})).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_there_is_room_for_needs_no_ticket() {
    let stage = Stage::embedded().await;
    let worker = has_room(stage.worker(|_| {}).await).await;
    let (accepter, queued) = accepter(&stage, worker.taker.clone());
    for (n, new) in news(20).into_iter().enumerate() {
        let ids = accept(&accepter, &[new]).await;
        let prediction = stage.wait_for(&ids, Status::Succeeded).await.remove(0);
        assert_eq!((output(&prediction), prediction.attempt), (json!(n), 1));
    }
    assert_eq!(queued.swap(0, Ordering::Relaxed), 0);
    // More than there are slots: some get tickets, and each is finished once.
    let held = room_for(worker.taker.as_ref().unwrap(), 60).await;
    let ids = accept(&accepter, &news(500)).await;
    drop(held);
    accepter.drain().await;
    assert!(queued.load(Ordering::Relaxed) > 0);
    for (n, prediction) in stage.wait_for(&ids, Status::Succeeded).await.iter().enumerate() {
        assert_eq!((output(prediction), prediction.attempt), (json!(n), 1));
    }
    worker.stop().await;
}

/// Its consumer has begun when it has slots.
async fn has_room(worker: Worker) -> Worker {
    let (taker, echo) = (worker.taker.clone().unwrap(), echo());
    until(async || taker(&echo.name, &echo.version, 1).is_some()).await;
    worker
}

/// Room for so many of echo, once there is as much.
async fn room_for(taker: &Taker, count: usize) -> Box<dyn Places> {
    let echo = echo();
    let wait = async {
        loop {
            match taker(&echo.name, &echo.version, count) {
                Some(places) if places.count() == count => return places,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap()
}

/// On one thread, on which nothing else happens between two awaits.
#[tokio::test]
async fn whoever_waits_goes_first() {
    let stage = Stage::embedded().await;
    let worker = has_room(stage.worker(|_| {}).await).await;
    let (taker, echo) = (worker.taker.clone().unwrap(), echo());
    let take = |most| taker(&echo.name, &echo.version, most);
    let unknown = "0".repeat(64).parse().unwrap();
    assert!(taker(&echo.name, &unknown, 1).is_none());
    let held = room_for(&taker, 64).await;
    assert!(take(1).is_none());
    // It has a ticket, for which there is no slot.
    let ids = stage.send(vec![json!({"value": "waits"})], |_| {}).await;
    until(async || stage.undelivered().await == Some(1)).await;
    drop(held);
    assert!(take(1).is_none(), "there are slots, and one waits");
    stage.wait_for(&ids, Status::Succeeded).await;
    until(async || take(1).is_some()).await;
    worker.stop().await;
    assert!(take(1).is_none(), "it has stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_have_been_stored_is_handed_back_and_what_runs_is_not() {
    let stage = Stage::embedded().await;
    let worker = has_room(stage.worker(|_| {}).await).await;
    let (taker, echo) = (worker.taker.clone().unwrap(), echo());
    let mut places = room_for(&taker, 3).await;
    let claimant = Some(places.claimant());
    let claimed = |input| new(&echo, &input, |new| (new.claimant, new.queued) = (claimant, false));
    let (lost, runs) = (claimed(json!({"value": 1})), claimed(json!({"value": 2, "sleep_ms": 500})));
    stage.store.accept(vec![lost.clone(), runs.clone()]).await.unwrap();
    let run = |id| Run { id, epoch: 1 };
    let held = Claimed {
        run: run(runs.id),
        model: runs.model,
        version: runs.version,
        input: Some(runs.input),
        retries: 0,
        max_retries: 3,
        deadline_in: None,
        webhook_events: Events::NONE,
        is_first: true,
    };
    places.start(vec![held], Instant::now());
    until(async || stage.get(&[runs.id]).await[0].status == Status::Processing).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    // With one that was never stored.
    places.give_back(vec![run(lost.id), run(runs.id), run(PredictionId::generate())]);
    drop(places);
    let ended = stage.wait_for(&[lost.id, runs.id], Status::Succeeded).await;
    assert_eq!([ended[0].attempt, ended[1].attempt], [2, 1]);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_is_told_is_claimed_by_its_ticket() {
    let stage = Stage::embedded().await;
    let worker = has_room(stage.worker(|_| {}).await).await;
    let (accepter, queued) = accepter(&stage, worker.taker.clone());
    let mut told = news(1);
    told[0].webhook = Some(store::Webhook {
        url: "https://example.com/hook".to_owned(),
        endpoint: "https://example.com/hook".to_owned(),
        origin: "https://example.com:443".to_owned(),
        events: [Event::Start, Event::Completed].into_iter().collect(),
    });
    let ids = accept(&accepter, &told).await;
    stage.wait_for(&ids, Status::Succeeded).await;
    accepter.drain().await;
    assert_eq!(queued.load(Ordering::Relaxed), 1);
    for event in [Event::Start, Event::Completed] {
        stage.delivery(of(ids[0], event)).await;
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_tickets_may_wait_elsewhere_nothing_is_taken() {
    let stage = Stage::servers().await;
    let worker = stage.worker(|_| {}).await;
    let (accepter, queued) = accepter(&stage, worker.taker.clone());
    let ids = accept(&accepter, &news(20)).await;
    stage.wait_for(&ids, Status::Succeeded).await;
    accepter.drain().await;
    assert_eq!(queued.load(Ordering::Relaxed), 20);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_worker_took_runs_elsewhere() {
    let stage = Stage::embedded().await;
    let worker = has_room(stage.worker(|config| config.lease = Duration::from_secs(1)).await).await;
    let (accepter, queued) = accepter(&stage, worker.taker.clone());
    let sleepers: Vec<_> = (0..5).map(|_| new(&echo(), &json!({"value": "slept", "sleep_ms": 300}), |_| {})).collect();
    let ids = accept(&accepter, &sleepers).await;
    worker.kill().await;
    assert!(queued.load(Ordering::Relaxed) < 5);
    let other = stage.worker(|_| {}).await;
    for prediction in stage.wait_for(&ids, Status::Succeeded).await {
        assert_eq!(output(&prediction), json!("slept"));
    }
    other.stop().await;
}
