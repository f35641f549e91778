//! Repeating requests.

use std::collections::HashSet;

use crate::harness::{Server, header, id_of, json_of, problem};
use serde_json::{Value, json};
use uuid::Uuid;

fn body(value: impl Into<Value>) -> Value {
    json!({"model": "augur/echo", "input": {"value": value.into()}})
}

/// The same but for what changes with time.
fn lasting(mut prediction: Value) -> Value {
    let fields = prediction.as_object_mut().unwrap();
    fields.remove("queue");
    fields.remove("created_at");
    prediction
}

#[tokio::test]
async fn the_same_key_and_request_give_the_same_prediction() {
    let server = Server::start().await;
    let post = |body: Value| server.post("/v1/predictions", &body).header("idempotency-key", "order 17~");
    let first = post(body(1)).send().await.unwrap();
    assert!(!first.headers().contains_key("idempotent-replayed"));
    let first = json_of(first, 202).await;
    let again = post(body(1)).send().await.unwrap();
    assert_eq!(header(&again, "idempotent-replayed"), "true");
    assert_eq!(lasting(json_of(again, 202).await), lasting(first.clone()));
    // The same in other words, by another way.
    let spelt = server.post("/v1/models/augur/echo/predictions", &json!({"priority": "normal", "input": {"value": 1}}));
    let again = spelt.header("idempotency-key", "order 17~").send().await.unwrap();
    assert_eq!(id_of(&json_of(again, 202).await), id_of(&first));

    server.finish(id_of(&first)).await;
    let again = post(body(1)).header("prefer", "wait").send().await.unwrap();
    assert_eq!(header(&again, "idempotent-replayed"), "true");
    assert_eq!(json_of(again, 200).await["status"], "succeeded");
    problem(post(body(2)).send().await.unwrap(), 422, "idempotency_key_reused").await;
    assert_eq!(server.read("/v1/predictions").await["results"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_webhook_is_part_of_the_request() {
    let server = Server::start().await;
    let post = |webhook: Value, events: Value| {
        let mut body = body(1);
        body["webhook"] = webhook;
        body["webhook_events_filter"] = events;
        server.post("/v1/predictions", &body).header("idempotency-key", "k").send()
    };
    let first = json_of(post(json!("https://hook.example/"), json!(null)).await.unwrap(), 202).await;
    for (webhook, events) in
        [("HTTPS://Hook.example:443", json!(null)), ("https://hook.example", json!(["completed", "output"]))]
    {
        let again = post(json!(webhook), events).await.unwrap();
        assert_eq!(header(&again, "idempotent-replayed"), "true");
        assert_eq!(lasting(json_of(again, 202).await), lasting(first.clone()));
    }
    for (webhook, events) in [
        (json!(null), json!(null)),
        (json!("https://hook.example/?a"), json!(null)),
        (json!("https://hook.example/"), json!(["completed"])),
    ] {
        problem(post(webhook, events).await.unwrap(), 422, "idempotency_key_reused").await;
    }
}

#[tokio::test]
async fn a_replay_can_wait_for_the_first_ones_result() {
    let server = Server::start().await;
    let post = || server.post("/v1/predictions", &body(1)).header("idempotency-key", "k");
    let id = id_of(&json_of(post().send().await.unwrap(), 202).await);
    let (again, ()) = tokio::join!(post().header("prefer", "wait").send(), server.finish(id));
    assert_eq!(json_of(again.unwrap(), 200).await["output"], id.to_string());
}

#[tokio::test]
async fn keys_that_are_not_printable_or_too_long_are_refused() {
    let server = Server::start().await;
    let with = |key: &[u8]| {
        server
            .post("/v1/predictions", &body(1))
            .header("idempotency-key", reqwest::header::HeaderValue::from_bytes(key).unwrap())
    };
    for key in [b"".as_slice(), &[b'k'; 256], b"a\tb", "é".as_bytes(), b"\xff"] {
        problem(with(key).send().await.unwrap(), 400, "malformed_request").await;
    }
    let twice = with(b"a").header("idempotency-key", "b");
    problem(twice.send().await.unwrap(), 400, "malformed_request").await;
    json_of(with(&[b'k'; 255]).send().await.unwrap(), 202).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_repetitions_make_one_prediction() {
    let server = Server::start().await;
    for round in 0..5 {
        let key = format!("round {round}");
        let requests =
            (0..64).map(|_| server.post("/v1/predictions", &body(round)).header("idempotency-key", &key).send());
        let mut ids = HashSet::new();
        let mut first = 0;
        for response in futures::future::join_all(requests).await {
            let response = response.unwrap();
            first += usize::from(!response.headers().contains_key("idempotent-replayed"));
            ids.insert(id_of(&json_of(response, 202).await));
        }
        assert_eq!((ids.len(), first), (1, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_conflicts_have_one_winner() {
    let server = Server::start().await;
    let requests =
        (0..32).map(|value| server.post("/v1/predictions", &body(value)).header("idempotency-key", "k").send());
    let statuses: Vec<u16> = futures::future::join_all(requests)
        .await
        .into_iter()
        .map(|response| response.unwrap().status().as_u16())
        .collect();
    assert_eq!(statuses.iter().filter(|status| **status == 202).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 422).count(), 31, "{statuses:?}");
}

#[tokio::test]
async fn a_put_can_be_repeated() {
    let server = Server::start().await;
    for id in [Uuid::new_v4(), Uuid::now_v7(), Uuid::nil()] {
        let path = format!("/v1/predictions/{id}");
        let first = json_of(server.put(&path, &body(1)).send().await.unwrap(), 202).await;
        assert_eq!(first["id"], id.to_string());
        let again = server.put(&path, &body(1)).send().await.unwrap();
        assert_eq!(header(&again, "idempotent-replayed"), "true");
        assert_eq!(lasting(json_of(again, 202).await), lasting(first));
        problem(server.put(&path, &body(2)).send().await.unwrap(), 409, "id_conflict").await;
        server.finish(prediction::PredictionId(id)).await;
        assert_eq!(json_of(server.put(&path, &body(1)).send().await.unwrap(), 200).await["status"], "succeeded");
    }
    // Upper-case digits are the same id.
    let id = Uuid::new_v4();
    let upper = format!("/v1/predictions/{}", id.to_string().to_uppercase());
    assert_eq!(json_of(server.put(&upper, &body(1)).send().await.unwrap(), 202).await["id"], id.to_string());
}
