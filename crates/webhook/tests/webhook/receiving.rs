//! What a receiver gets, and what becomes of its answers.

use std::{process::Command, time::Duration};

use bytes::Bytes;
use webhook::{
    BodyEnd, ExtraHeader, Failed, HEADER_ID, HEADER_SIGNATURE, HEADER_TIMESTAMP, Health, Message, RetryAfter, Signed,
    Tls, Verdict, verify,
};

use crate::{
    receiver::Receiver,
    sender::{BODY, ID, PATIENT, Script, deliverer, guard, now, secrets, send_to_loopback},
};

#[tokio::test]
async fn a_receiver_gets_a_signed_request_and_its_answer_is_kept() {
    let receiver = Receiver::saying("HTTP/1.1 202 Accepted\r\ncontent-length: 6\r\nretry-after: 7\r\n\r\nthanks").await;
    let guard = guard(&Script::new(&[]), &["127.0.0.0/8"]);
    let (id, secrets, url) = (ID.parse().expect("a good id"), secrets(), receiver.url());
    let trace = ExtraHeader::new("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let message = Message {
        url: &url,
        id: &id,
        timestamp: now(),
        body: Bytes::from_static(BODY.as_bytes()),
        secrets: &secrets,
        headers: &[trace.expect("a good header")],
    };
    let attempt = deliverer(guard, Tls::default(), PATIENT).attempt(&message).await;
    assert_eq!((attempt.verdict(0), attempt.health()), (Verdict::Delivered, Health::Well));
    assert!(attempt.latency > Duration::ZERO);
    let answer = attempt.outcome.expect("an answer");
    assert_eq!((answer.status, &*answer.body, answer.body_end), (202, &b"thanks"[..], BodyEnd::Complete));
    assert_eq!(answer.retry_after, Some(RetryAfter::Wait(Duration::from_secs(7))));

    let [request] = &receiver.requests()[..] else { panic!("one request") };
    assert!(request.head.starts_with("POST /hook?a=1 HTTP/1.1\r\n"), "{}", request.head);
    assert_eq!(request.body, BODY.as_bytes());
    for (name, value) in [
        ("host", receiver.address.to_string()),
        ("content-type", "application/json".to_owned()),
        ("content-length", BODY.len().to_string()),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        (HEADER_ID, ID.to_owned()),
        (HEADER_TIMESTAMP, message.timestamp.to_string()),
    ] {
        assert_eq!(request.header(name), [value], "{name}");
    }
    assert!(request.header("accept-encoding").is_empty(), "compression is not asked for");
    let header = |name: &str| request.header(name)[0];
    let signed =
        Signed { id: header(HEADER_ID), timestamp: header(HEADER_TIMESTAMP), signature: header(HEADER_SIGNATURE) };
    assert_eq!(verify(&secrets.current, signed, &request.body, now()), Ok(()));
}

/// S20: nowhere is followed to, and the status is kept.
#[tokio::test]
async fn redirections_are_failures_and_lead_nowhere() {
    let elsewhere = Receiver::saying("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    for status in [300, 301, 302, 303, 304, 305, 307, 308] {
        let location = elsewhere.url();
        let answer = format!("HTTP/1.1 {status} Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
        let receiver = Receiver::saying(answer).await;
        let attempt = send_to_loopback(&receiver.url(), PATIENT).await;
        assert_eq!(attempt.verdict(0), Verdict::Retry { at_least: Duration::ZERO }, "{status}");
        assert_eq!(attempt.outcome.expect("an answer").status, status);
        assert_eq!(receiver.connections(), 1);
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn statuses_decide() {
    let retry = |seconds| Verdict::Retry { at_least: Duration::from_secs(seconds) };
    for (head, verdict, health) in [
        ("200 OK", Verdict::Delivered, Health::Well),
        ("204 No Content", Verdict::Delivered, Health::Well),
        ("410 Gone", Verdict::Gone, Health::Well),
        ("400 Bad Request", retry(0), Health::Well),
        ("404 Not Found", retry(0), Health::Well),
        ("429 Too Many\r\nretry-after: 30", retry(30), Health::Ill),
        ("500 Oops", retry(0), Health::Ill),
        ("503 Busy\r\nretry-after: 99999999", retry(86_400), Health::Ill),
        ("503 Busy\r\nretry-after: Sun, 06 Nov 1994 08:49:37 GMT", retry(37), Health::Ill),
        ("503 Busy\r\nretry-after: when I am back", retry(0), Health::Ill),
    ] {
        let receiver = Receiver::saying(format!("HTTP/1.1 {head}\r\n\r\n")).await;
        let attempt = send_to_loopback(&receiver.url(), PATIENT).await;
        assert_eq!((attempt.verdict(784_111_740), attempt.health()), (verdict, health), "{head}");
    }
}

#[tokio::test]
async fn a_receiver_that_is_not_there_fails() {
    // Nobody else takes this port: other listeners are at other addresses.
    let listener = std::net::TcpListener::bind("127.0.0.2:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let attempt = send_to_loopback(&format!("http://{address}/hook"), PATIENT).await;
    let error = std::io::ErrorKind::ConnectionRefused;
    assert_eq!(attempt.outcome, Err(Failed::Connect { address, error }));
    assert_eq!(attempt.health(), Health::Ill);
}

/// S21: `HTTP_PROXY` and its kin. A process's environment is set from outside, so this runs one of the tests above again.
#[test]
fn proxies_of_the_environment_are_ignored() {
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    proxy.set_nonblocking(true).expect("a listener");
    let url = format!("http://{}", proxy.local_addr().expect("an address"));
    let mut again = Command::new(std::env::current_exe().expect("this program"));
    again.args(["--exact", "receiving::a_receiver_gets_a_signed_request_and_its_answer_is_kept"]);
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        again.env(name, &url);
    }
    let output = again.env_remove("NO_PROXY").env_remove("no_proxy").output().expect("it runs");
    let words = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && words.contains("1 passed"), "{words}");
    assert_eq!(proxy.accept().err().map(|error| error.kind()), Some(std::io::ErrorKind::WouldBlock));
}
