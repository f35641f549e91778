//! More than the server takes: what is refused, with which time to come back, and what is answered all the same.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{
    harness::{PATIENCE, Server, config, echo, header, id_of, json_of, problem, until, version},
    postgres,
};
use futures::future::join_all;
use prediction::PredictionId;
use reqwest::Response;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};
use uuid::Uuid;

fn limited(queue_limit: u32) -> api::Config {
    api::Config { queue_limit, ..config() }
}

fn body(value: impl Into<Value>) -> Value {
    json!({"model": "augur/echo", "input": {"value": value.into()}})
}

async fn post(server: &Server, value: u32) -> Response {
    server.post("/v1/predictions", &body(value)).send().await.unwrap()
}

/// Checks a refusal, and returns after how many seconds to come back.
async fn refused(response: Response, code: &str) -> u32 {
    let seconds = header(&response, "retry-after").parse().expect("whole seconds");
    let body = problem(response, 503, code).await;
    assert!(body["detail"].as_str().unwrap().contains("Nothing was stored"), "{body}");
    assert!((1..=60).contains(&seconds), "{seconds}");
    seconds
}

async fn stored(server: &Server) -> usize {
    server.read("/v1/predictions?limit=100").await["results"].as_array().unwrap().len()
}

/// Sends until one is accepted: for a moment, what arrives while the queue is counted may be counted twice.
async fn until_accepted(server: &Server) -> PredictionId {
    until(|| async {
        let response = post(server, 0).await;
        match response.status().as_u16() {
            202 => Some(id_of(&json_of(response, 202).await)),
            _ => {
                refused(response, "queue_full").await;
                None
            }
        }
    })
    .await
}

async fn a_full_queue_refuses_until_there_is_room(server: &Server) {
    let ids = join_all((0..3).map(|_| until_accepted(server))).await;
    for _ in 0..5 {
        refused(post(server, 9).await, "queue_full").await;
    }
    assert_eq!(stored(server).await, 3);
    // Everything else goes on.
    assert_eq!(server.read(&format!("/v1/predictions/{}", ids[0])).await["status"], "starting");
    assert_eq!(server.read("/v1/queue").await["depth"], 3);
    // What is being run does not wait any more.
    server.claim(ids[0]).await;
    until_accepted(server).await;
    refused(post(server, 9).await, "queue_full").await;
    server.post(&format!("/v1/predictions/{}/cancel", ids[1]), &json!({})).send().await.unwrap();
    until_accepted(server).await;
    assert_eq!(stored(server).await, 5);
}

async fn what_was_accepted_is_repeated_while_the_queue_is_full(server: &Server) {
    let keyed =
        |value: u32, key: &str| server.post("/v1/predictions", &body(value)).header("idempotency-key", key).send();
    let first = id_of(&json_of(keyed(1, "a").await.unwrap(), 202).await);
    let own = format!("/v1/predictions/{}", Uuid::new_v4());
    json_of(server.put(&own, &body(2)).send().await.unwrap(), 202).await;
    let third = until_accepted(server).await;
    refused(post(server, 4).await, "queue_full").await;

    let again = keyed(1, "a").await.unwrap();
    assert_eq!(header(&again, "idempotent-replayed"), "true");
    assert_eq!(id_of(&json_of(again, 202).await), first);
    problem(keyed(2, "a").await.unwrap(), 422, "idempotency_key_reused").await;
    refused(keyed(1, "b").await.unwrap(), "queue_full").await;
    let again = server.put(&own, &body(2)).send().await.unwrap();
    assert_eq!(header(&again, "idempotent-replayed"), "true");
    json_of(again, 202).await;
    problem(server.put(&own, &body(3)).send().await.unwrap(), 409, "id_conflict").await;
    let other = format!("/v1/predictions/{}", Uuid::new_v4());
    refused(server.put(&other, &body(2)).send().await.unwrap(), "queue_full").await;
    assert_eq!(stored(server).await, 3);
    // A key that was refused is free.
    server.finish(third).await;
    until(|| async { (keyed(5, "b").await.unwrap().status() == 202).then_some(()) }).await;
}

async fn concurrent_requests_do_not_exceed_the_bound(server: &Server) {
    let mut accepted = 0;
    for response in join_all((0..200).map(|value| post(server, value))).await {
        if response.status() == 202 {
            accepted += 1;
        } else {
            refused(response, "queue_full").await;
        }
    }
    assert!(accepted <= 50, "{accepted}");
    assert_eq!(stored(server).await, accepted);
    for _ in accepted..50 {
        until_accepted(server).await;
    }
    refused(post(server, 9).await, "queue_full").await;
    assert_eq!(stored(server).await, 50);
}

macro_rules! on_both {
    ($($test:ident with $limit:literal),+ $(,)?) => {
        mod on_sqlite {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(&Server::start_with(limited($limit)).await).await;
            })+
        }
        mod on_postgres {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(&postgres::over_with(servers::database().await, limited($limit)).await).await;
            })+
        }
    };
}

on_both!(
    a_full_queue_refuses_until_there_is_room with 3,
    what_was_accepted_is_repeated_while_the_queue_is_full with 3,
    concurrent_requests_do_not_exceed_the_bound with 50,
);

#[tokio::test(flavor = "multi_thread")]
async fn apis_that_share_a_database_see_what_the_others_let_in() {
    let url = servers::database().await;
    let one = postgres::over_with(url.clone(), limited(2)).await;
    let other = postgres::over_with(url, limited(2)).await;
    for _ in 0..2 {
        until_accepted(&one).await;
    }
    until(|| async { (post(&other, 3).await.status() == 503).then_some(()) }).await;
    refused(post(&one, 4).await, "queue_full").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_is_bounded_by_the_time_it_takes() {
    let bound = Duration::from_secs(20);
    let server = Server::start_with(api::Config { queue_time_limit: Some(bound), ..config() }).await;
    // Nothing is known of how fast this is served, so nothing is refused.
    let ids = join_all((0..60).map(|value| server.create(value))).await;
    // About four are served each second…
    let (served, left) = ids.split_at(20);
    let seconds = until(|| async {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let view = server.read("/v1/queue").await;
        let line = view["versions"].as_array().unwrap().iter().find(|line| line["model"] == "augur/echo").unwrap();
        line["seconds_of_work"].as_f64().filter(|seconds| *seconds < 1000.0)
    });
    let serve = async {
        for id in served {
            server.finish(*id).await;
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    let (seconds, ()) = tokio::join!(seconds, serve);
    assert!(seconds > 1.0, "{seconds}");
    // …until nobody works any more: then the rate falls, and what waits takes longer and longer.
    let late = Mutex::new(Vec::new());
    let refusal = until(|| async {
        let response = post(&server, 1).await;
        if response.status() == 503 {
            return Some(response);
        }
        let id = id_of(&json_of(response, 202).await);
        late.lock().unwrap().push(id);
        None
    })
    .await;
    refused(refusal, "queue_full").await;
    // Another version's line is another matter.
    let pixels = json!({"model": "augur/digits", "input": {"pixels": vec![0; 64]}});
    json_of(server.post("/v1/predictions", &pixels).send().await.unwrap(), 202).await;
    // When what waited is done, there is room again.
    let late = late.into_inner().unwrap();
    for id in left.iter().chain(&late) {
        server.finish(*id).await;
    }
    until(|| async { (post(&server, 1).await.status() == 202).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_under_way_are_bounded() {
    let limit = 64 * 1024;
    let server = Server::start_with(api::Config { body_limit: limit, body_memory: limit, ..config() }).await;
    let request = |length: usize, rest: &str| {
        format!(
            "POST /v1/predictions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{rest}\r\n"
        )
    };
    // One that declares nearly all there is, is asked for it, and does not come.
    let mut slow = server.connect(&request(limit - 1024, "expect: 100-continue\r\n")).await;
    let mut said = [0; 25];
    timeout(PATIENCE, slow.read_exact(&mut said)).await.expect("the server asks for the body").unwrap();
    assert_eq!(&said, b"HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(refused(post(&server, 1).await, "busy").await, 1);
    // Refused before it has sent anything, because it asks.
    let asking = server.raw(&request(1000, "expect: 100-continue\r\nconnection: close\r\n")).await;
    assert!(asking.starts_with("HTTP/1.1 503 "), "{asking}");
    // What has no body needs no room.
    server.read("/v1/queue").await;
    // When it comes after all there is room again.
    let text = body(1).to_string();
    let text = format!("{text}{}", " ".repeat(limit - 1024 - text.len()));
    slow.write_all(text.as_bytes()).await.unwrap();
    until(|| async { (post(&server, 1).await.status() == 202).then_some(()) }).await;
    assert_eq!(stored(&server).await, 2, "the slow one was accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_grows_beyond_the_room_is_refused() {
    let limit = 64 * 1024;
    let server = Server::start_with(api::Config { body_limit: limit, body_memory: limit, ..config() }).await;
    let declared = format!(
        "POST /v1/predictions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        limit / 2
    );
    until(|| async {
        let _waits = server.connect(&declared).await;
        let head =
            "POST /v1/predictions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n";
        let chunk = " ".repeat(limit - 8192);
        let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n{:x}\r\n{chunk}\r\n0\r\n\r\n", chunk.len());
        // Without the other it would be JSON that is not there.
        let answer = server.raw(&chunked).await;
        (answer.starts_with("HTTP/1.1 503 ") && answer.contains("\"busy\"")).then_some(())
    })
    .await;
    until(|| async { (post(&server, 1).await.status() == 202).then_some(()) }).await;
}

/// A way to a server that can be blocked: then what is sent arrives later, and connections stay open.
async fn way_to(server: String) -> (String, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (block, is_blocked) = watch::channel(false);
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(&server).await.unwrap();
            let ((mut from_near, mut to_near), (mut from_far, mut to_far)) = (near.into_split(), far.into_split());
            tokio::spawn(async move { tokio::io::copy(&mut from_far, &mut to_near).await });
            let mut is_blocked = is_blocked.clone();
            tokio::spawn(async move {
                let mut bytes = vec![0; 1 << 16];
                while let Ok(length @ 1..) = from_near.read(&mut bytes).await {
                    is_blocked.wait_for(|is_blocked| !is_blocked).await.unwrap();
                    to_far.write_all(&bytes[..length]).await.unwrap();
                }
            });
        }
    });
    (address, block)
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_of_callers_who_were_told_nothing_are_counted_while_the_store_has_them() {
    let database = servers::database().await;
    let (scheme, rest) = database.split_once("://").unwrap();
    let (server, path) = rest.split_once('/').unwrap();
    let (user, server) = server.rsplit_once('@').unwrap();
    let (address, block) = way_to(server.to_owned()).await;
    // Shorter than the store's own, so that callers hear nothing while the store has what they sent.
    let store_patience = api::STORE_PATIENCE;
    let config = api::Config { body_limit: 1 << 20, body_memory: 1 << 20, store_patience, ..config() };
    let server = postgres::over_with(format!("{scheme}://{user}@{address}/{path}"), config).await;
    let mut roomy = echo('b');
    roomy.limits.max_input_bytes = 1 << 20;
    server.publish(&[roomy]).await;
    let large = json!({"version": version('b'), "input": {"value": "x".repeat(700 * 1024)}});
    let large = async || server.post("/v1/predictions", &large).send().await.unwrap();
    until(async || (large().await.status() == 202).then_some(())).await;

    block.send_replace(true);
    // It is not known what becomes of the first; while the store has it there is no room for another.
    let is_unknown = AtomicBool::new(false);
    until(async || {
        let answer: Value = json_of(large().await, 503).await;
        match answer["error"]["code"].as_str() {
            Some("store_unavailable") => is_unknown.store(true, Ordering::Relaxed),
            Some("busy") if is_unknown.load(Ordering::Relaxed) => return Some(()),
            // The last one that was accepted may have had room until now.
            Some("busy") => {}
            _ => panic!("{answer}"),
        }
        None
    })
    .await;
    block.send_replace(false);
    until(async || (large().await.status() == 202).then_some(())).await;
}
