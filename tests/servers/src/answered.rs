//! A request's answer, once the store has one: the API waits for its store for a moment only, and a busy machine may be slower.

use std::time::{Duration, Instant};

use reqwest::RequestBuilder;
use serde_json::Value;

/// A store that is unavailable for longer has failed.
const PATIENCE: Duration = Duration::from_secs(180);
/// Between two tries of the same request.
const PAUSE: Duration = Duration::from_millis(100);

/// Sends a request until its answer is another than that the store is unavailable; status and JSON body. Where it matters how
/// often something is made, the request needs an idempotency key: what was answered so may have been done.
///
/// # Panics
/// When the API does not answer with JSON, or its store is unavailable for too long.
pub async fn answered(request: RequestBuilder) -> (u16, Value) {
    let begun = Instant::now();
    loop {
        let attempt = request.try_clone().expect("a body in memory can be sent again");
        let response = attempt.send().await.expect("the API answers");
        let status = response.status().as_u16();
        let answer: Value = response.json().await.expect("the API answers with JSON");
        if answer["error"]["code"] != "store_unavailable" {
            return (status, answer);
        }
        assert!(begun.elapsed() < PATIENCE, "the store is unavailable: {answer}");
        tokio::time::sleep(PAUSE).await;
    }
}
