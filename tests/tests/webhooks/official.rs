//! The official verifiers accept what real programs send, also while a secret rotates, and refuse whatever was altered.

use prediction::{BodyForm, DeliveryId};
use reqwest::Method;
use serde_json::{Value, json};
use tests::{Cluster, EVENTS, Plan, Received, Receiver, Webhooks};

use crate::verifiers::{Case, refusals};

/// Texts that are written in several ways in JSON, so that a body that was parsed and written again would not fit.
const VALUES: [&str; 4] = ["plain", "ä\u{2028}\u{1f980}\"\\/\u{7}", "", "1e400 \u{feff}"];

/// Nobody's secret here: the one that the specification signs its example with.
const ANOTHER: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

async fn assert_accepted(cases: &[Case]) {
    for (verifier, refusals) in refusals(cases).await {
        assert!(refusals.iter().all(Option::is_none), "{verifier}: {refusals:?}");
    }
}

/// Each must be refused for a reason that contains one of its words; every library has its own.
async fn assert_refused(cases: &[(Case, &[&str])]) {
    let webhooks: Vec<Case> = cases.iter().map(|(case, _)| case.clone()).collect();
    for (verifier, refusals) in refusals(&webhooks).await {
        for (number, (refusal, (_, words))) in refusals.iter().zip(cases).enumerate() {
            let refused =
                refusal.as_ref().is_some_and(|why| words.iter().any(|word| why.to_lowercase().contains(word)));
            assert!(refused, "{verifier}, case {number}: {refusal:?} says none of {words:?}");
        }
    }
}

const SIGNATURE: &[&str] = &["signature"];
const TIME: &[&str] = &["too old", "too new", "too far", "tolerance"];

/// Waits for a webhook by its id.
async fn arrived(receiver: &Receiver, id: &str) -> Received {
    receiver.until(id, |received| received.iter().find(|webhook| webhook.id() == id).cloned()).await
}

async fn test_arrived(cluster: &Cluster, receiver: &Receiver, path: &str) -> Received {
    arrived(receiver, &cluster.send_test(&receiver.url(path)).await).await
}

fn signatures(webhook: &Received) -> usize {
    webhook.headers["webhook-signature"].split(' ').count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn official_verifiers_accept_every_webhook_and_refuse_altered_ones() {
    let plan = Plan { workers: 1, webhooks: Some(Webhooks::default()), has_fake_clock: true, ..Plan::default() };
    let cluster = Cluster::start(plan).await;
    let receiver = Receiver::well().await;
    let secret = cluster.default_secret().await;

    // Every event, both forms of body, the default secret and one of an endpoint's own.
    let endpoint = json!({ "url": receiver.url("/own"), "body": BodyForm::Event.as_str() });
    let (status, endpoint) = cluster.ask(Method::POST, "/v1/webhooks/endpoints", &endpoint).await;
    assert_eq!(status, 201, "{endpoint}");
    let own_path = format!("/v1/webhooks/endpoints/{}/secret", endpoint["id"].as_str().expect("an id"));
    let (_, own) = cluster.get(&own_path).await;
    let own = own["key"].as_str().expect("a key").to_owned();
    assert_ne!(own, secret);
    let mut expected = Vec::new();
    for value in VALUES {
        for path in ["/default?with=a+query", "/own?with=a+query"] {
            let id = cluster.predict(&json!({ "text": value }), &receiver.url(path)).await;
            expected.extend(EVENTS.map(|event| format!("{id}_{event}")));
        }
    }
    // Until then there are events that have not happened.
    cluster.until_finished().await;
    cluster.until_told().await;
    let received = receiver.received();
    let mut ids: Vec<&str> = received.iter().map(Received::id).collect();
    ids.sort_unstable();
    expected.sort_unstable();
    assert_eq!(ids, expected, "each event once");
    let secret_of = |webhook: &Received| if webhook.path.starts_with("/own") { own.clone() } else { secret.clone() };
    let cases: Vec<Case> = received.iter().map(|webhook| Case::new(webhook, &secret_of(webhook))).collect();
    assert_accepted(&cases).await;
    received.iter().for_each(assert_says_what_it_is);

    // Altered after it was signed.
    let webhook = &received[0];
    let case = Case::new(webhook, &secret_of(webhook));
    let a_second_later = (webhook.headers["webhook-timestamp"].parse::<i64>().expect("seconds") + 1).to_string();
    assert_refused(&[
        (case.clone().with_body(format!("{} ", webhook.body)), SIGNATURE),
        (case.clone().with_body(webhook.body.replacen('{', "{\"status\":\"canceled\",", 1)), SIGNATURE),
        (case.clone().with_header("webhook-id", &format!("{}x", webhook.id())), SIGNATURE),
        (case.clone().with_header("webhook-timestamp", &a_second_later), SIGNATURE),
        (Case::new(webhook, ANOTHER), SIGNATURE),
        (Case::new(webhook, if webhook.path.starts_with("/own") { &secret } else { &own }), SIGNATURE),
    ])
    .await;

    rotation(&cluster, &receiver, &secret).await;

    // Signed at another time than now: this is not about the signature.
    let old = cluster.default_secret().await;
    cluster.advance(6.0 * 60.0).await;
    let early = test_arrived(&cluster, &receiver, "/default").await;
    assert_refused(&[(Case::new(&early, &old), TIME)]).await;
}

/// While it rotates, both secrets are good; then the new one is.
async fn rotation(cluster: &Cluster, receiver: &Receiver, old: &str) {
    let path = "/v1/webhooks/default/secret";
    let new = cluster.rotate(path, "1h").await;
    assert_eq!(cluster.default_secret().await, new);
    assert_ne!(new, old);
    let both = test_arrived(cluster, receiver, "/default").await;
    assert_eq!(signatures(&both), 2, "{both:?}");
    assert_accepted(&[Case::new(&both, old), Case::new(&both, &new)]).await;
    assert_refused(&[(Case::new(&both, ANOTHER), SIGNATURE)]).await;

    let newest = cluster.rotate(path, "1s").await;
    // The one in between signs for a second more.
    let last = loop {
        let webhook = test_arrived(cluster, receiver, "/default").await;
        if Case::new(&webhook, &new).is_refused() {
            break webhook;
        }
    };
    assert_accepted(&[Case::new(&last, &newest)]).await;
    assert_refused(&[(Case::new(&last, &new), SIGNATURE)]).await;
}

/// The headers fit each other and the body, whatever its form.
fn assert_says_what_it_is(webhook: &Received) {
    let body: Value = serde_json::from_str(&webhook.body).expect("a body is JSON");
    let id: DeliveryId = webhook.id().parse().expect("an id of a delivery");
    let event = id.event.as_str();
    assert_eq!(webhook.headers["augur-event"], event);
    assert_eq!(webhook.headers["augur-sequence"], id.event.code().to_string());
    assert_eq!(webhook.headers["content-type"], "application/json");
    let prediction = if webhook.path.starts_with("/own") {
        assert_eq!(body["type"], format!("prediction.{event}"), "{body}");
        assert!(body["timestamp"].is_string(), "{body}");
        &body["data"]
    } else {
        &body
    };
    assert_eq!(prediction["id"], id.prediction.to_string(), "{body}");
    assert_eq!(prediction["status"], if event == "completed" { "succeeded" } else { "processing" }, "{body}");
    assert_eq!(prediction["output"].is_null(), event == "start", "{body}");
    assert_eq!(prediction["completed_at"].is_null(), event != "completed", "{body}");
}
