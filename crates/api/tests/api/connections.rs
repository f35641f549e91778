//! Slow, large and broken connections.

use std::time::Duration;

use crate::harness::{PATIENCE, Server, config, gone, id_of, json_of, problem, rest, until};
use serde_json::{json, value::RawValue};
use store::{Outcome, RunMetrics};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
    time::timeout,
};

const HEAD: &str = "POST /v1/predictions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";

fn impatient() -> api::Config {
    api::Config { read_timeout: Duration::from_millis(300), ..config() }
}

/// Trickles bytes until the server has had enough, and returns what it said.
async fn trickle(server: &Server, head: &str, drop: &str) -> String {
    let stream = server.connect(head).await;
    let (mut reading, mut writing) = stream.into_split();
    let drop = drop.to_owned();
    let dripping = tokio::spawn(async move {
        while writing.write_all(drop.as_bytes()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut said = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        match timeout(PATIENCE, reading.read(&mut buffer)).await.expect("the server closes") {
            Ok(0) | Err(_) => break,
            Ok(read) => said.extend_from_slice(&buffer[..read]),
        }
    }
    dripping.abort();
    String::from_utf8(said).unwrap()
}

#[tokio::test]
async fn slow_headers_and_silent_connections_are_closed() {
    let server = Server::start_with(impatient()).await;
    assert_eq!(trickle(&server, "GET /health/live HTTP/1.1\r\nx: ", "y").await, "");
    for opening in ["", "G", "PRI * HTTP/2.0\r\n", "GET / HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut stream = server.connect(opening).await;
        gone(&mut stream).await;
    }
    // An idle connection after a request, too.
    let mut stream = server.connect("GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 200 "));
    server.create(1).await;
}

#[tokio::test]
async fn a_slow_body_is_timed_out() {
    let server = Server::start_with(impatient()).await;
    let answer = trickle(&server, &format!("{HEAD}content-length: 60000\r\n\r\n"), " ").await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("connection: close") && answer.contains("request_timeout"), "{answer}");
    let answer = trickle(&server, &format!("{HEAD}transfer-encoding: chunked\r\n\r\n"), "1\r\n \r\n").await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    server.create(1).await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_however_it_comes() {
    let server = Server::start().await;
    let limit = config().body_limit;
    let body = |length: usize| {
        let mut body = json!({"model": "augur/echo", "input": {"value": 1}}).to_string();
        body.push_str(&" ".repeat(length - body.len()));
        body
    };
    let post = |body: reqwest::Body| {
        server.client.post(server.url("/v1/predictions")).header("content-type", "application/json").body(body).send()
    };
    let chunked = |body: String| {
        let chunks: Vec<Result<Vec<u8>, std::io::Error>> =
            body.as_bytes().chunks(1000).map(|chunk| Ok(chunk.to_vec())).collect();
        reqwest::Body::wrap_stream(futures::stream::iter(chunks))
    };
    json_of(post(body(limit).into()).await.unwrap(), 202).await;
    json_of(post(chunked(body(limit))).await.unwrap(), 202).await;
    problem(post(body(limit + 1).into()).await.unwrap(), 413, "body_too_large").await;
    problem(post(chunked(body(limit + 1))).await.unwrap(), 413, "body_too_large").await;
    // Somebody who asks first is told before sending anything.
    let head = format!("{HEAD}content-length: 100000000\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n");
    let answer = server.raw(&head).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn a_body_that_breaks_off_stores_nothing() {
    let server = Server::start().await;
    let mut stream = server.connect(&format!("{HEAD}content-length: 100\r\n\r\n{{\"model\"")).await;
    stream.shutdown().await.unwrap();
    let _ = rest(&mut stream).await;
    assert_eq!(server.read("/v1/predictions").await["results"], json!([]));
}

#[tokio::test]
async fn smuggled_and_broken_requests_are_refused() {
    let server = Server::start().await;
    for request in ["\0\0\0\0\r\n\r\n".to_owned(), format!("{HEAD}content-length: 1\r\ncontent-length: 2\r\n\r\n  ")] {
        let answer = server.raw(&request).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    server.create(1).await;
}

#[tokio::test]
async fn http2_is_spoken_in_clear_text() {
    let server = Server::start().await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let body = json!({"model": "augur/echo", "input": {"value": 1}});
    let response = client.post(server.url("/v1/predictions")).json(&body).send().await.unwrap();
    assert_eq!(response.version(), reqwest::Version::HTTP_2);
    let id = id_of(&json_of(response, 202).await);
    server.finish(id).await;
    let response = client.get(server.url(&format!("/v1/predictions/{id}?wait=60"))).send().await.unwrap();
    assert_eq!(json_of(response, 200).await["status"], "succeeded");
    let large = vec![b' '; config().body_limit * 4];
    let request = client.post(server.url("/v1/predictions")).header("content-type", "application/json").body(large);
    problem(request.send().await.unwrap(), 413, "body_too_large").await;
}

#[tokio::test]
async fn many_idle_connections_harm_nobody() {
    let server = Server::start_with(impatient()).await;
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(server.connect("P").await);
    }
    server.create(1).await;
    for stream in &mut idle {
        gone(stream).await;
    }
}

#[tokio::test]
async fn who_reads_nothing_is_cut() {
    let (write_timeout, grace) = (Duration::from_millis(300), Duration::from_secs(3600));
    let server = Server::start_with(api::Config { write_timeout, grace, stream_limit: 1, ..config() }).await;
    let id = server.create(1).await;
    // More than the system takes from the server without anybody reading.
    let output = RawValue::from_string(json!("x".repeat(24 << 20)).to_string()).unwrap();
    let outcome = Outcome::Succeeded { run: server.claim(id).await, output, metrics: RunMetrics::default() };
    assert_eq!(server.store.complete(server.worker, vec![outcome]).await.unwrap(), [store::Written::Applied]);
    let ask = async |path: &str| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(server.base.trim_start_matches("http://").parse().unwrap()).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut begin = [0; 12];
        stream.read_exact(&mut begin).await.unwrap();
        assert_eq!(&begin, b"HTTP/1.1 200");
        stream
    };
    let path = format!("/v1/predictions/{id}/stream");
    let is_open = async || (server.get(&path).send().await.unwrap().status() == 200).then_some(());

    let stalled = ask(&path).await;
    until(is_open).await;
    drop(stalled);
    // With HTTP/2 the connection is read, and only that answer is not.
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let stalled = until(|| async {
        let response = client.get(server.url(&path)).send().await.unwrap();
        (response.status() == 200).then_some(response)
    })
    .await;
    until(is_open).await;
    assert_eq!(client.get(server.url("/health/live")).send().await.unwrap().status(), 200);
    assert!(stalled.bytes().await.is_err(), "it was taken back");
    drop(client);

    // A plain answer, too: nobody waits for it for ever.
    let stalled = ask(&format!("/v1/predictions/{id}")).await;
    server.stop.cancel();
    timeout(PATIENCE, server.serving).await.expect("it stops").unwrap();
    drop(stalled);
}

#[tokio::test]
async fn a_large_answer_is_read_whole() {
    let server = Server::start().await;
    let id = server.create(1).await;
    let text = "x".repeat(5_000_000);
    let output = RawValue::from_string(json!(text).to_string()).unwrap();
    let outcome = Outcome::Succeeded { run: server.claim(id).await, output, metrics: RunMetrics::default() };
    assert_eq!(server.store.complete(server.worker, vec![outcome]).await.unwrap(), [store::Written::Applied]);
    for client in [reqwest::Client::builder(), reqwest::Client::builder().http2_prior_knowledge()] {
        let response = client.build().unwrap().get(server.url(&format!("/v1/predictions/{id}"))).send().await.unwrap();
        assert!(response.content_length().is_some_and(|bytes| bytes > 5_000_000));
        assert!(json_of(response, 200).await["output"] == text);
    }
}
