//! Stopping gracefully.

use std::time::Duration;

use crate::harness::{PATIENCE, Server, config, gone, json_of, rest, until};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

async fn stopped(server: &mut Server) {
    timeout(PATIENCE, &mut server.serving).await.expect("it stops").unwrap();
}

/// Begins a request and returns once the server waits for the rest of its body.
async fn half(server: &Server, body: &str) -> TcpStream {
    let head = "POST /v1/predictions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nexpect: 100-continue\r\n";
    let mut stream = server.connect(&format!("{head}content-length: {}\r\n\r\n", body.len())).await;
    let mut said = [0; 25];
    timeout(PATIENCE, stream.read_exact(&mut said)).await.expect("the server asks for the body").unwrap();
    assert_eq!(&said, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(&body.as_bytes()[..10]).await.unwrap();
    stream
}

#[tokio::test]
async fn those_who_wait_are_answered_as_it_is_now() {
    let mut server = Server::start().await;
    // One connection: what was sent on it first is begun first.
    server.client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let id = server.create(1).await;
    let path = format!("/v1/predictions/{id}?wait=60");
    let body = json!({"model": "augur/echo", "input": {"value": 2}});
    let reading = server.get(&path).send();
    let creating = server.post("/v1/predictions", &body).header("prefer", "wait").send();
    let stopping = async {
        until(|| async { (server.newest().await != id).then_some(()) }).await;
        server.stop.cancel();
    };
    let (read, created, ()) = tokio::join!(reading, creating, stopping);
    assert_eq!(json_of(read.unwrap(), 200).await["status"], "starting");
    assert_eq!(json_of(created.unwrap(), 202).await["status"], "starting");
    stopped(&mut server).await;
}

#[tokio::test]
async fn requests_under_way_are_finished_and_no_others_begun() {
    let mut server = Server::start().await;
    let body = json!({"model": "augur/echo", "input": {"value": 1}}).to_string();
    let mut under_way = half(&server, &body).await;
    let mut idle = server.connect("").await;
    server.stop.cancel();
    gone(&mut idle).await;
    let address = server.base.trim_start_matches("http://").to_owned();
    until(|| async { TcpStream::connect(&address).await.is_err().then_some(()) }).await;
    under_way.write_all(&body.as_bytes()[10..]).await.unwrap();
    let answer = rest(&mut under_way).await;
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    stopped(&mut server).await;
    assert_eq!(server.store.list("", &store::ListFilter::default(), None, 9).await.unwrap().predictions.len(), 1);
}

#[tokio::test]
async fn what_does_not_finish_is_cut_after_the_grace_time() {
    let mut server = Server::start_with(api::Config { grace: Duration::from_millis(200), ..config() }).await;
    let mut stuck = half(&server, "0123456789 and more that never comes").await;
    server.stop.cancel();
    stopped(&mut server).await;
    gone(&mut stuck).await;
}
