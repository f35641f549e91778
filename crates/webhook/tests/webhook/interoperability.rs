//! The official library of Standard Webhooks accepts what we sign, and we accept what it signs.

use hyper::HeaderMap;
use standardwebhooks::Webhook;
use webhook::{
    HEADER_ID, HEADER_SIGNATURE, HEADER_TIMESTAMP, MessageId, Secret, Secrets, Signed, TOLERANCE, Tls, verify,
};

use crate::{
    receiver::Receiver,
    sender::{BODY, PATIENT, Script, deliverer, guard, now, send},
};

fn headers(id: &str, timestamp: i64, signature: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(HEADER_ID, id.parse().expect("a header"));
    headers.insert(HEADER_TIMESTAMP, timestamp.to_string().parse().expect("a header"));
    headers.insert(HEADER_SIGNATURE, signature.parse().expect("a header"));
    headers
}

fn official(secret: &Secret) -> Webhook {
    Webhook::new(&secret.reveal()).expect("the official library reads our secret")
}

#[test]
fn it_accepts_what_we_sign_and_nothing_altered() {
    let (new, old, never) = (Secret::generate(), Secret::generate(), Secret::generate());
    let id: MessageId = "evt_1".parse().expect("a good id");
    let at = now();
    let during = Secrets { current: new.clone(), previous: vec![old.clone()] }.sign(&id, at, BODY.as_bytes());
    let after = Secrets::from(new.clone()).sign(&id, at, BODY.as_bytes());
    let accepts =
        |secret: &Secret, headers: &HeaderMap, body: &str| official(secret).verify(body.as_bytes(), headers).is_ok();
    assert!(accepts(&new, &headers("evt_1", at, &during), BODY));
    assert!(accepts(&old, &headers("evt_1", at, &during), BODY), "while it rotates");
    assert!(accepts(&new, &headers("evt_1", at, &after), BODY));
    assert!(!accepts(&old, &headers("evt_1", at, &after), BODY), "after it rotated");
    assert!(!accepts(&never, &headers("evt_1", at, &during), BODY));
    assert!(!accepts(&new, &headers("evt_2", at, &during), BODY), "id");
    assert!(!accepts(&new, &headers("evt_1", at - 1, &during), BODY), "time");
    assert!(!accepts(&new, &headers("evt_1", at, &during), &BODY.replace('1', "2")), "body");
    let tolerance = i64::try_from(TOLERANCE.as_secs()).expect("minutes");
    for (off, accepted) in [(-tolerance - 5, false), (-tolerance + 60, true), (tolerance + 60, false)] {
        let signature = Secrets::from(new.clone()).sign(&id, at + off, BODY.as_bytes());
        assert_eq!(accepts(&new, &headers("evt_1", at + off, &signature), BODY), accepted, "{off} s");
    }
}

#[test]
fn we_accept_what_it_signs() {
    let secret = Secret::generate();
    let at = now();
    let signature = official(&secret).sign("evt_1", at, BODY.as_bytes()).expect("signed");
    let timestamp = at.to_string();
    let signed = Signed { id: "evt_1", timestamp: &timestamp, signature: &signature };
    assert_eq!(verify(&secret, signed, BODY.as_bytes(), at), Ok(()));
}

#[tokio::test]
async fn it_accepts_what_arrives() {
    let receiver = Receiver::saying("HTTP/1.1 200 OK\r\n\r\n").await;
    let (current, previous) = (Secret::generate(), Secret::generate());
    let secrets = Secrets { current: current.clone(), previous: vec![previous.clone()] };
    let deliverer = deliverer(guard(&Script::new(&[]), &["127.0.0.0/8"]), Tls::default(), PATIENT);
    assert!(send(&deliverer, &receiver.url(), &secrets).await.outcome.is_ok());
    let request = &receiver.requests()[0];
    let header = |name: &str| request.header(name)[0];
    let timestamp = header(HEADER_TIMESTAMP).parse().expect("a number");
    let headers = headers(header(HEADER_ID), timestamp, header(HEADER_SIGNATURE));
    for secret in [current, previous] {
        official(&secret).verify(&request.body, &headers).expect("accepted");
    }
}
