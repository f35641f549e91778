//! Addresses and names that lead nowhere.

use crate::harness::{Server, header, pointers, problem};
use serde_json::json;

#[tokio::test]
async fn unknown_addresses_and_methods_are_problems() {
    let server = Server::start().await;
    for path in ["/", "/v1", "/v1/", "/v1/predictions/", "/v2/health", "/v1/predictions/x/y", "/docs/../../etc/passwd"]
    {
        problem(server.get(path).send().await.unwrap(), 404, "not_found").await;
    }
    let id = server.create(1).await;
    for (method, path, allow) in [
        ("DELETE", "/v1/predictions".to_owned(), "GET,HEAD,POST"),
        ("POST", format!("/v1/predictions/{id}"), "GET,HEAD,PUT"),
        ("GET", format!("/v1/predictions/{id}/cancel"), "POST"),
        ("QUERY", "/v1/models".to_owned(), "GET,HEAD"),
        ("POST", "/health/live".to_owned(), "GET,HEAD"),
        ("PUT", "/v1/webhooks/endpoints".to_owned(), "GET,HEAD,POST"),
        ("POST", format!("/v1/webhooks/endpoints/{id}"), "DELETE,GET,HEAD,PATCH"),
        ("GET", format!("/v1/webhooks/deliveries/{id}_completed/redeliver"), "POST"),
    ] {
        let response = server.client.request(method.parse().unwrap(), server.url(&path)).send().await.unwrap();
        let mut allowed: Vec<&str> = header(&response, "allow").split(',').map(str::trim).collect();
        allowed.sort_unstable();
        assert_eq!(allowed.join(","), allow, "{method} {path}");
        problem(response, 405, "method_not_allowed").await;
    }
}

#[tokio::test]
async fn absent_and_impossible_ids_are_answered_alike() {
    let server = Server::start().await;
    let mut bodies = Vec::new();
    for id in ["00000000-0000-0000-0000-000000000000", "x", "%00", "..%2f..", "0191d7a0e6f87cc1a1b2c3d4e5f60718"] {
        let mut body =
            problem(server.get(&format!("/v1/predictions/{id}")).send().await.unwrap(), 404, "not_found").await;
        body.as_object_mut().unwrap().remove("instance");
        bodies.push(body);
        let response = server.post(&format!("/v1/predictions/{id}/cancel"), &json!({})).send().await.unwrap();
        problem(response, 404, "not_found").await;
    }
    assert!(bodies.windows(2).all(|pair| pair[0] == pair[1]), "{bodies:?}");
    let body = json!({"model": "augur/echo", "input": {"value": 1}});
    let response = server.put("/v1/predictions/not-a-uuid", &body).send().await.unwrap();
    problem(response, 400, "malformed_request").await;
}

#[tokio::test]
async fn hostile_model_names_are_unknown_models() {
    let server = Server::start().await;
    for path in
        ["%2e%2e/x", "..%2f..%2fetc/passwd", "augur/..%2fecho", "augur/echo%00", "augur/%2e%2e", "a%2Fb/c", "augur/%ff"]
    {
        // As it is written: clients would tidy these up.
        let answer =
            server.raw(&format!("GET /v1/models/{path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
        assert!(answer.contains("application/problem+json"), "{path}: {answer}");
    }
    for text in ["../x", "/etc/passwd", "augur/../echo", "augur/echo\u{0}", "AUGUR/ECHO/", "augur\\echo", "", "🦀/🦀"]
    {
        let body = json!({"model": text, "input": {"value": 1}});
        let response = server.post("/v1/predictions", &body).send().await.unwrap();
        assert!(pointers(&problem(response, 404, "model_not_found").await).is_empty(), "{text}");
    }
    for text in ["bbbbbbbbbbbb", "augur/echo:bbbbbbbbbbbb"] {
        let body = json!({"version": text, "input": {"value": 1}});
        problem(server.post("/v1/predictions", &body).send().await.unwrap(), 404, "version_not_found").await;
    }
    for path in ["augur/nothing", "nobody/echo"] {
        let body = json!({"input": {"value": 1}});
        let response = server.post(&format!("/v1/models/{path}/predictions"), &body).send().await.unwrap();
        problem(response, 404, "model_not_found").await;
        problem(server.get(&format!("/v1/models/{path}/versions")).send().await.unwrap(), 404, "model_not_found").await;
    }
    let response = server.get("/v1/models/augur/echo/versions/bbbbbbbbbbbb").send().await.unwrap();
    problem(response, 404, "version_not_found").await;
    let response = server.get("/v1/models/augur/echo/versions/aaa").send().await.unwrap();
    problem(response, 404, "version_not_found").await;
}

#[tokio::test]
async fn request_ids_are_taken_over_when_plain() {
    let server = Server::start().await;
    let response = server.get("/health/live").header("x-request-id", "abc-1.2").send().await.unwrap();
    assert_eq!(header(&response, "x-request-id"), "abc-1.2");
    let response = server.get("/health/live").header("x-request-id", "a b").send().await.unwrap();
    assert_ne!(header(&response, "x-request-id"), "a b");
    assert_eq!(header(&response, "x-content-type-options"), "nosniff");
}
