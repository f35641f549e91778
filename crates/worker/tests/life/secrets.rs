//! What webhooks are signed with: one secret for a tenant, made when it is needed, or an endpoint's own; two while one takes
//! the other's place.

use std::time::Duration;

use prediction::DeliveryStatus;
use webhook::{Sealer, Secret, Signed, verify};

use crate::{
    receiver::{Receiver, Request},
    stage::{Stage, sealer, until},
};

on_both!(
    one_secret_is_made_and_kept,
    an_endpoint_can_have_its_own,
    both_sign_while_a_secret_is_replaced,
    without_the_right_key_nothing_is_sent
);

/// Whether this secret signed the request.
fn is_signed(request: &Request, secret: &Secret) -> bool {
    let timestamp = request.header("webhook-timestamp");
    let signed = Signed { id: request.header("webhook-id"), timestamp, signature: request.header("webhook-signature") };
    verify(secret, signed, &request.body, timestamp.parse().unwrap()).is_ok()
}

/// The secrets that sign for this endpoint, the current one first.
async fn secrets(stage: &Stage, endpoint: &str) -> Vec<Secret> {
    let kept = stage.store.secrets(&[("", endpoint)]).await.unwrap();
    kept.iter().map(|kept| sealer().open(&kept.sealed, "", endpoint).unwrap()).collect()
}

/// Delivers a test and returns the request.
async fn delivered(stage: &Stage, receiver: &Receiver) -> Request {
    let id = stage.test(&receiver.webhook([])).await;
    stage.wait_for_delivery(id, DeliveryStatus::Delivered, 1).await;
    receiver.requests().pop().unwrap()
}

async fn one_secret_is_made_and_kept(stage: Stage) {
    let receivers = [Receiver::start("200 OK").await, Receiver::start("200 OK").await];
    let ids = [stage.test(&receivers[0].webhook([])).await, stage.test(&receivers[1].webhook([])).await];
    let senders = [stage.sender(|_| {}), stage.sender(|_| {})];
    for id in ids {
        stage.wait_for_delivery(id, DeliveryStatus::Delivered, 1).await;
    }
    let again = delivered(&stage, &receivers[0]).await;
    let kept = secrets(&stage, "").await;
    assert_eq!(kept.len(), 1);
    for request in [receivers[0].requests()[0].clone(), receivers[1].request(), again] {
        assert!(is_signed(&request, &kept[0]));
        assert!(!is_signed(&request, &Secret::generate()));
    }
    for sender in senders {
        sender.stop().await;
    }
}

async fn an_endpoint_can_have_its_own(stage: Stage) {
    let sender = stage.sender(|_| {});
    let (receiver, other) = (Receiver::start("200 OK").await, Receiver::start("200 OK").await);
    let (own, endpoint) = (Secret::generate(), receiver.endpoint());
    assert!(stage.store.add_secret("", &endpoint, &sealer().seal(&own, "", &endpoint)).await.unwrap());
    let request = delivered(&stage, &receiver).await;
    assert!(is_signed(&request, &own));
    assert!(secrets(&stage, "").await.is_empty(), "the default was not needed");
    assert!(!is_signed(&delivered(&stage, &other).await, &own));
    sender.stop().await;
}

async fn both_sign_while_a_secret_is_replaced(stage: Stage) {
    let sender = stage.sender(|_| {});
    let receiver = Receiver::start("200 OK").await;
    delivered(&stage, &receiver).await;
    let (old, new) = (secrets(&stage, "").await.remove(0), Secret::generate());
    let sealed = sealer().seal(&new, "", "");
    stage.store.rotate_secret("", "", &sealed, None, Duration::from_secs(3600)).await.unwrap();
    let request = delivered(&stage, &receiver).await;
    assert!(is_signed(&request, &new) && is_signed(&request, &old));
    assert_eq!(request.header("webhook-signature").split(' ').count(), 2);

    let newest = Secret::generate();
    stage.store.rotate_secret("", "", &sealer().seal(&newest, "", ""), None, Duration::ZERO).await.unwrap();
    let request = delivered(&stage, &receiver).await;
    assert!(is_signed(&request, &newest) && !is_signed(&request, &new), "its grace is over");
    sender.stop().await;
}

async fn without_the_right_key_nothing_is_sent(stage: Stage) {
    let receiver = Receiver::start("200 OK").await;
    let secret = Secret::generate();
    assert!(stage.store.add_secret("", "", &sealer().seal(&secret, "", "")).await.unwrap());
    let id = stage.test(&receiver.webhook([])).await;
    let wrong = stage.sender(|config| config.sealer = Sealer::new([8; 32]));
    let is_put_off = async || {
        let now = stage.store.now().await.unwrap();
        let delivery = stage.delivery(id).await;
        delivery.status == DeliveryStatus::Waiting && delivery.due_at.unwrap() > now
    };
    until(is_put_off).await;
    wrong.stop().await;
    let delivery = stage.delivery(id).await;
    assert_eq!((delivery.attempts, receiver.requests().len()), (0, 0));

    let right = stage.sender(|_| {});
    stage.store.redeliver("", id).await.unwrap();
    stage.wait_for_delivery(id, DeliveryStatus::Delivered, 1).await;
    assert!(is_signed(&receiver.request(), &secret));
    right.stop().await;
}
