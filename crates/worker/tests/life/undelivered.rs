//! What becomes of events that do not arrive: tried again as the schedule says, given up, and sent again when somebody asks.

use std::time::Duration;

use prediction::{DeliveryId, DeliveryStatus};
use store::{Attempt, Delivery, EndpointChange};
use webhook::schedule;

use crate::{
    receiver::Receiver,
    stage::{Stage, until},
};

on_both!(
    attempts_follow_the_schedule_to_the_last,
    a_receiver_can_ask_for_more_time,
    redirections_are_not_followed,
    a_receiver_that_is_gone_gets_no_more,
    an_address_that_is_not_allowed_is_not_tried
);

/// The shortest and the longest that the wait for the next attempt can be, by what the store has.
async fn wait_for_next(stage: &Stage, delivery: &Delivery) -> (Duration, Duration) {
    let (due_at, at) = (delivery.due_at.unwrap(), delivery.latest.as_ref().unwrap().at);
    let now = stage.store.now().await.unwrap();
    // It was counted from a time between these two.
    let (longest, shortest) = ((due_at - at).try_into().unwrap(), (due_at - now).try_into().unwrap_or_default());
    (shortest, longest)
}

/// The delivery after one more attempt; or after two, where a second is due within seconds and this machine is slow.
async fn tried(stage: &Stage, id: DeliveryId) -> Delivery {
    let before = stage.delivery(id).await.attempts;
    let sender = stage.sender(|_| {});
    until(async || stage.delivery(id).await.attempts > before).await;
    sender.stop().await;
    stage.delivery(id).await
}

/// Waits for the first attempt.
async fn first_attempt(stage: &Stage, id: DeliveryId) -> Attempt {
    let attempts = async || stage.store.delivery_attempts("", id, None, 10).await.unwrap();
    until(async || !attempts().await.is_empty()).await;
    attempts().await.into_iter().find(|(number, _)| *number == 1).unwrap().1
}

/// Stored times are whole microseconds.
const ROUNDING: Duration = Duration::from_millis(1);

async fn attempts_follow_the_schedule_to_the_last(stage: Stage) {
    let receiver = Receiver::start("500 Broken").await;
    // Each sender goes on where the last stopped, and has not seen the receiver fail so often that it would wait.
    let mut delivery = loop {
        let id = stage.test(&receiver.webhook([])).await;
        let delivery = tried(&stage, id).await;
        if delivery.attempts == 1 {
            break delivery;
        }
    };
    let id = delivery.id;
    let jitter = schedule::jitter(&id.to_string().parse().unwrap());
    let assert_waits = async |delivery: &Delivery, attempts: u32| {
        let (shortest, longest) = wait_for_next(&stage, delivery).await;
        let wait = schedule::next_wait(attempts, jitter, Duration::ZERO).unwrap();
        assert!(shortest <= wait + ROUNDING && wait <= longest + ROUNDING, "{shortest:?} {wait:?} {longest:?}");
    };
    for attempts in 1..schedule::ATTEMPTS {
        assert_eq!((delivery.status, delivery.attempts), (DeliveryStatus::Waiting, attempts));
        assert_eq!(delivery.latest.as_ref().unwrap().result.as_ref().unwrap().status, 500);
        assert_waits(&delivery, attempts).await;
        // For somebody who does not want to wait for 76 hours.
        stage.store.redeliver("", id).await.unwrap();
        delivery = tried(&stage, id).await;
    }
    assert_eq!((delivery.status, delivery.attempts), (DeliveryStatus::Exhausted, schedule::ATTEMPTS));
    assert!(delivery.completed_at.is_some() && delivery.due_at.is_none());
    stage.store.redeliver("", id).await.unwrap();
    delivery = tried(&stage, id).await;
    assert_eq!(delivery.status, DeliveryStatus::Waiting, "another round of attempts");
    assert_waits(&delivery, delivery.attempts - schedule::ATTEMPTS).await;
    receiver.say("200 OK");
    stage.store.redeliver("", id).await.unwrap();
    let sender = stage.sender(|_| {});
    stage.wait_for_delivery(id, DeliveryStatus::Delivered, delivery.attempts + 1).await;
    sender.stop().await;
    let own = receiver.requests().iter().filter(|request| request.header("webhook-id") == id.to_string()).count();
    assert_eq!(own, delivery.attempts as usize + 1);
}

async fn a_receiver_can_ask_for_more_time(stage: Stage) {
    let sender = stage.sender(|_| {});
    let receiver = Receiver::start("503 Busy\r\nRetry-After: 7200").await;
    let id = stage.test(&receiver.webhook([])).await;
    let delivery = stage.wait_for_delivery(id, DeliveryStatus::Waiting, 1).await;
    let (shortest, longest) = wait_for_next(&stage, &delivery).await;
    let asked = Duration::from_secs(7200);
    assert!(shortest <= asked + ROUNDING && asked <= longest + ROUNDING, "{shortest:?} {longest:?}");
    sender.stop().await;
}

async fn redirections_are_not_followed(stage: Stage) {
    let sender = stage.sender(|_| {});
    let elsewhere = Receiver::start("200 OK").await;
    let receiver = Receiver::start(&format!("307 Moved\r\nLocation: {}", elsewhere.endpoint())).await;
    let id = stage.test(&receiver.webhook([])).await;
    assert_eq!(first_attempt(&stage, id).await.result.unwrap().status, 307);
    assert!(elsewhere.requests().is_empty());
    sender.stop().await;
}

async fn a_receiver_that_is_gone_gets_no_more(stage: Stage) {
    let sender = stage.sender(|_| {});
    let receiver = Receiver::start("410 Gone").await;
    let first = stage.test(&receiver.webhook([])).await;
    stage.wait_for_delivery(first, DeliveryStatus::Disabled, 1).await;
    let second = stage.test(&receiver.webhook([])).await;
    stage.wait_for_delivery(second, DeliveryStatus::Disabled, 0).await;
    let endpoints = stage.store.endpoints("", None, 10).await.unwrap().entries;
    let [endpoint] = &endpoints[..] else { panic!("{endpoints:?}") };
    assert!(endpoint.url == receiver.endpoint() && endpoint.disabled_at.is_some());

    receiver.say("200 OK");
    let change = EndpointChange { is_disabled: Some(false), ..EndpointChange::default() };
    stage.store.change_endpoint("", endpoint.id, change).await.unwrap();
    for (id, attempts) in [(first, 2), (second, 1)] {
        stage.store.redeliver("", id).await.unwrap();
        stage.wait_for_delivery(id, DeliveryStatus::Delivered, attempts).await;
    }
    sender.stop().await;
}

async fn an_address_that_is_not_allowed_is_not_tried(stage: Stage) {
    let sender = stage.sender(|config| config.guard = webhook::Guard::new(webhook::Policy::default()));
    let receiver = Receiver::start("200 OK").await;
    let id = stage.test(&receiver.webhook([])).await;
    assert_eq!(first_attempt(&stage, id).await.result.unwrap_err().error, "refused");
    assert!(receiver.requests().is_empty());
    sender.stop().await;
}
