//! Endpoints of which something is remembered.

use crate::{
    deliveries::{create, send_all},
    harness::{Server, header, json_of, pointers, problem},
};
use serde_json::{Value, json};
use store::{Answer, NextStep};

pub(crate) async fn add(server: &Server, url: &str) -> Value {
    json_of(server.post("/v1/webhooks/endpoints", &json!({"url": url})).send().await.unwrap(), 201).await
}

async fn change(server: &Server, endpoint: &Value, change: Value) -> reqwest::Response {
    server.client.patch(endpoint["urls"]["get"].as_str().unwrap()).json(&change).send().await.unwrap()
}

#[tokio::test]
async fn an_endpoint_is_added_read_changed_and_forgotten() {
    added_read_changed_and_forgotten(&Server::start().await).await;
}

pub(crate) async fn added_read_changed_and_forgotten(server: &Server) {
    let request = json!({"url": "HTTPS://Hook.example/a?token=1#x", "body": "event"});
    let response = server.post("/v1/webhooks/endpoints", &request).send().await.unwrap();
    let location = header(&response, "location").to_owned();
    let added = json_of(response, 201).await;
    let expected = json!({
        "id": added["id"], "url": "https://hook.example/a", "body": "event", "created_at": added["created_at"],
        "disabled_at": null, "urls": {"get": location, "secret": format!("{location}/secret")},
    });
    assert_eq!(added, expected);
    assert_eq!(location, server.url(&format!("/v1/webhooks/endpoints/{}", added["id"].as_str().unwrap())));
    // Known already, in other words, and left as it is.
    let again = json!({"url": "https://hook.example:443/a", "body": "prediction"});
    let response = server.post("/v1/webhooks/endpoints", &again).send().await.unwrap();
    assert_eq!(json_of(response, 200).await, added);
    let path = format!("/v1/webhooks/endpoints/{}", added["id"].as_str().unwrap());
    assert_eq!(server.read(&path).await, added);

    assert_eq!(json_of(change(server, &added, json!({})).await, 200).await, added);
    let changed = json_of(change(server, &added, json!({"body": "prediction", "disabled": null})).await, 200).await;
    assert_eq!((&changed["body"], &changed["disabled_at"]), (&json!("prediction"), &json!(null)));
    let disabled = json_of(change(server, &added, json!({"disabled": true})).await, 200).await;
    assert!(disabled["disabled_at"].is_string() && disabled["body"] == "prediction", "{disabled}");
    let still = json_of(change(server, &added, json!({"disabled": true})).await, 200).await;
    assert_eq!(still, disabled);
    let enabled = json_of(change(server, &added, json!({"disabled": false, "body": "event"})).await, 200).await;
    assert_eq!(enabled, added);
    for (body, expected) in [
        (json!({"body": "bare"}), vec!["/body"]),
        (json!({"body": 1, "disabled": "yes", "url": "https://other.example/"}), vec!["/body", "/disabled", "/url"]),
        (json!([true]), vec![""]),
    ] {
        let refused = problem(change(server, &added, body.clone()).await, 422, "invalid_request").await;
        assert_eq!(pointers(&refused), expected, "{body}");
    }
    let request = server.client.patch(server.url(&path)).header("content-type", "application/json");
    problem(request.body("{").send().await.unwrap(), 400, "invalid_json").await;
    assert_eq!(server.read(&path).await, added);

    let response = server.client.delete(server.url(&path)).send().await.unwrap();
    assert_eq!(response.status(), 204);
    for request in [
        server.get(&path),
        server.client.delete(server.url(&path)),
        server.client.patch(server.url(&path)).json(&json!({"disabled": true})),
        server.get(&format!("{path}/secret")),
        server.client.post(server.url(&format!("{path}/secret/rotate"))),
        server.get("/v1/webhooks/endpoints/x"),
        server.get(&format!("/v1/webhooks/endpoints/{}", uuid::Uuid::now_v7().simple())),
    ] {
        problem(request.send().await.unwrap(), 404, "not_found").await;
    }
}

#[tokio::test]
async fn wrong_requests_are_pointed_at() {
    let server = Server::start().await;
    for (body, expected) in [
        (json!({}), vec!["/url"]),
        (json!({"url": ["https://hook.example/"], "body": "both"}), vec!["/body", "/url"]),
        (json!({"url": "https://hook.example/", "secret": "whsec_x", "disabled": true}), vec!["/disabled", "/secret"]),
    ] {
        let refused = server.post("/v1/webhooks/endpoints", &body).send().await.unwrap();
        assert_eq!(pointers(&problem(refused, 422, "invalid_request").await), expected, "{body}");
    }
    assert_eq!(server.read("/v1/webhooks/endpoints").await["results"], json!([]));
}

#[tokio::test]
async fn they_are_listed_page_by_page() {
    let server = Server::start().await;
    let mut expected = Vec::new();
    for number in 0..5 {
        expected.insert(0, add(&server, &format!("https://hook.example/{number}")).await);
    }
    let follow = async |address: &Value| {
        let address = address.as_str().expect("there is another page");
        json_of(server.client.get(address).send().await.unwrap(), 200).await
    };
    let results = |page: &Value| page["results"].as_array().unwrap().clone();
    let first = server.read("/v1/webhooks/endpoints?limit=2").await;
    assert_eq!((results(&first), &first["previous"]), (expected[..2].to_vec(), &Value::Null));
    let second = follow(&first["next"]).await;
    let third = follow(&second["next"]).await;
    assert_eq!((results(&second), results(&third)), (expected[2..4].to_vec(), expected[4..].to_vec()));
    assert_eq!(third["next"], Value::Null);
    assert_eq!(results(&follow(&third["previous"]).await), results(&second));
    for query in ["limit=101", "url=x"] {
        let response = server.get(&format!("/v1/webhooks/endpoints?{query}")).send().await.unwrap();
        problem(response, 400, "malformed_request").await;
    }
}

#[tokio::test]
async fn one_that_wants_no_more_is_there_to_be_enabled_again() {
    let server = Server::start().await;
    let prediction = create(&server, "https://hook.example/?a", json!(["completed"])).await;
    server.finish(prediction).await;
    assert_eq!(send_all(&server, Ok(Answer { status: 410, body: Vec::new() }), NextStep::Gone).await, 1);
    let delivery = server.read(&format!("/v1/webhooks/deliveries/{prediction}_completed")).await;
    assert_eq!((&delivery["status"], &delivery["latest"]["status"]), (&json!("disabled"), &json!(410)));
    let endpoints = server.read("/v1/webhooks/endpoints").await;
    let endpoint = &endpoints["results"][0];
    assert_eq!((&endpoint["url"], &endpoint["body"]), (&json!("https://hook.example/"), &json!("prediction")));
    assert!(endpoint["disabled_at"].is_string(), "{endpoint}");
    let enabled = json_of(change(&server, endpoint, json!({"disabled": false})).await, 200).await;
    assert_eq!(enabled["disabled_at"], Value::Null);
}
