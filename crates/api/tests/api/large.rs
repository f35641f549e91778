//! Inputs far beyond what anything takes: refused for what they are, while the server goes on serving.

use crate::harness::{Server, config, digits, echo, json_of, pointers, problem};
use prediction::{Limits, ModelSpec};
use serde_json::{Value, json};

/// A server that reads bodies of 16 MiB and has models that take inputs of 4 KiB and of 8 MiB.
async fn server() -> Server {
    let server = Server::bare(api::Config { body_limit: 16 << 20, ..config() }).await;
    let roomy =
        |spec: ModelSpec| ModelSpec { limits: Limits { max_input_bytes: 8 << 20, ..spec.limits.clone() }, ..spec };
    server.publish(&[echo('a'), roomy(digits())]).await;
    server
}

/// A million tokens in any tokeniser: as many words.
fn text() -> String {
    "token ".repeat(1_000_000)
}

async fn post(server: &Server, body: &Value) -> reqwest::Response {
    server.post("/v1/predictions", body).send().await.unwrap()
}

#[tokio::test]
async fn a_text_of_a_million_tokens_is_too_large_for_the_server_or_the_model() {
    let body = json!({"model": "augur/echo", "input": {"value": text()}});
    // The usual server of these tests reads 64 KiB.
    let small = Server::start().await;
    let refused = problem(post(&small, &body).await, 413, "body_too_large").await;
    assert!(refused.to_string().len() < 2000);
    small.create(1).await;

    let server = server().await;
    for _ in 0..8 {
        let refused = problem(post(&server, &body).await, 422, "input_too_large").await;
        assert_eq!(pointers(&refused), ["/input"]);
        assert!(refused.to_string().len() < 2000);
        server.create(1).await;
    }
    // Where the size is allowed, the schema decides.
    let body = json!({"model": "augur/digits", "input": {"pixels": text()}});
    let refused = problem(post(&server, &body).await, 422, "invalid_input").await;
    assert_eq!(pointers(&refused), ["/input/pixels"]);
    assert!(refused.to_string().len() < 2000, "nothing of it comes back");
}

#[tokio::test]
async fn an_array_of_190000_numbers_beyond_32_bits_fits_no_model() {
    let numbers = vec![2_147_483_648_u64; 190_000];
    let body = json!({"model": "augur/digits", "input": {"pixels": numbers}});
    let small = Server::start().await;
    problem(post(&small, &body).await, 413, "body_too_large").await;
    small.create(1).await;

    let server = server().await;
    for _ in 0..8 {
        let refused = problem(post(&server, &body).await, 422, "invalid_input").await;
        let places = pointers(&refused);
        assert!((1..=20).contains(&places.len()), "{places:?}");
        assert!(places.iter().all(|place| place.starts_with("/input/pixels")), "{places:?}");
        assert!(refused.to_string().len() < 10_000);
    }
    let echoed = json!({"model": "augur/echo", "input": {"value": numbers}});
    assert_eq!(pointers(&problem(post(&server, &echoed).await, 422, "input_too_large").await), ["/input"]);
    let good = json!({"model": "augur/digits", "input": {"pixels": vec![16; 64]}});
    json_of(post(&server, &good).await, 202).await;
}
