//! Following a prediction: who may, what is told, and how many at once. The worker is the test.

use std::sync::Arc;

use prediction::{Failure, FailureCode, ModelSpec, PredictionId};
use queue::{Notice, Piece};
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json, value::RawValue};
use store::{Outcome, Run, RunMetrics};
use tokio::{sync::broadcast, time::timeout};

use crate::{
    harness::{PATIENCE, Server, config, echo, header, id_of, json_of, name, problem, version},
    keys::{Asking, keyed},
};

fn generator() -> ModelSpec {
    ModelSpec { name: name("my/writer"), version: version('e'), task: "text-generation".to_owned(), ..echo('e') }
}

async fn start() -> Server {
    let server = Server::start().await;
    server.publish(&[echo('a'), generator()]).await;
    server
}

/// Creates a prediction: its id, and the address of its stream.
async fn create(server: &Server, model: &str) -> (PredictionId, String) {
    let body = json!({"model": model, "input": {"value": 1}});
    let created = json_of(server.post("/v1/predictions", &body).send().await.unwrap(), 202).await;
    (id_of(&created), created["urls"]["stream"].as_str().unwrap().to_owned())
}

/// The events that come until the stream ends or there are so many: name, id, data.
async fn events(response: &mut Response, most: usize) -> Vec<[String; 3]> {
    let (mut unread, mut events) = (Vec::new(), Vec::new());
    while events.len() < most {
        let Some(chunk) = timeout(PATIENCE, response.chunk()).await.expect("something comes").unwrap() else { break };
        unread.extend_from_slice(&chunk);
        while let Some(end) = unread.windows(2).position(|ends| ends == b"\n\n") {
            let event = String::from_utf8(unread.drain(..end + 2).collect()).unwrap();
            let field =
                |name: &str| event.lines().filter_map(|line| line.strip_prefix(name)).collect::<Vec<_>>().join("\n");
            if !event.starts_with(':') {
                events.push(["event: ", "id: ", "data: "].map(field));
            }
        }
    }
    events
}

async fn opened(request: RequestBuilder) -> Response {
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200, "{response:?}");
    response
}

/// Sends these pieces, one after the other, when somebody asks.
async fn write(
    server: &Server,
    notices: &mut broadcast::Receiver<Notice>,
    id: PredictionId,
    epoch: i32,
    texts: &[&str],
) {
    let ask = loop {
        let notice = timeout(PATIENCE, notices.recv()).await.expect("somebody asks").unwrap();
        if let Notice::Asked(asks) = notice
            && let Some(ask) = asks.iter().find(|ask| ask.id == id)
        {
            break *ask;
        }
    };
    let mut from = 0;
    for text in texts {
        server.queue.send(ask.reader, vec![Piece { id, epoch, draft: 1, from, text: (*text).into() }]);
        from += text.len() as u64;
    }
}

async fn complete(server: &Server, run: Run, text: &str) {
    let output = RawValue::from_string(json!({"text": text, "finish_reason": "stop"}).to_string()).unwrap();
    end(server, Outcome::Succeeded { run, output, metrics: RunMetrics::default() }, run.id).await;
}

async fn end(server: &Server, outcome: Outcome, id: PredictionId) {
    assert_eq!(server.store.complete(server.worker, vec![outcome]).await.unwrap(), [store::Written::Applied]);
    server.queue.tell(Notice::Finished(Arc::new([id]))).await;
}

fn texts(events: &[[String; 3]]) -> String {
    events.iter().filter(|[name, ..]| name == "output").map(|[.., data]| data.as_str()).collect()
}

#[tokio::test]
async fn a_text_is_told_as_it_is_written() {
    let server = start().await;
    let (id, address) = create(&server, "my/writer").await;
    let mut notices = server.queue.listen();
    let mut response = opened(server.client.get(&address)).await;
    assert_eq!(header(&response, "content-type"), "text/event-stream");
    assert_eq!(header(&response, "cache-control"), "no-store");
    let run = server.claim(id).await;
    write(&server, &mut notices, id, run.epoch, &["The ", "light\nh\u{f6}use"]).await;
    let first = events(&mut response, 2).await;
    assert_eq!(texts(&first), "The light\nh\u{f6}use");
    // While somebody else goes on from the first of them.
    let mut again = opened(server.client.get(&address).header("Last-Event-ID", &first[0][1])).await;
    complete(&server, run, "The light\nh\u{f6}use is dark").await;
    let rest = events(&mut response, 9).await;
    assert_eq!((texts(&rest), &rest[1][0], &rest[1][2]), (" is dark".to_owned(), &"done".to_owned(), &"{}".to_owned()));
    assert_eq!(texts(&events(&mut again, 9).await), "light\nh\u{f6}use is dark");
    // And when all is over, from every id.
    let all: Vec<_> = first.iter().chain(&rest).cloned().collect();
    for number in 0..all.len() {
        let mut late = opened(server.client.get(&address).header("Last-Event-ID", &all[number][1])).await;
        let late = events(&mut late, 9).await;
        assert_eq!(texts(&all[..=number]) + &texts(&late), "The light\nh\u{f6}use is dark");
        assert_eq!(late.last().unwrap()[0], "done");
    }
}

#[tokio::test]
async fn the_text_of_a_version_that_nobody_serves_any_more_is_a_text() {
    let server = start().await;
    let (id, address) = create(&server, "my/writer").await;
    let mut notices = server.queue.listen();
    let mut response = opened(server.client.get(&address)).await;
    let run = server.claim(id).await;
    write(&server, &mut notices, id, run.epoch, &["The light"]).await;
    let first = events(&mut response, 1).await;
    complete(&server, run, "The lighthouse").await;
    server.store.withdraw(server.worker).await.unwrap();
    let is_unserved = async || {
        let body = json!({"model": "my/writer", "input": {"value": 1}});
        (server.post("/v1/predictions", &body).send().await.unwrap().status() == 503).then_some(())
    };
    crate::harness::until(is_unserved).await;
    let mut whole = opened(server.client.get(&address)).await;
    assert_eq!(texts(&events(&mut whole, 9).await), "The lighthouse");
    let mut rest = opened(server.client.get(&address).header("Last-Event-ID", &first[0][1])).await;
    assert_eq!(texts(&events(&mut rest, 9).await), "house");
}

#[tokio::test]
async fn other_outputs_and_ends_are_told_at_once() {
    let server = start().await;
    let (id, address) = create(&server, "augur/echo").await;
    let mut response = opened(server.client.get(&address)).await;
    server.finish(id).await;
    let told = events(&mut response, 9).await;
    assert_eq!((told.len(), &told[0][0], &told[0][2]), (2, &"output".to_owned(), &format!("\"{id}\"")));

    let (id, address) = create(&server, "my/writer").await;
    let mut response = opened(server.client.get(&address)).await;
    json_of(server.post(&format!("/v1/predictions/{id}/cancel"), &Value::Null).send().await.unwrap(), 200).await;
    let told = events(&mut response, 9).await;
    assert_eq!((told.len(), told[0][0].as_str(), told[0][2].as_str()), (1, "done", r#"{"reason":"canceled"}"#));

    let (id, address) = create(&server, "my/writer").await;
    let mut response = opened(server.client.get(&address)).await;
    let run = server.claim(id).await;
    let failure = Failure::new(FailureCode::ModelError, "the model failed on this input");
    end(&server, Outcome::Failed { run, failure, metrics: RunMetrics::default() }, id).await;
    let told = events(&mut response, 9).await;
    assert_eq!((told.len(), told[0][0].as_str(), told[1][2].as_str()), (2, "error", r#"{"reason":"error"}"#));
    assert!(told[0][2].contains("model_error"), "{told:?}");
}

#[tokio::test]
async fn a_capability_opens_its_own_stream() {
    let server = start().await;
    let (id, address) = create(&server, "augur/echo").await;
    let (other, other_address) = create(&server, "augur/echo").await;
    let (path, sig) = address.split_once("?sig=").unwrap();
    let (_, other_sig) = other_address.split_once("?sig=").unwrap();
    assert_ne!(sig, other_sig);
    for wrong in [other_sig, "", "x", &sig[1..]] {
        let refused = server.client.get(format!("{path}?sig={wrong}")).send().await.unwrap();
        problem(refused, 404, "not_found").await;
    }
    let nobody = PredictionId::generate();
    for path in [format!("/v1/predictions/{nobody}/stream"), "/v1/predictions/x/stream".to_owned()] {
        problem(server.get(&path).send().await.unwrap(), 404, "not_found").await;
    }
    problem(server.get(&format!("/v1/predictions/{id}/stream?wait=5")).send().await.unwrap(), 400, "malformed_request")
        .await;
    for wrong in ["x", "1:2", "1:2:3:4"] {
        let refused = server.client.get(&address).header("Last-Event-ID", wrong).send().await.unwrap();
        problem(refused, 400, "malformed_request").await;
    }
    let refused = server.client.get(&address).header("Accept", "application/json").send().await.unwrap();
    problem(refused, 406, "not_acceptable").await;
    for accept in ["text/event-stream", "*/*"] {
        drop(opened(server.client.get(&address).header("Accept", accept)).await);
    }
    assert_ne!(id, other);
}

#[tokio::test]
async fn streams_are_bounded_and_end_with_the_server() {
    let server = Server::start_with(api::Config { stream_limit: 2, ..config() }).await;
    let (_, address) = create(&server, "augur/echo").await;
    let one = opened(server.client.get(&address)).await;
    let mut other = opened(server.client.get(&address)).await;
    let response = server.client.get(&address).send().await.unwrap();
    assert_eq!(header(&response, "retry-after"), "5");
    problem(response, 503, "too_many_streams").await;
    drop(one);
    // Its place is free again once the server has seen that.
    let mut third = crate::harness::until(|| async {
        let response = server.client.get(&address).send().await.unwrap();
        (response.status() == 200).then_some(response)
    })
    .await;
    server.stop.cancel();
    assert_eq!((events(&mut other, 9).await, events(&mut third, 9).await), (vec![], vec![]));
    timeout(PATIENCE, server.serving).await.expect("it stops").unwrap();
}

#[tokio::test]
async fn neither_a_key_nor_an_address_takes_every_place() {
    let shares = [None, Some(0.3)];
    let (server, keys) = keyed(None, api::Config { stream_limit: 12, ..config() }, &shares).await;
    let [one, other] = [0, 1].map(|index| Asking { server: &server, key: &keys[index] });
    let of = async |asking: Asking<'_>| {
        let id = asking.create(&json!({"model": "augur/echo", "input": {"value": 1}})).await;
        let found = asking.read(&format!("/v1/predictions/{id}")).await;
        (format!("/v1/predictions/{id}/stream"), found["urls"]["stream"].as_str().unwrap().to_owned())
    };
    let (path, address) = of(one).await;
    let mut open = Vec::new();
    // With the key or with the address, it is one prediction's.
    for _ in 0..2 {
        open.push(opened(server.client.get(&address)).await);
        let response = one.get(&path).await;
        assert_eq!(response.status(), 200);
        open.push(response);
    }
    let refused = async |response: Response| {
        assert_eq!(header(&response, "retry-after"), "5");
        problem(response, 429, "stream_share_full").await["detail"].as_str().unwrap().to_owned()
    };
    assert!(refused(server.client.get(&address).send().await.unwrap()).await.contains("this prediction"));
    assert!(refused(one.get(&path).await).await.contains("this prediction"));
    // A half is one key's, whoever reads.
    let (_, second) = of(one).await;
    for _ in 0..2 {
        open.push(opened(server.client.get(&second)).await);
    }
    assert!(refused(server.client.get(&second).send().await.unwrap()).await.contains("this key's"));
    assert!(refused(one.get(&path).await).await.contains("this key's"));
    // The other key has its own share.
    let (_, others) = of(other).await;
    for _ in 0..3 {
        open.push(opened(server.client.get(&others)).await);
    }
    assert!(refused(server.client.get(&others).send().await.unwrap()).await.contains("this key's"));
    drop(open);
    crate::harness::until(|| async { (one.get(&path).await.status() == 200).then_some(()) }).await;
}
