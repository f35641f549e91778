//! Requests that are refused, each with its status and problem.

use crate::harness::{Server, json_of, pointers, problem};
use serde_json::json;

fn nested(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

#[tokio::test]
async fn what_is_not_json_is_malformed() {
    let server = Server::start().await;
    let deep = nested(10_000);
    let echo = |value: &str| format!(r#"{{"model":"augur/echo","input":{{"value":{value}}}}}"#);
    let bodies = [
        String::new(),
        "not JSON".to_owned(),
        "{".to_owned(),
        format!("{} x", echo("1")),
        echo("NaN"),
        echo("Infinity"),
        echo("1e400"),
        echo(&format!("1{}", "0".repeat(400))),
        echo("01"),
        echo("\"\u{0}\""),
        echo("\"\\ud800\""),
        echo("\"\\udc00\\ud800\""),
        echo(&deep),
        deep.clone(),
        format!(r#"{{"model":"augur/echo","input":{{"value":1}},"unknown":{deep}}}"#),
        r#"{"model":"augur/echo","input":{"value":1},"input":{"value":2}}"#.to_owned(),
        r#"{"model":"augur/echo","input":{"value":1,"value":2}}"#.to_owned(),
        format!("\u{feff}{}", echo("1")),
    ];
    for body in bodies {
        let shown: String = body.chars().take(80).collect();
        let request = server.client.post(server.url("/v1/predictions")).header("content-type", "application/json");
        let refused = problem(request.body(body).send().await.unwrap(), 400, "invalid_json").await;
        assert!(refused["detail"].as_str().unwrap().len() < 300, "{shown}: {refused}");
    }
    let request = server.client.post(server.url("/v1/predictions")).header("content-type", "application/json");
    let not_utf8 = b"{\"model\":\"\xff\"}".to_vec();
    problem(request.body(not_utf8).send().await.unwrap(), 400, "invalid_json").await;
    let survivor = echo(&format!("[{},\"\\u0000\\ud83d\\ude00\"]", nested(100)));
    let request = server.client.post(server.url("/v1/predictions")).header("content-type", "application/json");
    json_of(request.body(survivor).send().await.unwrap(), 202).await;
}

#[tokio::test]
async fn fields_that_are_missing_unknown_or_wrong_are_named() {
    let server = Server::start().await;
    let good = json!({"model": "augur/echo", "input": {"value": 1}});
    let with = |name: &str, value: serde_json::Value| {
        let mut body = good.clone();
        body[name] = value;
        body
    };
    let cases = [
        (json!([1]), vec![""]),
        (json!("x"), vec![""]),
        (json!(null), vec![""]),
        (json!({}), vec!["/input", "/version"]),
        (json!({"model": "augur/echo"}), vec!["/input"]),
        (json!({"input": {}}), vec!["/version"]),
        (json!({"model": 5, "input": {}}), vec!["/model"]),
        (with("version", json!("augur/echo")), vec!["/version"]),
        (with("priority", json!("urgent")), vec!["/priority"]),
        (with("priority", json!(1)), vec!["/priority"]),
        (with("deadline", json!(30)), vec!["/deadline"]),
        (with("metadata", json!([1])), vec!["/metadata"]),
        (with("metadata", json!("text")), vec!["/metadata"]),
        (with("metadata", json!({"a": "x".repeat(17_000)})), vec!["/metadata"]),
        (with("metadata", json!({"a": [{"b\u{0}": 1}]})), vec!["/metadata"]),
        (with("metadata", json!({"a": "\u{0}"})), vec!["/metadata"]),
        (with("webhook", json!(5)), vec!["/webhook"]),
        (with("webhook", json!({"url": "https://hook.example/"})), vec!["/webhook"]),
        (with("webhook_events_filter", json!(["completed"])), vec!["/webhook_events_filter"]),
        (with("webhook_url", json!("https://hook.example/")), vec!["/webhook_url"]),
        (with("stream", json!(true)), vec!["/stream"]),
        (with("wait/~", json!(5)), vec!["/wait~1~0"]),
    ];
    for (body, expected) in cases {
        let response = server.post("/v1/predictions", &body).send().await.unwrap();
        assert_eq!(pointers(&problem(response, 422, "invalid_request").await), expected, "{body}");
    }
}

#[tokio::test]
async fn inputs_that_do_not_fit_are_pointed_at() {
    let server = Server::start().await;
    let pixels = |index: usize, value: serde_json::Value| {
        let mut pixels = json!(vec![1; 64]);
        pixels[index] = value;
        json!({"pixels": pixels})
    };
    let cases = [
        (json!(5), vec!["/input"]),
        (json!(null), vec!["/input"]),
        (json!({}), vec!["/input/pixels"]),
        (json!({"pixels": []}), vec!["/input/pixels"]),
        (json!({"pixels": "x".repeat(3000)}), vec!["/input/pixels"]),
        (pixels(3, json!(2_147_483_648_u64)), vec!["/input/pixels/3"]),
        (pixels(3, json!(-1)), vec!["/input/pixels/3"]),
        (pixels(63, json!(null)), vec!["/input/pixels/63"]),
        (json!({"pixels": vec![1; 64], "extra/": 1}), vec!["/input/extra~1"]),
    ];
    for (input, expected) in cases {
        let body = json!({"model": "augur/digits", "input": input});
        let response = server.post("/v1/predictions", &body).send().await.unwrap();
        let refused = problem(response, 422, "invalid_input").await;
        assert_eq!(pointers(&refused), expected, "{body}");
        assert!(refused.to_string().len() < 2000);
    }
    let lacking = json!({"model": "augur/digits", "input": {}});
    let refused = problem(server.post("/v1/predictions", &lacking).send().await.unwrap(), 422, "invalid_input").await;
    let detail = "The input does not fit the input schema of augur/digits. /input/pixels is required.";
    assert_eq!((&refused["detail"], &refused["errors"][0]["detail"]), (&json!(detail), &json!("is required")));
    let many = json!({"model": "augur/digits", "input": {"pixels": vec!["x"; 64]}});
    let refused = server.post("/v1/predictions", &many).send().await.unwrap();
    assert_eq!(pointers(&problem(refused, 422, "invalid_input").await).len(), 20);
}

#[tokio::test]
async fn inputs_larger_than_the_model_takes_are_refused() {
    let server = Server::start().await;
    let body = |length: usize| json!({"model": "augur/echo", "input": {"value": "x".repeat(length)}});
    let around = r#"{"value":""}"#.len();
    json_of(server.post("/v1/predictions", &body(4096 - around)).send().await.unwrap(), 202).await;
    let refused = server.post("/v1/predictions", &body(4097 - around)).send().await.unwrap();
    assert_eq!(pointers(&problem(refused, 422, "input_too_large").await), ["/input"]);
}

#[tokio::test]
async fn only_plain_json_is_taken() {
    let server = Server::start().await;
    let body = json!({"model": "augur/echo", "input": {"value": 1}}).to_string();
    let post = || server.client.post(server.url("/v1/predictions")).body(body.clone());
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16", ""] {
        let refused = post().header("content-type", content_type).send().await.unwrap();
        problem(refused, 415, "unsupported_media_type").await;
    }
    problem(post().send().await.unwrap(), 415, "unsupported_media_type").await;
    for encoding in ["gzip", "zstd", "br, gzip"] {
        let request = post().header("content-type", "application/json").header("content-encoding", encoding);
        problem(request.send().await.unwrap(), 415, "unsupported_media_type").await;
    }
    let request = post().header("content-type", "application/cloudevents+json").header("content-encoding", "identity");
    json_of(request.send().await.unwrap(), 202).await;
}

#[tokio::test]
async fn the_server_still_serves_after_a_storm_of_them() {
    let server = Server::start().await;
    for _ in 0..50 {
        let request = server.client.post(server.url("/v1/predictions")).header("content-type", "application/json");
        problem(request.body(nested(30_000)).send().await.unwrap(), 400, "invalid_json").await;
    }
    server.create(1).await;
}
