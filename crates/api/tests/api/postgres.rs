//! The same on Postgres, and what a caller sees when it fails.

use std::collections::HashSet;

use crate::{
    deliveries, endpoints,
    harness::{Server, config, digits, echo, header, id_of, json_of, problem, until},
    secrets,
};
use queue::Queue;
use serde_json::json;

pub(crate) async fn over(url: String) -> Server {
    over_with(url, config()).await
}

pub(crate) async fn over_with(url: String, config: api::Config) -> Server {
    let location = store::Location::Postgres { url, max_connections: 8 };
    let queue = Queue::open(&queue::Location::InProcess, queue::Config::default()).await.unwrap();
    let server = Server::over(&location, queue, config, None).await;
    server.publish(&[echo('a'), digits()]).await;
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prediction_is_made_read_listed_and_repeated() {
    let server = over(servers::database().await).await;
    let body = json!({"model": "augur/echo", "input": {"value": "\u{0}é"}, "metadata": {"k": "v"}});
    let requests = (0..64).map(|_| server.post("/v1/predictions", &body).header("idempotency-key", "k").send());
    let mut ids = HashSet::new();
    for response in futures::future::join_all(requests).await {
        ids.insert(id_of(&json_of(response.unwrap(), 202).await));
    }
    assert_eq!(ids.len(), 1);
    let id = ids.into_iter().next().unwrap();
    let path = format!("/v1/predictions/{id}?wait=60");
    let (waited, ()) = tokio::join!(server.read(&path), server.finish(id));
    assert_eq!((&waited["status"], &waited["input"]), (&json!("succeeded"), &body["input"]));
    let other = server.create(2).await;
    let page = server.read("/v1/predictions?limit=1").await;
    assert_eq!(id_of(&page["results"][0]), other);
    let next = json_of(server.client.get(page["next"].as_str().unwrap()).send().await.unwrap(), 200).await;
    assert_eq!(id_of(&next["results"][0]), id);
    let filtered = server.read("/v1/predictions?metadata.k=v&status=succeeded").await;
    assert_eq!(filtered["results"].as_array().unwrap().len(), 1);
    assert_eq!(server.read(&format!("/v1/predictions/{other}")).await["queue"]["position"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_is_away_callers_are_told_and_then_served_again() {
    let mut postgres = servers::Postgres::start().await;
    let server = over(postgres.create_database().await).await;
    let before = server.create(1).await;
    postgres.stop_immediately().await;
    let body = json!({"model": "augur/echo", "input": {"value": 1}});
    for request in [server.post("/v1/predictions", &body), server.get(&format!("/v1/predictions/{before}"))] {
        let response = request.send().await.unwrap();
        assert_eq!(header(&response, "retry-after"), "2");
        problem(response, 503, "store_unavailable").await;
    }
    assert_eq!(server.get("/health/ready").send().await.unwrap().status(), 503);
    assert_eq!(server.get("/health/live").send().await.unwrap().status(), 200);
    postgres.start_again().await;
    until(|| async {
        let response = server.post("/v1/predictions", &body).send().await.unwrap();
        (response.status() == 202).then_some(())
    })
    .await;
    server.read(&format!("/v1/predictions/{before}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_are_followed_listed_and_sent_again() {
    for journey in 0..3 {
        let server = over(servers::database().await).await;
        match journey {
            0 => deliveries::a_delivery_from_its_event_to_its_end(&server).await,
            1 => deliveries::deliveries_are_filtered_and_paged(&server).await,
            _ => deliveries::attempts_to_the_end_and_back(&server).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_and_their_secrets_are_kept() {
    let server = over(servers::database().await).await;
    secrets::the_default_once(&server).await;
    endpoints::added_read_changed_and_forgotten(&server).await;
    secrets::its_own_secret(&server).await;
    secrets::rotation(&over(servers::database().await).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_opens_no_secret_and_says_so() {
    let url = servers::database().await;
    let server = over(url.clone()).await;
    let path = "/v1/webhooks/default/secret";
    let key = server.read(path).await["key"].clone();
    let mut other = config();
    other.webhooks = other.webhooks.map(|webhooks| api::Webhooks { sealer: webhook::Sealer::new([8; 32]), ..webhooks });
    let other = over_with(url, other).await;
    let refused = problem(other.get(path).send().await.unwrap(), 500, "internal").await;
    assert_eq!(refused["detail"], "This server's webhook key does not open the stored secret.");
    assert_eq!(server.read(path).await["key"], key);
}
