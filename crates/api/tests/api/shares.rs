//! A key's share of the queue: what it may fill, what it is told beyond that, and that others are served meanwhile.

use crate::{
    harness::{Server, config, header, id_of, json_of, problem, until},
    keys::{Asking, keyed},
};
use api::PlainKey;
use futures::future::join_all;
use prediction::PredictionId;
use reqwest::Response;
use serde_json::{Value, json};

/// Twenty places: a half of them for each key, unless it has another share.
fn limited() -> api::Config {
    api::Config { queue_limit: 20, ..config() }
}

fn body(value: u32) -> Value {
    json!({"model": "augur/echo", "input": {"value": value}})
}

async fn post(asking: Asking<'_>, value: u32) -> Response {
    asking.post("/v1/predictions", &body(value)).send().await.unwrap()
}

/// Sends until one is accepted: for a moment, what arrives while the queue is counted may be counted twice.
async fn accepted(asking: Asking<'_>) -> PredictionId {
    until(|| async {
        let response = post(asking, 7).await;
        match response.status().as_u16() {
            202 => Some(id_of(&json_of(response, 202).await)),
            429 | 503 => None,
            status => panic!("{status}"),
        }
    })
    .await
}

/// Checks a refusal, whose headers must agree.
async fn refused(response: Response, (status, code): (u16, &str), (policy, most): (&str, u32)) {
    let seconds: u32 = header(&response, "retry-after").parse().expect("whole seconds");
    assert!((1..=60).contains(&seconds), "{seconds}");
    let expected = format!("\"{policy}\";q={most};qu=\"concurrent-requests\"");
    assert_eq!(header(&response, "ratelimit-policy"), expected);
    assert_eq!(header(&response, "ratelimit"), format!("\"{policy}\";r=0;t={seconds}"));
    let body = problem(response, status, code).await;
    let detail = body["detail"].as_str().unwrap();
    assert!(detail.contains("Nothing was stored") && detail.contains(&format!("({most})")), "{body}");
}

const SHARE_FULL: (u16, &str) = (429, "share_full");
const QUEUE_FULL: (u16, &str) = (503, "queue_full");

async fn a_key_fills_its_share_and_no_more(server: &Server, keys: &[PlainKey]) {
    let [small, usual] = [0, 1].map(|index| Asking { server, key: &keys[index] });
    let keyed = small.post("/v1/predictions", &body(0)).header("idempotency-key", "a").send().await.unwrap();
    let first = id_of(&json_of(keyed, 202).await);
    let mut ids = vec![first];
    for _ in 1..5 {
        ids.push(accepted(small).await);
    }
    for _ in 0..3 {
        refused(post(small, 9).await, SHARE_FULL, ("share", 5)).await;
    }
    // What was accepted is repeated all the same, and what is new is not, by whatever door.
    let again = small.post("/v1/predictions", &body(0)).header("idempotency-key", "a").send().await.unwrap();
    assert_eq!(id_of(&json_of(again, 202).await), first);
    let new = small.post("/v1/predictions", &body(0)).header("idempotency-key", "b").send().await.unwrap();
    refused(new, SHARE_FULL, ("share", 5)).await;
    let named = small.post("/v1/models/augur/echo/predictions", &json!({"input": {"value": 1}}));
    refused(named.send().await.unwrap(), SHARE_FULL, ("share", 5)).await;

    // The other key is served, up to a half, as the server is set.
    for _ in 0..10 {
        accepted(usual).await;
    }
    refused(post(usual, 9).await, SHARE_FULL, ("share", 10)).await;
    // What runs or is over does not wait any more.
    server.claim(ids[1]).await;
    server.finish(ids[2]).await;
    accepted(small).await;
    accepted(small).await;
    refused(post(small, 9).await, SHARE_FULL, ("share", 5)).await;
    assert_eq!(small.read("/v1/predictions").await["results"].as_array().unwrap().len(), 7);

    // The third fills what is left; then the queue is full for all but those who are told of their own shares.
    let large = Asking { server, key: &keys[2] };
    for _ in 0..5 {
        accepted(large).await;
    }
    refused(post(large, 9).await, QUEUE_FULL, ("queue", 20)).await;
    refused(post(small, 9).await, SHARE_FULL, ("share", 5)).await;
    assert_eq!(large.read("/v1/queue").await["depth"], 20);
}

async fn a_flood_with_one_key_keeps_nobody_else_out(server: &Server, keys: &[PlainKey]) {
    let [flooding, other] = [0, 1].map(|index| Asking { server, key: &keys[index] });
    let flood = async {
        let answers = join_all((0..200).map(|value| post(flooding, value))).await;
        answers.iter().filter(|response| response.status() == 202).count()
    };
    let others = async {
        for _ in 0..10 {
            accepted(other).await;
        }
    };
    let (let_in, ()) = tokio::join!(flood, others);
    assert!(let_in <= 5, "{let_in}");
    assert_eq!(flooding.read("/v1/predictions").await["results"].as_array().unwrap().len(), let_in);
    for _ in let_in..5 {
        accepted(flooding).await;
    }
    refused(post(flooding, 9).await, SHARE_FULL, ("share", 5)).await;
    assert_eq!(flooding.read("/v1/queue").await["depth"], 15);
}

const SHARES: [Option<f64>; 3] = [Some(0.25), None, Some(1.0)];

macro_rules! on_both {
    ($($test:ident),+ $(,)?) => {
        mod on_sqlite {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                let (server, keys) = keyed(None, limited(), &SHARES).await;
                super::$test(&server, &keys).await;
            })+
        }
        mod on_postgres {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                let (server, keys) = keyed(Some(servers::database().await), limited(), &SHARES).await;
                super::$test(&server, &keys).await;
            })+
        }
    };
}

on_both!(a_key_fills_its_share_and_no_more, a_flood_with_one_key_keeps_nobody_else_out);

/// One API learns from the store what another has let in with the same key.
#[tokio::test(flavor = "multi_thread")]
async fn apis_that_share_a_database_see_what_a_key_has_elsewhere() {
    let url = servers::database().await;
    let (one, keys) = keyed(Some(url.clone()), limited(), &[Some(0.1)]).await;
    let (other, _) = keyed(Some(url), limited(), &[]).await;
    for _ in 0..2 {
        accepted(Asking { server: &one, key: &keys[0] }).await;
    }
    let other = Asking { server: &other, key: &keys[0] };
    until(|| async { (post(other, 3).await.status() == 429).then_some(()) }).await;
}
