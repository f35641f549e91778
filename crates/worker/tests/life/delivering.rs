//! How events arrive: each once it has happened, signed, in the form that its endpoint wants, whoever sends it.

use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use prediction::{BodyForm, DeliveryStatus, Event, Events, PredictionId, Status};
use serde_json::{Value, json};
use store::Webhook;

use crate::{
    receiver::Receiver,
    stage::{PATIENCE, Stage, of, until},
};

on_both!(
    each_event_arrives_once_in_its_form,
    only_what_is_wanted_is_told,
    a_large_output_arrives_whole,
    receivers_that_hold_on_to_large_bodies_leave_memory_to_others,
    a_test_arrives,
    a_stopping_sender_hands_back_what_is_not_answered,
    a_killed_senders_deliveries_are_sent_again_with_the_same_id,
    a_dead_receiver_does_not_hold_up_another,
    a_broken_path_does_not_hold_up_its_neighbour,
    a_dead_receiver_with_many_paths_does_not_take_all_slots
);

async fn each_event_arrives_once_in_its_form(stage: Stage) {
    let worker = stage.worker(|_| {}).await;
    let sender = stage.sender(|config| config.public_url = Some("https://augur.example".to_owned()));
    let (bare, enveloped) = (Receiver::start("204 No Content").await, Receiver::start("200 OK").await);
    stage.store.add_endpoint("", &enveloped.endpoint(), BodyForm::Event).await.unwrap();
    let events = [Event::Start, Event::Output, Event::Logs, Event::Completed];
    for (receiver, form) in [(&bare, BodyForm::Prediction), (&enveloped, BodyForm::Event)] {
        let id = stage.send(vec![json!({"value": 7})], |new| new.webhook = Some(receiver.webhook(events))).await[0];
        // Echo prints nothing, so that there are no logs to tell of.
        let told = [Event::Start, Event::Output, Event::Completed];
        for event in told {
            stage.wait_for_delivery(of(id, event), DeliveryStatus::Delivered, 1).await;
        }
        let whole = &stage.get(&[id]).await[0];
        let mut requests = receiver.requests();
        requests.sort_by_key(|request| request.header("augur-sequence").to_owned());
        assert_eq!(requests.len(), told.len());
        for (request, event) in requests.iter().zip(told) {
            assert_eq!(request.line(), "POST /hook?x=1 HTTP/1.1");
            assert_eq!(request.header("webhook-id"), format!("{id}_{event}"));
            assert_eq!(request.header("augur-event"), event.as_str());
            let body = request.json();
            let prediction = match form {
                BodyForm::Prediction => &body,
                BodyForm::Event => {
                    assert_eq!(body["type"], format!("prediction.{event}"));
                    &body["data"]
                }
            };
            let (status, output) = match event {
                Event::Completed => ("succeeded", json!(7)),
                Event::Output => ("processing", json!(7)),
                _ => ("processing", Value::Null),
            };
            assert_eq!((&prediction["status"], &prediction["output"]), (&json!(status), &output), "{event}");
            assert_eq!(prediction["urls"]["get"], format!("https://augur.example/v1/predictions/{id}"));
            if event == Event::Completed {
                let mut stored = serde_json::to_value(whole).unwrap();
                stored["urls"] = prediction["urls"].clone();
                assert_eq!(prediction, &stored);
            }
        }
    }
    sender.stop().await;
    worker.stop().await;
}

async fn only_what_is_wanted_is_told(stage: Stage) {
    let (worker, sender) = (stage.worker(|_| {}).await, stage.sender(|_| {}));
    let receiver = Receiver::start("200 OK").await;
    let ids = stage
        .send(vec![json!({"value": 1}), json!({"value": 1, "fail": "permanent"})], |new| {
            new.webhook = Some(receiver.webhook(Events::USUAL.iter()));
        })
        .await;
    stage.wait_for(&ids[..1], Status::Succeeded).await;
    stage.wait_for(&ids[1..], Status::Failed).await;
    let told = [(ids[0], Event::Output), (ids[0], Event::Completed), (ids[1], Event::Completed)];
    for (id, event) in told {
        stage.wait_for_delivery(of(id, event), DeliveryStatus::Delivered, 1).await;
    }
    for (id, event) in [(ids[0], Event::Start), (ids[1], Event::Output)] {
        assert_eq!(stage.store.delivery("", of(id, event)).await.unwrap(), None);
    }
    assert_eq!(receiver.requests().len(), told.len());
    sender.stop().await;
    worker.stop().await;
}

async fn a_large_output_arrives_whole(stage: Stage) {
    let (worker, sender) = (stage.worker(|_| {}).await, stage.sender(|_| {}));
    let receiver = Receiver::start("200 OK").await;
    let value = "x".repeat(300_000);
    let input = json!({"value": value});
    let id = stage.send(vec![input], |new| new.webhook = Some(receiver.webhook([Event::Completed]))).await[0];
    stage.wait_for_delivery(of(id, Event::Completed), DeliveryStatus::Delivered, 1).await;
    assert_eq!(receiver.request().json()["output"], value);
    sender.stop().await;
    worker.stop().await;
}

async fn receivers_that_hold_on_to_large_bodies_leave_memory_to_others(stage: Stage) {
    let worker = stage.worker(|_| {}).await;
    let sender = stage.sender(|config| config.grace = Duration::ZERO);
    let (tarpit, healthy) = (Receiver::start("").await, Receiver::start("200 OK").await);
    // With its input, a body of the largest size, of which there are two at once.
    let input = json!({"value": "x".repeat(700_000)});
    let send = async |webhooks: Vec<Webhook>| {
        let mut ids = Vec::new();
        for webhook in webhooks {
            ids.extend(stage.send(vec![input.clone()], |new| new.webhook = Some(webhook.clone())).await);
        }
        ids
    };
    let to_healthy = healthy.webhook([Event::Completed]);
    let arrive = async |ids: Vec<PredictionId>| {
        for id in ids {
            stage.wait_for_delivery(of(id, Event::Completed), DeliveryStatus::Delivered, 1).await;
        }
    };
    arrive(send(vec![to_healthy.clone()]).await).await;

    let tarpits = (1..=6).map(|host| tarpit.webhook_on(&format!("127.0.1.{host}"), [Event::Completed]));
    let begun = Instant::now();
    send(tarpits.collect()).await;
    until(async || !tarpit.requests().is_empty()).await;
    arrive(send(vec![to_healthy; 10]).await).await;
    // The first of them holds on to its body for as long as an attempt may take, and the rest wait for it.
    let (tried, rounds) = (tarpit.requests().len(), 1 + begun.elapsed().as_secs() / 15);
    assert!(tried as u64 <= rounds, "{tried} held on to their bodies in {rounds} times an attempt's duration");
    sender.stop().await;
    worker.stop().await;
}

async fn a_test_arrives(stage: Stage) {
    let sender = stage.sender(|_| {});
    let receiver = Receiver::start("200 OK").await;
    let id = stage.test(&receiver.webhook([])).await;
    let delivery = stage.wait_for_delivery(id, DeliveryStatus::Delivered, 1).await;
    let attempts = stage.store.delivery_attempts("", id, None, 10).await.unwrap();
    let [(1, attempt)] = &attempts[..] else { panic!("{attempts:?}") };
    let answer = attempt.result.as_ref().unwrap();
    assert_eq!((answer.status, &answer.body[..]), (200, &b"ok"[..]));
    assert_eq!(delivery.latest.unwrap().at, attempt.at);
    let request = receiver.request();
    assert_eq!(request.header("webhook-timestamp"), attempt.at.unix_timestamp().to_string());
    assert_eq!(request.header("augur-event"), "test");
    assert_eq!(request.json()["source"], "test");
    sender.stop().await;
}

async fn a_stopping_sender_hands_back_what_is_not_answered(stage: Stage) {
    let receiver = Receiver::start("").await;
    let id = stage.test(&receiver.webhook([])).await;
    let first = stage.sender(|config| config.grace = Duration::ZERO);
    until(async || !receiver.requests().is_empty()).await;
    first.stop().await;
    let delivery = stage.delivery(id).await;
    assert_eq!((delivery.status, delivery.attempts), (DeliveryStatus::Waiting, 0));
    assert!(delivery.due_at.unwrap() <= stage.store.now().await.unwrap(), "at once");
    receiver.say("200 OK");
    let second = stage.sender(|_| {});
    stage.wait_for_delivery(id, DeliveryStatus::Delivered, 1).await;
    second.stop().await;
}

async fn a_killed_senders_deliveries_are_sent_again_with_the_same_id(stage: Stage) {
    let receiver = Receiver::start("").await;
    let id = stage.test(&receiver.webhook([])).await;
    let first = stage.sender(|_| {});
    until(async || !receiver.requests().is_empty()).await;
    first.kill().await;
    receiver.say("200 OK");
    let second = stage.sender(|_| {});
    stage.wait_for_delivery(id, DeliveryStatus::Delivered, 1).await;
    let requests = receiver.requests();
    assert_eq!(requests.len(), 2);
    for request in requests {
        assert_eq!(request.header("webhook-id"), id.to_string());
    }
    second.stop().await;
}

async fn a_dead_receiver_does_not_hold_up_another(stage: Stage) {
    let (dead, healthy) = (Receiver::start("").await, Receiver::start("200 OK").await);
    let (to_dead, to_healthy) = (dead.webhook([]), healthy.webhook([]));
    let add = async |_| {
        stage.test(&to_dead).await;
    };
    stream::iter(0..2000).for_each_concurrent(8, add).await;
    let sender = stage.sender(|config| config.grace = Duration::ZERO);
    until(async || !dead.requests().is_empty()).await;
    let ids: Vec<_> = stream::iter(0..50).then(async |_| stage.test(&to_healthy).await).collect().await;
    for id in ids {
        stage.wait_for_delivery(id, DeliveryStatus::Delivered, 1).await;
    }
    // 16 at once, and a few that see whether it is well again when this machine is slow.
    let attempts = dead.requests().len();
    assert!((1..=16 + PATIENCE.as_secs() as usize).contains(&attempts), "{attempts} attempts at the dead one");
    sender.stop().await;
}

async fn a_broken_path_does_not_hold_up_its_neighbour(stage: Stage) {
    let gateway = Receiver::start("200 OK").await;
    gateway.say_at("/dead", "500 Broken");
    let (dead, ok) = (gateway.webhook_at("/dead"), gateway.webhook_at("/ok"));
    let add = async |_| {
        stage.test(&dead).await;
    };
    stream::iter(0..2000).for_each_concurrent(8, add).await;
    let sender = stage.sender(|config| config.grace = Duration::ZERO);
    // Enough for the broken one to be given a rest.
    until(async || gateway.requests().len() >= 5).await;
    let ids: Vec<_> = stream::iter(0..50).then(async |_| stage.test(&ok).await).collect().await;
    for id in ids {
        stage.wait_for_delivery(id, DeliveryStatus::Delivered, 1).await;
    }
    let attempts = gateway.requests().iter().filter(|request| request.path() == "/dead").count();
    // 16 at once, and a few that see whether it is well again when this machine is slow.
    assert!((5..=32 + PATIENCE.as_secs() as usize).contains(&attempts), "{attempts} attempts at the broken one");
    sender.stop().await;
}

async fn a_dead_receiver_with_many_paths_does_not_take_all_slots(stage: Stage) {
    let (dead, healthy) = (Receiver::start("").await, Receiver::start("200 OK").await);
    let paths: Vec<_> = (0..500).map(|job| dead.webhook_at(&format!("/hook/{job}"))).collect();
    let add = async |to| {
        stage.test(to).await;
    };
    stream::iter(&paths).for_each_concurrent(8, add).await;
    let sender = stage.sender(|config| {
        config.in_flight = 16;
        config.grace = Duration::ZERO;
    });
    until(async || dead.requests().len() >= 4).await;
    let to_healthy = healthy.webhook([]);
    let ids: Vec<_> = stream::iter(0..50).then(async |_| stage.test(&to_healthy).await).collect().await;
    for id in ids {
        stage.wait_for_delivery(id, DeliveryStatus::Delivered, 1).await;
    }
    let attempts = dead.requests().len();
    // A quarter of the slots, again after each time-out until it is given a rest, when this machine is slow.
    assert!(attempts < 50, "{attempts} attempts at the dead one");
    sender.stop().await;
}
