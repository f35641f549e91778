//! The OpenAPI document and the pages.

use std::collections::{BTreeSet, HashSet};

use crate::{
    deliveries::{create, send_all},
    harness::{Server, json_of, problem},
};
use serde_json::{Value, json};
use store::{Answer, NextStep, Unanswered};

const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];

/// Every call there is. A new route must be added here as it must be documented.
pub(crate) const CALLS: &[&str] = &[
    "delete /v1/webhooks/endpoints/{id}",
    "get /docs",
    "get /health/live",
    "get /health/ready",
    "get /openapi.json",
    "get /problems",
    "get /v1/models",
    "get /v1/models/{owner}/{name}",
    "get /v1/models/{owner}/{name}/versions",
    "get /v1/models/{owner}/{name}/versions/{id}",
    "get /v1/predictions",
    "get /v1/predictions/{id}",
    "get /v1/predictions/{id}/stream",
    "get /v1/queue",
    "get /v1/webhooks/default/secret",
    "get /v1/webhooks/deliveries",
    "get /v1/webhooks/deliveries/{id}",
    "get /v1/webhooks/deliveries/{id}/attempts",
    "get /v1/webhooks/endpoints",
    "get /v1/webhooks/endpoints/{id}",
    "get /v1/webhooks/endpoints/{id}/secret",
    "patch /v1/webhooks/endpoints/{id}",
    "post /v1/models/{owner}/{name}/predictions",
    "post /v1/predictions",
    "post /v1/predictions/{id}/cancel",
    "post /v1/webhooks/default/secret/rotate",
    "post /v1/webhooks/deliveries/{id}/redeliver",
    "post /v1/webhooks/endpoints",
    "post /v1/webhooks/endpoints/{id}/secret/rotate",
    "post /v1/webhooks/test",
    "put /v1/predictions/{id}",
];

/// The calls that put something into the queue.
const CREATE: [&str; 3] = ["createPrediction", "createPredictionOfModel", "putPrediction"];

/// Every object within, with its place.
fn walk<'a>(value: &'a Value, place: &str, see: &mut impl FnMut(&str, &'a serde_json::Map<String, Value>)) {
    match value {
        Value::Object(members) => {
            see(place, members);
            members.iter().for_each(|(name, inner)| walk(inner, &format!("{place}/{name}"), see));
        }
        Value::Array(values) => values.iter().for_each(|inner| walk(inner, place, see)),
        _ => {}
    }
}

/// A validator for one of the document's schemas, with the others at hand.
fn validator(document: &Value, name: &str) -> jsonschema::Validator {
    let schema = json!({"$ref": format!("#/components/schemas/{name}"), "components": document["components"]});
    jsonschema::draft202012::new(&schema).unwrap()
}

#[tokio::test]
async fn every_call_is_documented_and_every_document_holds() {
    let server = Server::start().await;
    let document = server.read("/openapi.json").await;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
    assert_eq!(document["servers"], json!([{"url": server.base}]));
    assert!(document["info"]["title"].is_string() && document["info"]["version"].is_string());
    let mut calls = BTreeSet::new();
    let mut operation_ids = HashSet::new();
    let mut bounded = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(METHODS.contains(&method.as_str()), "{path} {method}");
            calls.insert(format!("{method} {path}"));
            let operation_id = operation["operationId"].as_str().unwrap();
            assert!(operation_ids.insert(operation_id), "{operation_id} twice");
            assert!(operation["summary"].is_string(), "{method} {path} says what it does");
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.values().all(|response| response["description"].is_string()), "{method} {path}");
            // Without keys, or with one.
            let needs_key = path.starts_with("/v1/");
            let security = if needs_key { json!([{"apiKey": []}, {}]) } else { json!(null) };
            assert_eq!(
                (&operation["security"], responses.contains_key("401")),
                (&security, needs_key),
                "{method} {path}"
            );
            if let Some(overload) = responses.get("503").filter(|_| CREATE.contains(&operation_id)) {
                let says = |code: &str| overload["description"].as_str().unwrap().contains(&format!("`{code}`"));
                assert!(says("queue_full") && says("busy"), "{method} {path}: {overload}");
                assert_eq!(overload["headers"]["Retry-After"]["schema"]["type"], "integer", "{method} {path}");
                for limit in [overload, &responses["429"]] {
                    for header in ["Retry-After", "RateLimit", "RateLimit-Policy"] {
                        assert!(limit["headers"][header]["schema"].is_object(), "{method} {path}: {header}");
                    }
                }
                bounded += 1;
            }
            let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
            let in_path: BTreeSet<&str> = parameters
                .iter()
                .filter(|parameter| parameter["in"] == "path")
                .map(|parameter| {
                    assert_eq!(parameter["required"], true);
                    parameter["name"].as_str().unwrap()
                })
                .collect();
            let named: BTreeSet<&str> = path.split(['{', '}']).skip(1).step_by(2).collect();
            assert_eq!(in_path, named, "{method} {path}");
            assert!(parameters.iter().all(|parameter| parameter["schema"].is_object()), "{method} {path}");
        }
    }
    assert_eq!(document["components"]["securitySchemes"]["apiKey"]["scheme"], "bearer");
    assert_eq!(bounded, CREATE.len());
    assert_eq!(calls, CALLS.iter().map(|call| (*call).to_owned()).collect());
    walk(&document, "#", &mut |place, members| {
        if let Some(Value::String(reference)) = members.get("$ref") {
            let pointer = reference.strip_prefix('#').expect("references stay within");
            assert!(document.pointer(pointer).is_some(), "{place}: {reference} leads nowhere");
        }
    });
    for name in document["components"]["schemas"].as_object().unwrap().keys() {
        validator(&document, name);
    }
}

/// The path with the id of a delivery or endpoint that was not there before.
async fn with_webhooks(server: &Server, path: &str) -> String {
    let url = json!({"url": format!("https://hook.example/{}", uuid::Uuid::now_v7())});
    if path.contains("/deliveries/{id}") {
        let test = json_of(server.post("/v1/webhooks/test", &url).send().await.unwrap(), 202).await;
        path.replace("{id}", test["id"].as_str().unwrap())
    } else if path.contains("/endpoints/{id}") {
        let endpoint = json_of(server.post("/v1/webhooks/endpoints", &url).send().await.unwrap(), 201).await;
        path.replace("{id}", endpoint["id"].as_str().unwrap())
    } else {
        path.to_owned()
    }
}

#[tokio::test]
async fn every_documented_call_is_served() {
    let server = Server::start().await;
    for call in CALLS {
        let (method, path) = call.split_once(' ').unwrap();
        let path = path.replace("{owner}", "augur").replace("{name}", "echo");
        let path = path.replace("versions/{id}", "versions/aaaaaaaaaaaa");
        let path = with_webhooks(&server, &path).await;
        let path = path.replace("{id}", &server.create(1).await.to_string());
        let method = method.to_uppercase().parse().unwrap();
        let response = server.client.request(method, server.url(&path)).send().await.unwrap();
        // Calls without the body they need are refused for that, not for their address.
        assert!(!matches!(response.status().as_u16(), 404 | 405 | 500..), "{call}: {}", response.status());
    }
}

#[tokio::test]
async fn answers_are_what_the_document_says() {
    let server = Server::start().await;
    let document = server.read("/openapi.json").await;
    let holds = |name: &str, answer: &Value| {
        let faults: Vec<String> = validator(&document, name)
            .iter_errors(answer)
            .map(|error| format!("{}: {error}", error.instance_path().as_str()))
            .collect();
        assert_eq!(faults, Vec::<String>::new(), "{name}: {answer}");
    };
    // Every field is described, and what is described is there.
    let describes = |name: &str, answer: &Value| {
        let schema = &document["components"]["schemas"][name];
        let described: BTreeSet<&String> = schema["properties"].as_object().unwrap().keys().collect();
        for field in answer.as_object().unwrap().keys() {
            assert!(described.contains(field), "{name} describes {field}");
        }
    };
    let waiting = server.create(1).await;
    let waiting = server.read(&format!("/v1/predictions/{waiting}")).await;
    let done = server.create(1).await;
    server.finish(done).await;
    let done = server.read(&format!("/v1/predictions/{done}")).await;
    let canceled = server.create(1).await;
    server.client.post(server.url(&format!("/v1/predictions/{canceled}/cancel"))).send().await.unwrap();
    let canceled = server.read(&format!("/v1/predictions/{canceled}")).await;
    let told = create(&server, "https://hook.example/", json!(["start", "completed"])).await;
    let told = server.read(&format!("/v1/predictions/{told}")).await;
    for prediction in [&waiting, &done, &canceled, &told] {
        holds("Prediction", prediction);
        describes("Prediction", prediction);
    }
    describes("Metrics", &done["metrics"]);
    describes("Failure", &canceled["failure"]);
    describes("QueuePlace", &waiting["queue"]);
    for (name, path) in [
        ("PredictionPage", "/v1/predictions?limit=1"),
        ("ModelPage", "/v1/models"),
        ("Model", "/v1/models/augur/echo"),
        ("VersionPage", "/v1/models/augur/echo/versions"),
        ("Version", "/v1/models/augur/echo/versions/aaaaaaaaaaaa"),
        ("QueueView", "/v1/queue"),
        ("Health", "/health/ready"),
    ] {
        let answer = server.read(path).await;
        holds(name, &answer);
        describes(name, &answer);
    }
    let refused = server.post("/v1/predictions", &json!({})).send().await.unwrap();
    let refused = problem(refused, 422, "invalid_request").await;
    holds("Problem", &refused);
    describes("Problem", &refused);
    holds("PredictionRequest", &json!({"model": "augur/echo", "input": 5, "priority": "low", "metadata": {}}));
    let asking =
        json!({"model": "a/b", "input": 5, "webhook": "https://hook.example/", "webhook_events_filter": ["logs"]});
    holds("PredictionRequest", &asking);
    for wrong in
        [json!({"input": 5, "webhooks": "x"}), json!({"input": 5, "webhook": "x", "webhook_events_filter": []})]
    {
        assert!(!validator(&document, "PredictionRequest").is_valid(&wrong), "{wrong}");
    }
}

#[tokio::test]
async fn answers_about_webhooks_are_what_the_document_says() {
    let server = Server::start().await;
    let document = server.read("/openapi.json").await;
    let check = |name: &str, answer: &Value| {
        let faults: Vec<String> =
            validator(&document, name).iter_errors(answer).map(|error| error.to_string()).collect();
        assert_eq!(faults, Vec::<String>::new(), "{name}: {answer}");
        let schema = &document["components"]["schemas"][name];
        let described: BTreeSet<&String> = schema["properties"].as_object().unwrap().keys().collect();
        assert_eq!(described, answer.as_object().unwrap().keys().collect(), "{name}");
    };
    let path = |id: prediction::PredictionId| format!("/v1/webhooks/deliveries/{id}_completed");
    let mut told = Vec::new();
    for result in [
        Ok(Answer { status: 410, body: b"gone".to_vec() }),
        Err(Unanswered { error: "connect".to_owned(), message: "could not connect".to_owned() }),
    ] {
        let id = create(&server, "https://hook.example/", json!(["completed"])).await;
        server.finish(id).await;
        let next = if result.is_ok() { NextStep::Gone } else { NextStep::Exhausted };
        assert_eq!(send_all(&server, result, next).await, 1);
        told.push(id);
    }
    let waiting = create(&server, "https://hook.example/", json!(["completed"])).await;
    server.finish(waiting).await;
    for id in [told[0], told[1], waiting] {
        check("Delivery", &server.read(&path(id)).await);
    }
    for id in told {
        let attempts = server.read(&format!("{}/attempts", path(id))).await;
        check("AttemptPage", &attempts);
        check("Attempt", &attempts["results"][0]);
        let delivery = server.read(&path(id)).await;
        check("LatestAttempt", &delivery["latest"]);
        check("DeliveryUrls", &delivery["urls"]);
    }
    check("DeliveryPage", &server.read("/v1/webhooks/deliveries?limit=1").await);
    let endpoints = server.read("/v1/webhooks/endpoints").await;
    check("EndpointPage", &endpoints);
    check("Endpoint", &endpoints["results"][0]);
    check("WebhookSecret", &server.read("/v1/webhooks/default/secret").await);
    let refused = server.post("/v1/webhooks/test", &json!({"url": "ftp://hook.example/"})).send().await.unwrap();
    check("Fault", &problem(refused, 422, "invalid_webhook").await["errors"][0]);
}

#[tokio::test]
async fn the_pages_come_from_here_alone() {
    let server = Server::start().await;
    let response = server.get("/docs").send().await.unwrap();
    assert_eq!(response.url().path(), "/docs/");
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
    assert!(response.headers()["content-security-policy"].to_str().unwrap().starts_with("default-src 'self'"));
    let page = response.text().await.unwrap();
    let mut parts = 0;
    for part in page.split(['"', '\'']).filter(|text| text.ends_with(".js") || text.ends_with(".css")) {
        assert!(!part.contains("//"), "{part} is elsewhere");
        let response = server.get(&format!("/docs/{}", part.trim_start_matches("./"))).send().await.unwrap();
        assert_eq!(response.status(), 200, "{part}");
        parts += 1;
    }
    assert!(parts >= 3, "{page}");
    let start = server.get("/docs/swagger-initializer.js").send().await.unwrap().text().await.unwrap();
    assert!(start.contains("../openapi.json") && start.contains("\"validatorUrl\": \"none\""), "{start}");
    problem(server.get("/docs/nothing.js").send().await.unwrap(), 404, "not_found").await;
}

#[tokio::test]
async fn every_problem_is_explained() {
    let server = Server::start().await;
    let refused = problem(server.get("/v1/nothing").send().await.unwrap(), 404, "not_found").await;
    let address = refused["type"].as_str().unwrap();
    let page = server.client.get(address).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("id=\"not_found\""), "{page}");
    let document = server.read("/openapi.json").await.to_string();
    for code in
        ["invalid_json", "invalid_input", "idempotency_key_reused", "id_conflict", "invalid_webhook", "webhooks_off"]
    {
        assert!(page.contains(&format!("id=\"{code}\"")) && document.contains(&format!("`{code}`")), "{code}");
    }
}
