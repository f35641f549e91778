//! The queue, health, and a store that is away.

use std::time::Duration;

use crate::harness::{Server, config, echo, header, json_of, offer, problem, until, version};
use queue::Queue;
use serde_json::{Value, json};

#[tokio::test]
async fn the_queue_is_described_per_version() {
    let server = Server::start().await;
    let line = |view: &Value| {
        view["versions"].as_array().unwrap().iter().find(|line| line["model"] == "augur/echo").unwrap().clone()
    };
    let empty = server.read("/v1/queue").await;
    assert_eq!(empty["versions"].as_array().unwrap().len(), 2);
    assert_eq!((&empty["depth"], &empty["stale_completions"]), (&json!(0), &json!(0)));
    assert_eq!((&line(&empty)["seconds_of_work"], &line(&empty)["workers_wanted"]), (&json!(0.0), &json!(0)));
    let done = server.create(0).await;
    server.finish(done).await;
    let running = server.create(1).await;
    server.claim(running).await;
    let waiting = server.create(2).await;
    let view = until(|| async {
        let view = server.read("/v1/queue").await;
        let is_counted = line(&view)["seconds_of_work"].is_number();
        (line(&view)["depth"] == 1 && line(&view)["processing"] == 1 && is_counted).then_some(view)
    })
    .await;
    let line = line(&view);
    assert_eq!((&line["version"], &line["workers"]), (&json!(version('a')), &json!(1)));
    let rate = line["service_rate_per_second"].as_f64().unwrap();
    // One in the last minute, and in the moments after which the API began to count.
    assert!((1.0 / 120.0..=1.0 / 60.0).contains(&rate), "{rate}");
    // As long as that at most: seen to be at work for long enough, its worker is known to be faster.
    assert!((0.0..=1.0 / rate + 1e-6).contains(&line["seconds_of_work"].as_f64().unwrap()), "{line}");
    // Two in at most two minutes by one worker: eight for half a minute at most.
    assert!((1..=8).contains(&line["workers_wanted"].as_u64().unwrap()), "{line}");
    assert!(line["oldest_age_seconds"].as_f64().unwrap() >= 0.0);
    assert_eq!((&view["depth"], &view["processing"]), (&json!(1), &json!(1)));
    let place = server.read(&format!("/v1/predictions/{waiting}")).await["queue"].clone();
    assert_eq!(place["position"], 0);
    assert!((0.0..=120.0).contains(&place["eta_seconds"].as_f64().unwrap()), "{place}");
}

#[tokio::test]
async fn stale_completions_are_reported() {
    let server = Server::start().await;
    server.store.publish(server.worker, "test", &[offer(&echo('a'), true)], 5).await.unwrap();
    assert_eq!(server.read("/v1/queue").await["stale_completions"], 5);
}

#[tokio::test]
async fn health_tells_live_ready_degraded_and_unavailable_apart() {
    let server = Server::start().await;
    assert_eq!(server.read("/health/live").await, json!({"status": "live", "reasons": []}));
    assert_eq!(server.read("/health/ready").await, json!({"status": "ready", "reasons": []}));
    server.store.close().await;
    let unavailable = json_of(server.get("/health/ready").send().await.unwrap(), 503).await;
    assert_eq!(unavailable, json!({"status": "unavailable", "reasons": ["the database does not answer"]}));
    server.read("/health/live").await;

    let directory = tempfile::tempdir().unwrap();
    let location = store::Location::Sqlite { path: directory.path().join("augur.sqlite") };
    let absent = Queue::open(&queue::Location::Absent, queue::Config::default()).await.unwrap();
    let server = Server::over(&location, absent, config(), Some(directory)).await;
    let degraded = server.read("/health/ready").await;
    assert_eq!((&degraded["status"], degraded["reasons"].as_array().unwrap().len()), (&json!("degraded"), 1));
    // And it works.
    server.publish(&[echo('a')]).await;
    let id = server.create(1).await;
    let path = format!("/v1/predictions/{id}?wait=60");
    let (waited, ()) = tokio::join!(server.read(&path), server.finish(id));
    assert_eq!(waited["status"], "succeeded");
}

#[tokio::test]
async fn without_its_store_every_call_says_so() {
    let server = Server::start().await;
    let id = server.create(1).await;
    server.store.close().await;
    let body = json!({"model": "augur/echo", "input": {"value": 1}});
    for request in [
        server.post("/v1/predictions", &body),
        server.post("/v1/predictions", &json!({"model": "augur/unknown", "input": {"value": 1}})),
        server.get(&format!("/v1/predictions/{id}")),
        server.get("/v1/predictions"),
        server.get("/v1/queue"),
        server.get("/v1/models"),
        server.client.post(server.url(&format!("/v1/predictions/{id}/cancel"))),
        server.get("/v1/webhooks/deliveries"),
        server.get(&format!("/v1/webhooks/deliveries/{id}_completed")),
        server.get("/v1/webhooks/endpoints"),
        server.get("/v1/webhooks/default/secret"),
        server.post("/v1/webhooks/test", &json!({"url": "https://hook.example/"})),
        server.post("/v1/webhooks/endpoints", &json!({"url": "https://hook.example/"})),
    ] {
        // Models may be answered from what was read a moment ago.
        let response = until(|| async {
            let response = request.try_clone().unwrap().timeout(Duration::from_secs(30)).send().await.unwrap();
            (response.status() != 200 && response.status() != 404).then_some(response)
        })
        .await;
        assert_eq!(header(&response, "retry-after"), "2");
        problem(response, 503, "store_unavailable").await;
    }
}
