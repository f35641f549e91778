//! Receives augur's webhooks with axum: verifies each with the official library and takes each event once.
//!
//! ```sh
//! cargo add axum standardwebhooks serde_json && cargo add tokio --features full
//! AUGUR_WEBHOOK_SECRET=whsec_… PORT=3000 cargo run
//! ```
#![allow(clippy::print_stdout, reason = "it shows what it received")]

use std::{
    collections::HashSet,
    error::Error,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use serde_json::Value;
use standardwebhooks::Webhook;

struct Receiver {
    webhook: Webhook,
    /// The ids of the events taken. Yours belong in a database, written in the transaction that does the event's work.
    taken: Mutex<HashSet<String>>,
}

/// Takes the bytes as they came: JSON that was parsed and written again has another signature.
async fn receive(State(receiver): State<Arc<Receiver>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    if receiver.webhook.verify(&body, &headers).is_err() {
        return StatusCode::BAD_REQUEST;
    }
    let event = headers.get("webhook-id").and_then(|id| id.to_str().ok());
    let (Some(event), Ok(prediction)) = (event, serde_json::from_slice::<Value>(&body)) else {
        return StatusCode::BAD_REQUEST;
    };
    if receiver.taken.lock().expect("nobody panics with it").insert(event.to_owned()) {
        println!("{event} {}", prediction["status"]); // Do the work here, or put it into a queue of your own.
    }
    StatusCode::NO_CONTENT
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let webhook = Webhook::new(&std::env::var("AUGUR_WEBHOOK_SECRET")?)?;
    let port = std::env::var("PORT").map_or(Ok(3000), |port| port.parse())?;
    let receiver = Arc::new(Receiver { webhook, taken: Mutex::default() });
    let app = Router::new().route("/hook", post(receive)).with_state(receiver);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    axum::serve(listener, app).await?;
    Ok(())
}
