//! The secrets that sign webhooks: who is shown which, and that nothing else shows any.

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex},
};

use crate::{
    endpoints::add,
    harness::{Server, json_of, pointers, problem},
};
use serde_json::{Value, json};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};
use webhook::{Sealer, Secret};

const DEFAULT: &str = "/v1/webhooks/default/secret";

async fn key(server: &Server, path: &str) -> String {
    let answer = server.read(path).await;
    assert_eq!(answer.as_object().unwrap().len(), 1, "{answer}");
    let key = answer["key"].as_str().unwrap().to_owned();
    assert!(key.starts_with("whsec_") && key.parse::<Secret>().is_ok());
    key
}

async fn rotate(server: &Server, path: &str, body: Option<Value>) -> reqwest::Response {
    let request = server.client.post(server.url(&format!("{path}/rotate")));
    let request = match body {
        Some(body) => request.json(&body),
        None => request,
    };
    request.send().await.unwrap()
}

async fn rotated(server: &Server, path: &str, body: Option<Value>) -> String {
    json_of(rotate(server, path, body).await, 200).await["key"].as_str().unwrap().to_owned()
}

/// What signs for the endpoint, as a sender opens it.
async fn signing(server: &Server, endpoint: &str) -> Vec<String> {
    let sealer = Sealer::new([7; 32]);
    let sealed = server.store.secrets(&[("", endpoint)]).await.unwrap();
    sealed.iter().map(|secret| sealer.open(&secret.sealed, "", endpoint).unwrap().reveal()).collect()
}

fn path_of(endpoint: &Value) -> String {
    format!("/v1/webhooks/endpoints/{}/secret", endpoint["id"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_is_made_once_whoever_asks_first() {
    the_default_once(&Server::start().await).await;
}

pub(crate) async fn the_default_once(server: &Server) {
    assert_eq!(signing(server, "").await, Vec::<String>::new());
    let keys: HashSet<String> =
        futures::future::join_all((0..16).map(|_| key(server, DEFAULT))).await.into_iter().collect();
    assert_eq!(keys.len(), 1);
    assert_eq!(signing(server, "").await, keys.into_iter().collect::<Vec<_>>());
    // Encrypted where it lies.
    let stored = &server.store.secrets(&[("", "")]).await.unwrap()[0];
    let secret: Secret = key(server, DEFAULT).await.parse().unwrap();
    assert!(!stored.sealed.windows(8).any(|window| secret.as_bytes().windows(8).any(|bytes| bytes == window)));
}

#[tokio::test]
async fn a_new_endpoint_has_its_own() {
    its_own_secret(&Server::start().await).await;
}

pub(crate) async fn its_own_secret(server: &Server) {
    let (one, other) = (add(server, "https://hook.example/1").await, add(server, "https://hook.example/2").await);
    let keys = [key(server, &path_of(&one)).await, key(server, &path_of(&other)).await, key(server, DEFAULT).await];
    assert_eq!(keys.iter().collect::<HashSet<_>>().len(), 3);
    assert_eq!(key(server, &path_of(&one)).await, keys[0]);
    assert_eq!(signing(server, "https://hook.example/1").await, [keys[0].clone()]);
    // Adding it again changes nothing; forgotten and added, it gets another.
    let again = server.post("/v1/webhooks/endpoints", &json!({"url": "https://hook.example/1"})).send().await.unwrap();
    assert_eq!(path_of(&json_of(again, 200).await), path_of(&one));
    assert_eq!(key(server, &path_of(&one)).await, keys[0]);
    let forgotten = server.client.delete(one["urls"]["get"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(forgotten.status(), 204);
    assert_eq!(signing(server, "https://hook.example/1").await, Vec::<String>::new());
    let one = add(server, "https://hook.example/1").await;
    assert_ne!(key(server, &path_of(&one)).await, keys[0]);
}

#[tokio::test]
async fn old_and_new_sign_until_the_grace_has_ended() {
    rotation(&Server::start().await).await;
}

pub(crate) async fn rotation(server: &Server) {
    // The default, made by its rotation if need be.
    let first = rotated(server, DEFAULT, None).await;
    assert_eq!((key(server, DEFAULT).await, signing(server, "").await.len()), (first.clone(), 2));
    let second = rotated(server, DEFAULT, Some(json!({"grace": "0s"}))).await;
    assert_eq!(key(server, DEFAULT).await, second);
    assert!(
        signing(server, "").await == *std::slice::from_ref(&second),
        "with no grace, what was replaced earlier is gone as well"
    );

    // An endpoint's own.
    let endpoint = add(server, "https://hook.example/own").await;
    let old = key(server, &path_of(&endpoint)).await;
    let new = rotated(server, &path_of(&endpoint), Some(json!({"grace": "1h"}))).await;
    assert_eq!(signing(server, "https://hook.example/own").await, [new.clone(), old]);
    assert_eq!((key(server, &path_of(&endpoint)).await, key(server, DEFAULT).await), (new, second.clone()));

    // Without one of its own the default signs, is shown, and goes on signing when it gets one.
    let endpoint =
        server.store.add_endpoint("", "https://hook.example/none", prediction::BodyForm::Event).await.unwrap().0;
    let path = format!("/v1/webhooks/endpoints/{}/secret", endpoint.id);
    assert_eq!(key(server, &path).await, second);
    let own = rotated(server, &path, Some(json!({}))).await;
    assert_eq!(signing(server, "https://hook.example/none").await, [own.clone(), second.clone()]);
    assert_eq!((key(server, &path).await, key(server, DEFAULT).await), (own, second));
}

#[tokio::test]
async fn what_cannot_be_rotated_is_refused() {
    let server = Server::start().await;
    for (body, expected) in [
        (json!({"grace": 5}), vec!["/grace"]),
        (json!({"grace": "soon"}), vec!["/grace"]),
        (json!({"grace": "-1h", "key": "whsec_x"}), vec!["/grace", "/key"]),
        (json!("24h"), vec![""]),
    ] {
        let refused = problem(rotate(&server, DEFAULT, Some(body.clone())).await, 422, "invalid_request").await;
        assert_eq!(pointers(&refused), expected, "{body}");
    }
    let text = server.client.post(server.url(&format!("{DEFAULT}/rotate"))).body("24h");
    problem(text.send().await.unwrap(), 415, "unsupported_media_type").await;
    let before = key(&server, DEFAULT).await;
    // So many signatures fit into a header that receivers take.
    for _ in 1..10 {
        rotated(&server, DEFAULT, None).await;
    }
    let last = key(&server, DEFAULT).await;
    problem(rotate(&server, DEFAULT, None).await, 409, "too_many_secrets").await;
    assert_eq!(key(&server, DEFAULT).await, last);
    let signing = signing(&server, "").await;
    assert!(signing.len() == 10 && signing.contains(&before));
    problem(rotate(&server, DEFAULT, Some(json!(null))).await, 409, "too_many_secrets").await;
    // A leaked one can be replaced all the same.
    let fresh = rotated(&server, DEFAULT, Some(json!({"grace": "0ms"}))).await;
    assert_eq!(key(&server, DEFAULT).await, fresh);
    // The bound is each endpoint's own.
    let endpoint = add(&server, "https://hook.example/").await;
    rotated(&server, &path_of(&endpoint), None).await;
}

/// Keeps everything that is logged, at every level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

impl Visit for Log {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        use fmt::Write as _;
        let _ = writeln!(self.0.lock().unwrap(), "{field}={value:?}");
    }
}

impl Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        attributes.record(&mut self.clone());
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        values.record(&mut self.clone());
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[tokio::test]
async fn no_log_and_no_other_answer_shows_one() {
    let log = Log::default();
    let _logging = tracing::subscriber::set_default(log.clone());
    let server = Server::start().await;
    // What logs requests may first have been reached by another test's thread, at the moment when this one began to listen.
    server.read("/v1/webhooks/endpoints").await;
    tracing::callsite::rebuild_interest_cache();
    let endpoint = add(&server, "https://hook.example/").await;
    let own = key(&server, &path_of(&endpoint)).await;
    let default = key(&server, DEFAULT).await;
    let new = rotated(&server, &path_of(&endpoint), None).await;
    let test = server.post("/v1/webhooks/test", &json!({"url": "https://hook.example/"})).send().await.unwrap();
    let mut said = json_of(test, 202).await.to_string();
    let prediction = json!({"model": "augur/echo", "input": {"value": 1}, "webhook": "https://hook.example/"});
    said += &json_of(server.post("/v1/predictions", &prediction).send().await.unwrap(), 202).await.to_string();
    for path in ["/v1/webhooks/endpoints", "/v1/webhooks/deliveries", "/v1/predictions", "/v1/queue", "/health/ready"] {
        said += &server.read(path).await.to_string();
    }
    let logged = log.0.lock().unwrap().clone();
    assert!(logged.contains(DEFAULT), "the log sees what happens: {logged}");
    for secret in [own, default, new] {
        let bare = secret.trim_start_matches("whsec_");
        assert!(!said.contains(bare) && !logged.contains(bare));
    }
    assert!(!said.contains("whsec_") && !logged.contains("whsec_"));
}
