//! API keys: who is let in, what each sees, and what stays open.

use crate::{
    documents::CALLS,
    harness::{Server, config, digits, echo, header, id_of, json_of, open, problem, until},
};
use api::PlainKey;
use prediction::PredictionId;
use queue::Queue;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use store::{Location, Store};

/// A server, and a key for each of the shares that it is started with.
pub(crate) async fn keyed(url: Option<String>, config: api::Config, shares: &[Option<f64>]) -> (Server, Vec<PlainKey>) {
    let (location, directory) = match url {
        Some(url) => (Location::Postgres { url, max_connections: 8 }, None),
        None => {
            let directory = tempfile::tempdir().unwrap();
            (Location::Sqlite { path: directory.path().join("augur.sqlite") }, Some(directory))
        }
    };
    let store = open(&location).await;
    store.migrate().await.unwrap();
    let mut keys = Vec::new();
    for (number, share) in shares.iter().enumerate() {
        keys.push(make(&store, &format!("key{number}"), *share).await);
    }
    store.close().await;
    let queue = Queue::open(&queue::Location::InProcess, queue::Config::default()).await.unwrap();
    let server = Server::over(&location, queue, config, directory).await;
    server.publish(&[echo('a'), digits()]).await;
    (server, keys)
}

async fn make(store: &Store, name: &str, share: Option<f64>) -> PlainKey {
    let key = PlainKey::generate();
    store.add_api_key(name, &key.digest(), share).await.unwrap().unwrap();
    key
}

/// Somebody with a key.
#[derive(Clone, Copy)]
pub(crate) struct Asking<'a> {
    pub(crate) server: &'a Server,
    pub(crate) key: &'a PlainKey,
}

impl Asking<'_> {
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.server.client.request(method, self.server.url(path)).bearer_auth(self.key.reveal())
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).send().await.unwrap()
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.request(Method::POST, path).json(body)
    }

    pub(crate) async fn read(&self, path: &str) -> Value {
        json_of(self.get(path).await, 200).await
    }

    pub(crate) async fn create(&self, body: &Value) -> PredictionId {
        id_of(&json_of(self.post("/v1/predictions", body).send().await.unwrap(), 202).await)
    }
}

fn body(value: impl Into<Value>) -> Value {
    json!({"model": "augur/echo", "input": {"value": value.into()}})
}

/// A path of a documented call, with something in place of each parameter.
fn filled(path: &str) -> String {
    let path = path.replace("{owner}", "augur").replace("{name}", "echo");
    path.replace("{id}", &PredictionId::generate().to_string())
}

/// The body of a problem without what names the request.
fn same(mut problem: Value) -> Value {
    problem.as_object_mut().unwrap().remove("instance");
    problem
}

async fn refused(response: Response) -> Value {
    assert_eq!(header(&response, "www-authenticate"), "Bearer realm=\"augur\"");
    same(problem(response, 401, "invalid_api_key").await)
}

#[tokio::test]
async fn every_call_needs_a_key_but_health_and_documents() {
    let (server, keys) = keyed(None, config(), &[None]).await;
    let asking = Asking { server: &server, key: &keys[0] };
    for call in CALLS {
        let (method, path) = call.split_once(' ').unwrap();
        let (method, path): (Method, _) = (method.to_uppercase().parse().unwrap(), filled(path));
        let response = server.client.request(method.clone(), server.url(&path)).send().await.unwrap();
        if path.starts_with("/v1/") {
            refused(response).await;
            assert_ne!(asking.request(method, &path).send().await.unwrap().status(), 401, "{call}");
        } else {
            assert!(response.status().is_success(), "{call}");
        }
    }
}

#[tokio::test]
async fn whatever_is_wrong_with_a_key_the_answer_is_the_same() {
    let (server, keys) = keyed(None, config(), &[None, None]).await;
    let revoked = server.store.valid_api_keys().await.unwrap().unwrap()[1].id;
    server.store.revoke_api_key(revoked).await.unwrap().unwrap();
    let (good, revoked) = (keys[0].reveal(), keys[1].reveal());
    let unknown = PlainKey::generate();
    let with_header = |value: String| server.get("/v1/predictions").header("authorization", value).send();
    until(|| async { (with_header(format!("Bearer {revoked}")).await.unwrap().status() == 401).then_some(()) }).await;
    let missing = refused(server.get("/v1/predictions").send().await.unwrap()).await;
    assert!(!missing.to_string().contains(&good[6..]), "{missing}");
    for wrong in [
        String::new(),
        "Bearer".to_owned(),
        format!("Basic {good}"),
        good.to_owned(),
        format!("Bearer {good} {good}"),
        format!("Bearer {}", &good[..good.len() - 1]),
        format!("Bearer {}", good.to_lowercase()),
        format!("Bearer {}", unknown.reveal()),
        format!("Bearer {revoked}"),
        format!("Bearer {}", "x".repeat(30_000)),
    ] {
        assert_eq!(refused(with_header(wrong.clone()).await.unwrap()).await, missing, "{wrong}");
    }
    let twice = server.get("/v1/predictions").bearer_auth(good).bearer_auth(good);
    assert_eq!(refused(twice.send().await.unwrap()).await, missing);
    for query in [format!("api_key={good}"), format!("access_token={good}")] {
        assert_eq!(refused(server.get(&format!("/v1/predictions?{query}")).send().await.unwrap()).await, missing);
        // Beside a key it is no parameter, and is not shown.
        let asking = Asking { server: &server, key: &keys[0] };
        let malformed = problem(asking.get(&format!("/v1/predictions?{query}")).await, 400, "malformed_request").await;
        assert!(!malformed.to_string().contains(good), "{malformed}");
    }
    // Nothing of it was stored, and nothing of the body read.
    let large = server.post("/v1/predictions", &body("x".repeat(500_000)));
    let _ = large.send().await;
    let asking = Asking { server: &server, key: &keys[0] };
    assert_eq!(asking.read("/v1/predictions").await["results"], json!([]));
    assert_eq!(
        server.raw("GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await[..12],
        *"HTTP/1.1 401"
    );
}

#[tokio::test]
async fn the_first_key_closes_the_door_and_no_revocation_opens_it() {
    let server = Server::start().await;
    // As every client of OpenAI's does, whether or not there are keys.
    let before = server.post("/v1/predictions", &body(1)).bearer_auth("anything").send().await.unwrap();
    let before = id_of(&json_of(before, 202).await);
    let key = make(&server.store, "first", None).await;
    let asking = Asking { server: &server, key: &key };
    // Whoever carries the first key is let in while it is not known and from the moment on in which it is.
    until(|| async {
        let (without, with) = tokio::join!(server.get("/v1/queue").send(), asking.get("/v1/queue"));
        assert_eq!(with.status(), 200);
        (without.unwrap().status() == 401).then_some(())
    })
    .await;
    // What was made without a key is finished, but is nobody's.
    problem(asking.get(&format!("/v1/predictions/{before}")).await, 404, "not_found").await;
    server.finish(before).await;
    let own = asking.create(&body(2)).await;
    assert_eq!(asking.read(&format!("/v1/predictions/{own}")).await["status"], "starting");

    let id = server.store.valid_api_keys().await.unwrap().unwrap()[0].id;
    server.store.revoke_api_key(id).await.unwrap().unwrap();
    until(|| async { (asking.get("/v1/queue").await.status() == 401).then_some(()) }).await;
    refused(server.get("/v1/queue").send().await.unwrap()).await;
    assert_eq!(server.get("/health/ready").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn beyond_this_machine_there_is_no_door_without_a_key() {
    let server = Server::start_with(api::Config { require_keys: true, ..config() }).await;
    refused(server.get("/v1/queue").send().await.unwrap()).await;
    let key = make(&server.store, "first", None).await;
    until(|| async { (Asking { server: &server, key: &key }.get("/v1/queue").await.status() == 200).then_some(()) })
        .await;
}

#[tokio::test]
async fn the_address_of_a_stream_opens_it_without_a_key() {
    let (server, keys) = keyed(None, config(), &[None]).await;
    let asking = Asking { server: &server, key: &keys[0] };
    let id = asking.create(&body(1)).await;
    server.finish(id).await;
    let found = asking.read(&format!("/v1/predictions/{id}")).await;
    let opened = server.client.get(found["urls"]["stream"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(opened.status(), 200);
    let events = opened.text().await.unwrap();
    assert_eq!(events, asking.get(&format!("/v1/predictions/{id}/stream")).await.text().await.unwrap());
    assert!(events.contains(&id.to_string()) && events.contains("event: done"), "{events}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_postgres_is_away_keys_are_known() {
    let mut postgres = servers::Postgres::start().await;
    let (server, keys) = keyed(Some(postgres.create_database().await), config(), &[None]).await;
    let asking = Asking { server: &server, key: &keys[0] };
    let id = asking.create(&body(1)).await;
    postgres.stop_immediately().await;
    for _ in 0..3 {
        problem(asking.get(&format!("/v1/predictions/{id}")).await, 503, "store_unavailable").await;
        // Nobody else learns even that, and whoever guesses keeps no connection waiting.
        let unknown = Asking { server: &server, key: &PlainKey::generate() };
        refused(unknown.get(&format!("/v1/predictions/{id}")).await).await;
        refused(server.get(&format!("/v1/predictions/{id}")).send().await.unwrap()).await;
    }
    postgres.start_again().await;
    until(|| async { (asking.get(&format!("/v1/predictions/{id}")).await.status() == 200).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_key_closes_the_door_though_former_texts_cannot_be_read() {
    let database = servers::database().await;
    let (server, _) = keyed(Some(database.clone()), config(), &[]).await;
    until(|| async { (server.get("/v1/predictions").send().await.unwrap().status() == 200).then_some(()) }).await;
    servers::execute(&database, "ALTER TABLE former_api_keys RENAME TO absent").await;
    let first = make(&server.store, "first", None).await;
    until(|| async { (server.get("/v1/predictions").send().await.unwrap().status() == 401).then_some(()) }).await;
    let asking = Asking { server: &server, key: &first };
    assert_eq!(asking.get("/v1/predictions").await.status(), 200);
    // What comes later is known when all of it can be read.
    let second = make(&server.store, "second", None).await;
    let other = Asking { server: &server, key: &second };
    servers::execute(&database, "ALTER TABLE absent RENAME TO former_api_keys").await;
    until(|| async { (other.get("/v1/predictions").await.status() == 200).then_some(()) }).await;
    assert_eq!(asking.get("/v1/predictions").await.status(), 200);
}

/// Every door to what is one key's, tried with another.
async fn what_is_one_keys_is_nothing_to_another(server: &Server, keys: &[PlainKey]) {
    let [mine, yours] = [0, 1].map(|index| Asking { server, key: &keys[index] });
    let hook = "https://hook.example/a";
    let secret = json!({"model": "augur/echo", "input": {"value": "s3cret"}, "metadata": {"k": "v"},
        "webhook": hook, "webhook_events_filter": ["completed"]});
    let keyed = mine.post("/v1/predictions", &secret).header("idempotency-key", "order");
    let id = id_of(&json_of(keyed.send().await.unwrap(), 202).await);
    server.finish(id).await;
    let waiting = mine.create(&secret).await;
    let endpoint = mine.post("/v1/webhooks/endpoints", &json!({"url": hook})).send().await.unwrap();
    let endpoint = json_of(endpoint, 201).await["id"].as_str().unwrap().to_owned();
    let delivery = format!("{id}_completed");
    assert_eq!(mine.read(&format!("/v1/webhooks/deliveries/{delivery}")).await["status"], "waiting");

    // Not there, and the same as what is nowhere.
    let absent = PredictionId::generate();
    let doors = [
        (Method::GET, "/v1/predictions/{}", id.to_string(), json!(null)),
        (Method::GET, "/v1/predictions/{}", waiting.to_string(), json!(null)),
        (Method::GET, "/v1/predictions/{}?wait=60", waiting.to_string(), json!(null)),
        (Method::POST, "/v1/predictions/{}/cancel", waiting.to_string(), json!(null)),
        (Method::GET, "/v1/predictions/{}/stream", id.to_string(), json!(null)),
        (Method::GET, "/v1/webhooks/deliveries/{}", delivery.clone(), json!(null)),
        (Method::GET, "/v1/webhooks/deliveries/{}/attempts", delivery.clone(), json!(null)),
        (Method::POST, "/v1/webhooks/deliveries/{}/redeliver", delivery.clone(), json!(null)),
        (Method::GET, "/v1/webhooks/endpoints/{}", endpoint.clone(), json!(null)),
        (Method::PATCH, "/v1/webhooks/endpoints/{}", endpoint.clone(), json!({"disabled": true})),
        (Method::DELETE, "/v1/webhooks/endpoints/{}", endpoint.clone(), json!(null)),
        (Method::GET, "/v1/webhooks/endpoints/{}/secret", endpoint.clone(), json!(null)),
        (Method::POST, "/v1/webhooks/endpoints/{}/secret/rotate", endpoint.clone(), json!(null)),
    ];
    for (method, door, named, body) in doors {
        let nowhere = named.replace(&named[..36], &absent.to_string());
        let mut answers = Vec::new();
        for named in [named, nowhere] {
            let request = yours.request(method.clone(), &door.replace("{}", &named));
            let request = if body.is_null() { request } else { request.json(&body) };
            answers.push(same(problem(request.send().await.unwrap(), 404, "not_found").await));
        }
        assert_eq!(answers[0], answers[1], "{method} {door}");
    }
    for list in ["/v1/predictions", "/v1/predictions?metadata.k=v", "/v1/webhooks/deliveries", "/v1/webhooks/endpoints"]
    {
        assert_eq!(yours.read(list).await["results"], json!([]), "{list}");
        assert_ne!(mine.read(list).await["results"], json!([]), "{list}");
    }
    // A cursor goes on in its own list alone.
    let next = mine.read("/v1/predictions?limit=1").await["next"].as_str().unwrap().replace(&server.base, "");
    problem(yours.get(&next).await, 400, "invalid_cursor").await;
    assert_eq!(id_of(&mine.read(&next).await["results"][0]), id);

    // An id that is taken says no more than that, whosever it is.
    let put = async |asking: Asking<'_>, body: &Value| {
        let request = asking.request(Method::PUT, &format!("/v1/predictions/{waiting}")).json(body);
        same(problem(request.send().await.unwrap(), 409, "id_conflict").await)
    };
    let own = put(mine, &body(1)).await;
    assert_eq!((put(yours, &secret).await, put(yours, &body(1)).await), (own.clone(), own));
    // Idempotency keys are everybody's own.
    let keyed = yours.post("/v1/predictions", &body("other")).header("idempotency-key", "order").send().await.unwrap();
    assert!(!keyed.headers().contains_key("idempotent-replayed"));
    let other = id_of(&json_of(keyed, 202).await);
    problem(mine.get(&format!("/v1/predictions/{other}")).await, 404, "not_found").await;
    let again = mine.post("/v1/predictions", &secret).header("idempotency-key", "order").send().await.unwrap();
    assert_eq!(id_of(&json_of(again, 200).await), id);

    // So are secrets and what is remembered of endpoints; models and the queue are for all to see.
    let default = "/v1/webhooks/default/secret";
    assert_ne!(mine.read(default).await, yours.read(default).await);
    let added = yours.post("/v1/webhooks/endpoints", &json!({"url": hook})).send().await.unwrap();
    assert_ne!(json_of(added, 201).await["id"], endpoint);
    assert_eq!(mine.read("/v1/models").await, yours.read("/v1/models").await);
    assert_eq!(yours.read("/v1/queue").await["depth"], 2);
    // Nothing of all this changed anything.
    assert_eq!(mine.read(&format!("/v1/predictions/{waiting}")).await["status"], "starting");
    assert_eq!(mine.read(&format!("/v1/webhooks/endpoints/{endpoint}")).await["disabled_at"], json!(null));
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite_what_is_one_keys_is_nothing_to_another() {
    let (server, keys) = keyed(None, config(), &[None, None]).await;
    what_is_one_keys_is_nothing_to_another(&server, &keys).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_what_is_one_keys_is_nothing_to_another() {
    let (server, keys) = keyed(Some(servers::database().await), config(), &[None, None]).await;
    what_is_one_keys_is_nothing_to_another(&server, &keys).await;
}
