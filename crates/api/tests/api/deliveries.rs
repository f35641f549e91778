//! Deliveries as callers see them: listed, read with their attempts, and sent again. What a sender does is done by the tests
//! through the store.

use std::time::Duration;

use crate::harness::{Server, header, id_of, json_of, problem, until};
use prediction::{PredictionId, WorkerId};
use queue::Notice;
use serde_json::{Value, json};
use store::{Answer, Attempt, NextStep, Room, Settled, Unanswered, Written};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::broadcast::Receiver;

pub(crate) async fn create(server: &Server, webhook: &str, events: Value) -> PredictionId {
    let body =
        json!({"model": "augur/echo", "input": {"value": 1}, "webhook": webhook, "webhook_events_filter": events});
    id_of(&json_of(server.post("/v1/predictions", &body).send().await.unwrap(), 202).await)
}

/// Takes all that is due as a sender does, and settles each with this attempt.
pub(crate) async fn send_all(server: &Server, result: Result<Answer, Unanswered>, next: NextStep) -> usize {
    let lease = Duration::from_secs(60);
    let (sender, room) = (WorkerId::generate(), Room::each(100));
    let claimed = server.store.claim_deliveries(sender, &room, None, 100, lease).await.unwrap().claimed;
    let settle = |claimed: &store::ClaimedDelivery| {
        let attempt = Attempt { at: claimed.claimed_at, latency: Duration::from_millis(250), result: result.clone() };
        Settled { sending: claimed.sending, attempt: Some(attempt), next: next.clone() }
    };
    let settled: Vec<Settled> = claimed.iter().map(settle).collect();
    let written = server.store.settle_deliveries(&settled).await.unwrap();
    assert!(written.iter().all(|written| *written == Written::Applied));
    written.len()
}

fn answer(status: u16, body: &[u8]) -> Result<Answer, Unanswered> {
    Ok(Answer { status, body: body.to_vec() })
}

fn ids(page: &Value) -> Vec<&str> {
    page["results"].as_array().unwrap().iter().map(|delivery| delivery["id"].as_str().unwrap()).collect()
}

async fn follow(server: &Server, address: &Value) -> Value {
    json_of(server.client.get(address.as_str().expect("there is another page")).send().await.unwrap(), 200).await
}

async fn redeliver(server: &Server, id: &str) -> Value {
    let request = server.client.post(server.url(&format!("/v1/webhooks/deliveries/{id}/redeliver")));
    let response = request.send().await.unwrap();
    let location = header(&response, "location").to_owned();
    let delivery = json_of(response, 202).await;
    assert_eq!(delivery["urls"]["get"], location);
    delivery
}

/// How often senders were woken meanwhile.
fn wakings(notices: &mut Receiver<Notice>) -> usize {
    std::iter::from_fn(|| notices.try_recv().ok()).filter(|notice| *notice == Notice::DeliveriesDue).count()
}

#[tokio::test]
async fn a_delivery_is_followed_from_its_event_to_its_end() {
    a_delivery_from_its_event_to_its_end(&Server::start().await).await;
}

pub(crate) async fn a_delivery_from_its_event_to_its_end(server: &Server) {
    let prediction = create(server, "https://Hook.example/a?token=1", json!(["completed"])).await;
    let address = format!("/v1/webhooks/deliveries/{prediction}_completed");
    problem(server.get(&address).send().await.unwrap(), 404, "not_found").await;
    server.finish(prediction).await;
    let first = server.read(&address).await;
    let expected = json!({
        "id": format!("{prediction}_completed"), "prediction": prediction, "event": "completed",
        "url": "https://hook.example/a?token=1", "endpoint": "https://hook.example/a",
        "status": "waiting", "attempts": 0, "completed_at": null, "latest": null,
        "urls": {
            "get": server.url(&address),
            "attempts": server.url(&format!("{address}/attempts")),
            "redeliver": server.url(&format!("{address}/redeliver")),
        },
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(first[field], *value, "{field}");
    }
    for moment in ["created_at", "due_at"] {
        assert!(OffsetDateTime::parse(first[moment].as_str().unwrap(), &Rfc3339).is_ok(), "{first}");
    }
    assert_eq!(server.read(&format!("{address}/attempts")).await["results"], json!([]));

    let unanswered = Unanswered { error: "timed_out".to_owned(), message: "time was up while connecting".to_owned() };
    assert_eq!(send_all(server, Err(unanswered), NextStep::Retry { wait: Duration::ZERO }).await, 1);
    let retried = server.read(&address).await;
    assert_eq!((&retried["status"], &retried["attempts"]), (&json!("waiting"), &json!(1)));
    let error = json!({"code": "timed_out", "message": "time was up while connecting"});
    let latest = &retried["latest"];
    assert_eq!((&latest["status"], &latest["error"], &latest["latency_seconds"]), (&json!(null), &error, &json!(0.25)));

    assert_eq!(send_all(server, answer(204, b"thank \xff you"), NextStep::Delivered).await, 1);
    let delivered = server.read(&address).await;
    assert_eq!((&delivered["status"], &delivered["due_at"]), (&json!("delivered"), &json!(null)));
    assert!(delivered["completed_at"].is_string(), "{delivered}");
    assert_eq!((&delivered["latest"]["status"], &delivered["latest"]["error"]), (&json!(204), &json!(null)));
    let attempts = server.read(&format!("{address}/attempts")).await;
    let attempts = attempts["results"].as_array().unwrap();
    assert_eq!((attempts.len(), &attempts[0]["attempt"], &attempts[1]["attempt"]), (2, &json!(2), &json!(1)));
    assert_eq!((&attempts[0]["answer"], &attempts[0]["status"]), (&json!("thank \u{fffd} you"), &json!(204)));
    assert_eq!((&attempts[1]["answer"], &attempts[1]["error"]), (&json!(null), &error));

    let again = redeliver(server, &format!("{prediction}_completed")).await;
    assert_eq!(
        (&again["status"], &again["attempts"], &again["completed_at"]),
        (&json!("waiting"), &json!(2), &json!(null))
    );
    assert_eq!(send_all(server, answer(200, b""), NextStep::Delivered).await, 1);
    assert_eq!(server.read(&address).await["attempts"], 3);
    // An event that was not asked for cannot be sent, nor one that never was.
    for id in [format!("{prediction}_output"), format!("{}_completed", PredictionId::generate()), "x".to_owned()] {
        let request = server.client.post(server.url(&format!("/v1/webhooks/deliveries/{id}/redeliver")));
        problem(request.send().await.unwrap(), 404, "not_found").await;
        for path in ["", "/attempts"] {
            let path = format!("/v1/webhooks/deliveries/{id}{path}");
            problem(server.get(&path).send().await.unwrap(), 404, "not_found").await;
        }
    }
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    deliveries_are_filtered_and_paged(&Server::start().await).await;
}

pub(crate) async fn deliveries_are_filtered_and_paged(server: &Server) {
    let mut expected = Vec::new();
    let mut predictions = Vec::new();
    for number in 0..3 {
        let prediction = create(server, &format!("https://hook.example/a?n={number}"), json!(null)).await;
        server.finish(prediction).await;
        expected.splice(0..0, [format!("{prediction}_completed"), format!("{prediction}_output")]);
        predictions.push(prediction);
    }
    assert_eq!(send_all(server, answer(500, b""), NextStep::Exhausted).await, 6);
    let other = create(server, "https://other.example/", json!(["completed", "start"])).await;
    let canceled = server.client.post(server.url(&format!("/v1/predictions/{other}/cancel"))).send().await.unwrap();
    json_of(canceled, 200).await;
    let other = format!("{other}_completed");
    expected.insert(0, other.clone());

    let all = server.read("/v1/webhooks/deliveries").await;
    assert_eq!(
        (ids(&all), &all["next"], &all["previous"]),
        (expected.iter().map(|id| &**id).collect(), &Value::Null, &Value::Null)
    );
    let first = server.read("/v1/webhooks/deliveries?limit=3").await;
    let second = follow(server, &first["next"]).await;
    let third = follow(server, &second["next"]).await;
    assert_eq!([ids(&first), ids(&second), ids(&third)].concat(), expected);
    assert_eq!(third["next"], Value::Null);
    assert_eq!(ids(&follow(server, &third["previous"]).await), ids(&second));
    let front = follow(server, &second["previous"]).await;
    assert_eq!((ids(&front), &front["previous"]), (ids(&first), &Value::Null));

    let of_first = [format!("{}_completed", predictions[0]), format!("{}_output", predictions[0])];
    let of_hook: Vec<&str> = expected[1..].iter().map(|id| &**id).collect();
    for (query, expected) in [
        ("status=waiting".to_owned(), vec![&*other]),
        ("status=exhausted".to_owned(), of_hook.clone()),
        ("status=delivered".to_owned(), vec![]),
        (format!("prediction={}", predictions[0]), vec![&*of_first[0], &*of_first[1]]),
        ("endpoint=https%3A%2F%2Fother.example".to_owned(), vec![&*other]),
        ("endpoint=HTTPS://HOOK.example:443/a%3Fn%3D2%23x".to_owned(), of_hook.clone()),
        ("endpoint=http://127.0.0.1/".to_owned(), vec![]),
        ("endpoint=https://hook.example/a&status=waiting".to_owned(), vec![]),
    ] {
        assert_eq!(ids(&server.read(&format!("/v1/webhooks/deliveries?{query}")).await), expected, "{query}");
    }
    // The filters stay on from page to page.
    let page = server.read("/v1/webhooks/deliveries?status=exhausted&endpoint=https://hook.example/a&limit=4").await;
    let rest = follow(server, &page["next"]).await;
    assert_eq!([ids(&page), ids(&rest)].concat(), of_hook);
    for query in [
        "limit=0",
        "status=sent",
        "status=",
        "prediction=x",
        "endpoint=x",
        "endpoint=ftp://a.example/",
        "event=start",
        "limit=1&limit=1",
    ] {
        let response = server.get(&format!("/v1/webhooks/deliveries?{query}")).send().await.unwrap();
        problem(response, 400, "malformed_request").await;
    }
    // A cursor is good for the list and the filters it was made for.
    let cursor = first["next"].as_str().unwrap().split_once("cursor=").unwrap().1.to_owned();
    for path in [
        format!("/v1/webhooks/deliveries?status=waiting&cursor={cursor}"),
        format!("/v1/webhooks/deliveries?cursor={cursor}A"),
        format!("/v1/webhooks/deliveries/{other}/attempts?cursor={cursor}"),
        format!("/v1/webhooks/endpoints?cursor={cursor}"),
        format!("/v1/predictions?cursor={cursor}"),
    ] {
        problem(server.get(&path).send().await.unwrap(), 400, "invalid_cursor").await;
    }
}

#[tokio::test]
async fn attempts_are_paged_to_the_end_and_back() {
    attempts_to_the_end_and_back(&Server::start().await).await;
}

pub(crate) async fn attempts_to_the_end_and_back(server: &Server) {
    let prediction = create(server, "https://hook.example/", json!(["completed"])).await;
    server.finish(prediction).await;
    for status in 501..=507 {
        let answer = answer(status, status.to_string().as_bytes());
        assert_eq!(send_all(server, answer, NextStep::Retry { wait: Duration::ZERO }).await, 1);
    }
    let numbers = |page: &Value| -> Vec<u64> {
        page["results"].as_array().unwrap().iter().map(|attempt| attempt["attempt"].as_u64().unwrap()).collect()
    };
    let path = format!("/v1/webhooks/deliveries/{prediction}_completed/attempts");
    let first = server.read(&format!("{path}?limit=3")).await;
    assert_eq!((numbers(&first), &first["previous"]), (vec![7, 6, 5], &Value::Null));
    assert_eq!((&first["results"][0]["status"], &first["results"][0]["answer"]), (&json!(507), &json!("507")));
    let second = follow(server, &first["next"]).await;
    let third = follow(server, &second["next"]).await;
    assert_eq!((numbers(&second), numbers(&third), &third["next"]), (vec![4, 3, 2], vec![1], &Value::Null));
    // What is added meanwhile shifts nothing.
    assert_eq!(send_all(server, answer(508, b""), NextStep::Exhausted).await, 1);
    let back = follow(server, &third["previous"]).await;
    assert_eq!(numbers(&back), [4, 3, 2]);
    let front = follow(server, &back["previous"]).await;
    assert_eq!(numbers(&front), [7, 6, 5]);
    let newest = follow(server, &front["previous"]).await;
    assert_eq!((numbers(&newest), &newest["previous"]), (vec![8], &Value::Null));
    problem(server.get(&format!("{path}?status=waiting")).send().await.unwrap(), 400, "malformed_request").await;
    // Another delivery's cursor.
    let cursor = first["next"].as_str().unwrap().split_once("cursor=").unwrap().1.to_owned();
    let other = create(server, "https://hook.example/", json!(["completed"])).await;
    server.finish(other).await;
    let path = format!("/v1/webhooks/deliveries/{other}_completed/attempts?cursor={cursor}");
    problem(server.get(&path).send().await.unwrap(), 400, "invalid_cursor").await;
}

#[tokio::test]
async fn a_test_is_a_delivery_of_its_own() {
    let server = Server::start().await;
    let request = json!({"url": "https://hook.example/a?b"});
    let response = server.post("/v1/webhooks/test", &request).send().await.unwrap();
    let location = header(&response, "location").to_owned();
    let test = json_of(response, 202).await;
    let id = test["id"].as_str().unwrap();
    assert_eq!((&test["event"], &test["status"], &test["url"]), (&json!("test"), &json!("waiting"), &request["url"]));
    assert_eq!(
        (&test["endpoint"], id),
        (&json!("https://hook.example/a"), &*format!("{}_test", test["prediction"].as_str().unwrap()))
    );
    assert_eq!(location, server.url(&format!("/v1/webhooks/deliveries/{id}")));
    assert_eq!(server.read(&format!("/v1/webhooks/deliveries/{id}")).await, test);
    problem(
        server.get(&format!("/v1/predictions/{}", test["prediction"].as_str().unwrap())).send().await.unwrap(),
        404,
        "not_found",
    )
    .await;
    for (body, pointers) in [
        (json!({}), vec!["/url"]),
        (json!({"url": 5}), vec!["/url"]),
        (json!({"url": null}), vec!["/url"]),
        (json!({"url": "https://hook.example/", "events": ["start"]}), vec!["/events"]),
        (json!([]), vec![""]),
    ] {
        let refused = server.post("/v1/webhooks/test", &body).send().await.unwrap();
        let refused = problem(refused, 422, "invalid_request").await;
        assert_eq!(crate::harness::pointers(&refused), pointers, "{body}");
    }
    problem(server.client.post(server.url("/v1/webhooks/test")).send().await.unwrap(), 415, "unsupported_media_type")
        .await;
}

#[tokio::test]
async fn senders_are_woken_when_something_is_due_and_only_then() {
    let server = Server::start().await;
    let plain = server.create(1).await;
    let asking = create(&server, "https://hook.example/", json!(null)).await;
    let mut notices = server.queue.listen();
    let cancel = async |id| {
        let request = server.client.post(server.url(&format!("/v1/predictions/{id}/cancel")));
        json_of(request.send().await.unwrap(), 200).await;
    };
    cancel(plain).await;
    assert_eq!(wakings(&mut notices), 0);
    cancel(asking).await;
    assert_eq!(wakings(&mut notices), 1);
    // What is canceled already makes nothing due.
    cancel(asking).await;
    assert_eq!(wakings(&mut notices), 0);
    redeliver(&server, &format!("{asking}_completed")).await;
    assert_eq!(wakings(&mut notices), 1);
    let test = server.post("/v1/webhooks/test", &json!({"url": "https://hook.example/"})).send().await.unwrap();
    json_of(test, 202).await;
    assert_eq!(wakings(&mut notices), 1);
    // A deadline that passes.
    let body =
        json!({"model": "augur/echo", "input": {"value": 1}, "deadline": "50ms", "webhook": "https://hook.example/"});
    let passing = id_of(&json_of(server.post("/v1/predictions", &body).send().await.unwrap(), 202).await);
    until(|| {
        let woken = wakings(&mut notices);
        async move { (woken > 0).then_some(()) }
    })
    .await;
    let delivery = server.read(&format!("/v1/webhooks/deliveries/{passing}_completed")).await;
    assert_eq!(delivery["status"], "waiting");
}
