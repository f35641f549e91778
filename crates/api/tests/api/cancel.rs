//! Canceling predictions.

use crate::harness::{Server, json_of, until};
use prediction::PredictionId;
use queue::Notice;
use serde_json::{Value, json};

async fn cancel(server: &Server, id: PredictionId) -> Value {
    let response = server.client.post(server.url(&format!("/v1/predictions/{id}/cancel"))).send().await.unwrap();
    json_of(response, 200).await
}

#[tokio::test]
async fn a_waiting_prediction_is_canceled_at_once_and_for_good() {
    let server = Server::start().await;
    let id = server.create(1).await;
    let waiting = format!("/v1/predictions/{id}?wait=60");
    let (waited, canceled) = tokio::join!(server.read(&waiting), cancel(&server, id));
    assert_eq!(canceled["status"], "canceled");
    assert_eq!(canceled["failure"]["code"], "canceled");
    assert!(canceled["completed_at"].is_string() && canceled["urls"]["get"].is_string());
    assert_eq!(waited, canceled);
    assert_eq!(cancel(&server, id).await, canceled);
    assert!(
        server.store.claim(server.worker, &[id], std::time::Duration::from_secs(9)).await.unwrap().claimed.is_empty()
    );
}

#[tokio::test]
async fn the_worker_of_a_running_prediction_is_told() {
    let server = Server::start().await;
    let id = server.create(1).await;
    let run = server.claim(id).await;
    let mut notices = server.queue.listen();
    assert_eq!(cancel(&server, id).await["status"], "canceled");
    let told = until(|| {
        let notice = notices.try_recv();
        async move { notice.ok() }
    });
    assert_eq!(told.await, Notice::Canceled(std::sync::Arc::new([id])));
    let late = store::Outcome::Released { run };
    assert_eq!(server.store.complete(server.worker, vec![late]).await.unwrap(), [store::Written::Stale]);
}

#[tokio::test]
async fn a_deadline_passes_without_any_worker() {
    let server = Server::start().await;
    let body = json!({"model": "augur/echo", "input": {"value": 1}, "deadline": "50ms"});
    let created = json_of(server.post("/v1/predictions", &body).send().await.unwrap(), 202).await;
    let id = created["id"].as_str().unwrap();
    let ended = server.read(&format!("/v1/predictions/{id}?wait=60")).await;
    assert_eq!((&ended["status"], &ended["failure"]["code"]), (&json!("canceled"), &json!("deadline_exceeded")));
}

#[tokio::test]
async fn a_finished_prediction_stays_finished() {
    let server = Server::start().await;
    let id = server.create(json!("x")).await;
    server.finish(id).await;
    let before = server.read(&format!("/v1/predictions/{id}")).await;
    assert_eq!(cancel(&server, id).await, before);
    assert_eq!(before["status"], "succeeded");
}
