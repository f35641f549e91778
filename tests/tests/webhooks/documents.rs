//! The examples for receivers are what the document shows, and they work: each takes what real programs send it, once, and
//! refuses anything else.

use std::{ffi::OsString, fs};

use serde_json::json;
use servers::Process;
use tests::{Cluster, PATIENCE, Plan, Receiver, Webhooks};

use crate::verifiers::{beside_node_modules, python, root};

const EXAMPLES: [(&str, &str); 3] = [("receiver.py", "python"), ("receiver.mjs", "js"), ("receiver.rs", "rust")];

#[test]
fn the_document_shows_the_examples_that_are_tested() {
    let document = fs::read_to_string(root().join("docs/webhooks.md")).expect("the document");
    for (file, language) in EXAMPLES {
        let example = fs::read_to_string(root().join("docs/receivers").join(file)).expect("the example");
        assert!(
            document.contains(&format!("```{language}\n{example}```\n")),
            "docs/webhooks.md does not show docs/receivers/{file} as it is"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_examples_take_each_event_once_and_refuse_what_is_not_signed() {
    let plan = Plan { workers: 1, webhooks: Some(Webhooks::default()), ..Plan::default() };
    let cluster = Cluster::start(plan).await;
    let secret = cluster.default_secret().await;
    let examples = root().join("docs/receivers");
    let (_beside, module) = beside_node_modules(&examples.join("receiver.mjs"));
    let commands: [Vec<OsString>; 3] = [
        vec![python().into(), examples.join("receiver.py").into()],
        vec!["node".into(), module.into()],
        vec![env!("CARGO_BIN_EXE_receiver").into()],
    ];
    for command in commands {
        let port = servers::free_port();
        let environment =
            ["env".into(), format!("AUGUR_WEBHOOK_SECRET={secret}").into(), format!("PORT={port}").into()];
        let example = Process::new("receiver", environment.into_iter().chain(command).collect());
        example.start().await;

        let url = format!("http://127.0.0.1:{port}/hook");
        until_it_listens(&example, &url).await;
        let id = cluster.predict(&json!("ä"), &url).await;
        for event in tests::EVENTS {
            example.line_that_begins(&format!("{id}_{event} "), PATIENCE).await;
        }
        let test = cluster.send_test(&url).await;
        example.line_that_begins(&format!("{test} "), PATIENCE).await;
        cluster.until_told().await;

        assert_takes_once(&cluster, &example, &url).await;
        let outbox = cluster.outbox(Some(&url)).await;
        assert_eq!((outbox.delivered, outbox.waiting), (5, 0), "{}", example.log());
    }
}

/// What a sender repeats, here because an answer of the example's got lost, is answered well and not done twice; and what is not
/// signed is refused.
async fn assert_takes_once(cluster: &Cluster, example: &Process, url: &str) {
    let tap = Receiver::well().await;
    let again = cluster.send_test(&tap.url("/hook")).await;
    let webhook = tap.until("a test", |received| received.first().cloned()).await;
    assert_eq!(webhook.id(), again);
    let client = reqwest::Client::new();
    let send = async |body: &str, id: &str| {
        let mut request = client.post(url).body(body.to_owned());
        for (name, value) in
            webhook.headers.iter().filter(|(name, _)| name.starts_with("webhook-") && *name != "webhook-id")
        {
            request = request.header(name, value);
        }
        request.header("webhook-id", id).send().await.expect("the example answers").status().as_u16()
    };
    assert_eq!(send(&format!("{} ", webhook.body), &again).await, 400);
    assert_eq!(send(&webhook.body, "another").await, 400);
    assert_eq!(client.post(url).body(webhook.body.clone()).send().await.expect("an answer").status(), 400);
    assert_eq!(example.log().matches(&again).count(), 0, "{}", example.log());
    for _ in 0..2 {
        assert_eq!(send(&webhook.body, &again).await, 204, "{}", example.log());
    }
    example.line_that_begins(&format!("{again} "), PATIENCE).await;
    // What it handles next is only there once the repetition is done with.
    let next = cluster.send_test(url).await;
    example.line_that_begins(&format!("{next} "), PATIENCE).await;
    let lines = example.log().lines().filter(|line| line.starts_with(&again)).count();
    assert_eq!(lines, 1, "{}", example.log());
    cluster.until_told().await;
}

async fn until_it_listens(example: &Process, url: &str) {
    let client = reqwest::Client::new();
    let listening = async {
        while client.post(url).send().await.is_err() {
            assert!(example.is_alive().await, "it ended: {}", example.log());
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, listening).await.is_ok(), "it does not listen: {}", example.log());
}
