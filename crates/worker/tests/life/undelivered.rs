//! What becomes of events that do not arrive: tried again as the schedule says, given up, and sent again when somebody asks.

use std::time::Duration;

use prediction::{DeliveryId, DeliveryStatus};
use store::{Delivery, EndpointChange};
use webhook::schedule;

use crate::{receiver::Receiver, stage::Stage};

on_both!(
    attempts_follow_the_schedule_to_the_last,
    a_receiver_can_ask_for_more_time,
    redirections_are_not_followed,
    a_receiver_that_is_gone_gets_no_more,
    an_address_that_is_not_allowed_is_not_tried
);

/// The wait that the store has for the next attempt, once this many were made.
async fn wait_after(stage: &Stage, id: DeliveryId, attempts: u32) -> (Delivery, Duration, Duration) {
    let delivery = stage.wait_for_delivery(id, DeliveryStatus::Waiting, attempts).await;
    let (due_at, at) = (delivery.due_at.unwrap(), delivery.latest.as_ref().unwrap().at);
    let now = stage.store.now().await.unwrap();
    // It was counted from a time between these two.
    let (longest, shortest) = ((due_at - at).try_into().unwrap(), (due_at - now).try_into().unwrap_or_default());
    (delivery, shortest, longest)
}

/// Stored times are whole microseconds.
const ROUNDING: Duration = Duration::from_millis(1);

async fn attempts_follow_the_schedule_to_the_last(stage: Stage) {
    let receiver = Receiver::start("500 Broken").await;
    let id = stage.test(&receiver.webhook([])).await;
    let jitter = schedule::jitter(&id.to_string().parse().unwrap());
    for attempts in 1..schedule::ATTEMPTS {
        // Each goes on where the last stopped, and has not seen the receiver fail so often that it would wait.
        let sender = stage.sender(|_| {});
        let (delivery, shortest, longest) = wait_after(&stage, id, attempts).await;
        assert_eq!(delivery.latest.unwrap().result.unwrap().status, 500);
        let wait = schedule::next_wait(attempts, jitter, Duration::ZERO).unwrap();
        assert!(shortest <= wait + ROUNDING && wait <= longest + ROUNDING, "{shortest:?} {wait:?} {longest:?}");
        sender.stop().await;
        // For somebody who does not want to wait for 76 hours.
        stage.store.redeliver("", id).await.unwrap();
    }
    let sender = stage.sender(|_| {});
    let given_up = stage.wait_for_delivery(id, DeliveryStatus::Exhausted, schedule::ATTEMPTS).await;
    assert!(given_up.completed_at.is_some() && given_up.due_at.is_none());
    stage.store.redeliver("", id).await.unwrap();
    let (_, shortest, longest) = wait_after(&stage, id, schedule::ATTEMPTS + 1).await;
    let first = schedule::next_wait(1, jitter, Duration::ZERO).unwrap();
    assert!(shortest <= first + ROUNDING && first <= longest + ROUNDING, "another round of attempts");
    receiver.say("200 OK");
    stage.wait_for_delivery(id, DeliveryStatus::Delivered, schedule::ATTEMPTS + 2).await;
    assert!(receiver.requests().iter().all(|request| request.header("webhook-id") == id.to_string()));
    sender.stop().await;
}

async fn a_receiver_can_ask_for_more_time(stage: Stage) {
    let sender = stage.sender(|_| {});
    let receiver = Receiver::start("503 Busy\r\nRetry-After: 7200").await;
    let id = stage.test(&receiver.webhook([])).await;
    let (_, shortest, longest) = wait_after(&stage, id, 1).await;
    let asked = Duration::from_secs(7200);
    assert!(shortest <= asked + ROUNDING && asked <= longest + ROUNDING, "{shortest:?} {longest:?}");
    sender.stop().await;
}

async fn redirections_are_not_followed(stage: Stage) {
    let sender = stage.sender(|_| {});
    let elsewhere = Receiver::start("200 OK").await;
    let receiver = Receiver::start(&format!("307 Moved\r\nLocation: {}", elsewhere.endpoint())).await;
    let id = stage.test(&receiver.webhook([])).await;
    let delivery = stage.wait_for_delivery(id, DeliveryStatus::Waiting, 1).await;
    assert_eq!(delivery.latest.unwrap().result.unwrap().status, 307);
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
    let delivery = stage.wait_for_delivery(id, DeliveryStatus::Waiting, 1).await;
    assert_eq!(delivery.latest.unwrap().result.unwrap_err().error, "refused");
    assert!(receiver.requests().is_empty());
    sender.stop().await;
}
