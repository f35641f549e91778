//! Tickets that are lost come again: one worker, which does not serve echo, is the dispatcher, and a consumer looks on.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};

use prediction::{PredictionId, Priority, Ticket};
use queue::{Handled, Location, Room, Slots};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::stage::{Stage, digits, echo, new, set, stream, until};

on_both!(lost_tickets_come_again);

async fn lost_tickets_come_again(stage: Stage) {
    let dispatcher = stage.worker_of(digits(), |_| {}).await;
    let stored = stage.send(vec![json!({"value": 1}); 50], |new| new.queued = false).await;
    seen_by_a_consumer(&stage, &set(&stored)).await;
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_redis_is_filled_again() {
    let redis = servers::Redis::start().await;
    let queue = Location::Redis { url: redis.url(), namespace: "emptied".to_owned() };
    let stage = Stage::on_postgres(servers::database().await, queue).await;
    let dispatcher = stage.worker_of(digits(), |_| {}).await;
    let undelivered = async |least| stage.undelivered().await.is_some_and(|undelivered| undelivered >= least);

    let mut ids = set(&stage.send_with_tickets(vec![json!({"value": 1}); 10]).await);
    // A dispatcher that sees a stream for the first time trusts no ticket in it: each is doubled, once.
    until(async || undelivered(20).await).await;
    redis.flush_all().await;
    // These keep the stream from being empty: only its new life tells that the others are gone.
    ids.extend(stage.send_with_tickets(vec![json!({"value": 2}); 10]).await);
    until(async || undelivered(20).await).await;
    seen_by_a_consumer(&stage, &ids).await;
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_a_crash_of_postgres_took_back_has_a_ticket_again() {
    let mut postgres = servers::Postgres::start().await;
    let (url, namespace) = servers::redis().await;
    let queue = Location::Redis { url, namespace };
    let stage = Stage::on_postgres(postgres.create_database().await, queue).await;
    let dispatcher = stage.worker_of(digits(), |_| {}).await;
    let undelivered = async |least| stage.undelivered().await.is_some_and(|undelivered| undelivered >= least);

    // Their tickets stay where they are, each doubled once.
    stage.send_with_tickets(vec![json!({"value": 1}); 10]).await;
    until(async || undelivered(20).await).await;
    // As a lost claim leaves it: it waits, and its ticket was queued, and is gone.
    stage.store.accept(vec![new(&echo(), &json!({"value": 2}), |_| {})]).await.unwrap();
    postgres.stop_immediately().await;
    postgres.start_again().await;
    until(async || undelivered(31).await).await;
    dispatcher.stop().await;
}

/// Takes tickets of echo until all of these have come.
pub(crate) async fn seen_by_a_consumer(stage: &Stage, ids: &HashSet<PredictionId>) {
    let (seen, stop) = (Arc::new(Mutex::new(HashSet::new())), CancellationToken::new());
    let look = {
        let seen = Arc::clone(&seen);
        Arc::new(move |tickets: Vec<Ticket>, _: Slots| -> futures::future::BoxFuture<'static, Handled> {
            seen.lock().unwrap().extend(tickets.into_iter().map(|ticket| ticket.id));
            Box::pin(async { Handled::Done })
        })
    };
    let spec = echo();
    let of_priority = |priority| stream(spec.name.clone(), spec.version.clone(), priority);
    let streams = Priority::ALL.into_iter().map(of_priority).collect();
    let consuming = tokio::spawn({
        let (queue, stop) = (stage.queue.clone(), stop.clone());
        async move { queue.consume(streams, Room::of(16), look, stop).await }
    });
    until(async || seen.lock().unwrap().is_superset(ids)).await;
    stop.cancel();
    consuming.await.unwrap();
}
