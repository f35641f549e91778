//! Where webhooks may not go, at delivery: what one program let be registered, or is in the database for whatever reason, another
//! program does not connect to. Crate `webhook` tests the table in full; here the programs keep to it.

use std::ffi::OsString;

use prediction::{DeliveryId, Event, PredictionId};
use servers::Process;
use tests::{Cluster, Conduct, PATIENCE, Plan, Receiver, Recorded, Webhooks};

/// Hosts that any server would let be registered whose operator allows every network: addresses in every way of writing them.
const PRIVATE: &[&str] = &[
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "198.18.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "224.0.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "017700000001",
    "127.1",
    "127.0.0.1.",
    "１２７.０.０.１",
    "①②⑦.0.0.1",
    "%31%32%37.0.0.1",
    "localhost",
    "LOCALHOST.",
    "a.localhost",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:a9fe:a9fe]",
    "[::127.0.0.1]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::1]",
    "[2002:7f00:1::]",
    "[2001::1]",
    "[fe80::1]",
    "[fec0::1]",
    "[fd12:3456::1]",
    "[fd00:ec2::254]",
    "[ff02::1]",
];

/// URLs that no API lets be registered.
const UNREGISTRABLE: &[&str] = &[
    "file:///etc/passwd",
    "gopher://127.0.0.1/",
    "unix:/run/docker.sock",
    "http://user@127.0.0.1:PORT/",
    "http://user:password@127.0.0.1:PORT/",
    "http://example.com@127.0.0.1:PORT/",
    "http://127.0.0.1:22/",
    "http://127.0.0.1:6379/",
    "http://127.0.0.1:5432/",
    "http://127.0.0.1:PORT/\r\nHost: internal",
    "http://127.0.0.1:PORT/ HTTP/1.1\r\nwebhook-signature: v1,x",
    "http://[fe80::1%25eth0]:PORT/",
    "http://127.0.0.0x100:PORT/",
    "http://127.0.0.1:PORT\\@example.com/",
    "",
];

/// Waits for the first attempt at each of these tests.
async fn first_attempts(cluster: &Cluster, tests: &[(String, DeliveryId)]) -> Vec<(String, Recorded)> {
    let mut attempts = Vec::new();
    for (url, test) in tests {
        let wait = async {
            loop {
                if let Some(first) = cluster.recorded(*test).await.into_iter().next() {
                    return first;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        let first = tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{url:?} was not tried"));
        attempts.push((url.clone(), first));
    }
    attempts
}

fn test_of(prediction: uuid::Uuid) -> DeliveryId {
    DeliveryId { prediction: PredictionId(prediction), event: Event::Test }
}

/// S14 to S16, S19, S21 and S22.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_registered_under_looser_rules_is_not_connected_to() {
    let webhooks = Webhooks { registered: &["0.0.0.0/0", "::/0"], sent: &[], ..Webhooks::default() };
    let cluster = Cluster::start(Plan { workers: 1, webhooks: Some(webhooks), ..Plan::default() }).await;
    let receiver = Receiver::well().await;
    let mut tests = Vec::new();
    for host in PRIVATE {
        let url = receiver.url_at(host, "/hook");
        let id = cluster.send_test(&url).await;
        tests.push((url, id.parse().expect("an id")));
    }
    for (number, url) in UNREGISTRABLE.iter().enumerate() {
        let url = url.replace("PORT", &receiver.port().to_string());
        let ids = cluster.add_unvetted(&url, &format!("http://origin-{number}"), 1).await;
        tests.push((url, test_of(ids[0])));
    }
    for (url, attempt) in first_attempts(&cluster, &tests).await {
        assert_eq!((attempt.error.as_deref(), attempt.status), (Some("refused"), None), "{url:?}: {attempt:?}");
        assert!(attempt.message.is_some_and(|message| !message.is_empty()), "{url:?}");
    }
    assert_eq!(receiver.connections(), 0);
    let outbox = cluster.outbox(None).await;
    assert_eq!(outbox.waiting + outbox.sending, i64::try_from(tests.len()).expect("few"), "they stay due: {outbox:?}");
}

/// S20 and the proxy of S21: nobody who answers, and nothing in the environment, sends a webhook elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_redirections_nor_proxies_lead_elsewhere() {
    let webhooks = Webhooks { senders: 0, ..Webhooks::default() };
    let cluster = Cluster::start(Plan { workers: 1, webhooks: Some(webhooks), ..Plan::default() }).await;
    let elsewhere = Receiver::well().await;
    let target = elsewhere.url("/elsewhere");
    let receiver = Receiver::start(move |webhook| match webhook.path.trim_start_matches('/').parse::<u16>() {
        Ok(status) => Conduct::Say(
            format!("HTTP/1.1 {status} Elsewhere\r\nlocation: {target}\r\ncontent-length: 0\r\n\r\n").into_bytes(),
        ),
        Err(_) => Conduct::Take,
    })
    .await;
    let proxies = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];
    let proxies = proxies.map(|name| OsString::from(format!("{name}={}", elsewhere.url(""))));
    let command = ["env".into()].into_iter().chain(proxies).chain(cluster.sender_command());
    let sender = Process::new("augur-sender", command.collect());
    sender.start().await;

    let straight = cluster.send_test(&receiver.url("/straight")).await;
    let mut redirected: Vec<(i16, String, DeliveryId)> = Vec::new();
    for status in [301, 302, 303, 307, 308] {
        let url = receiver.url(&format!("/{status}"));
        let test = cluster.send_test(&url).await.parse().expect("an id");
        redirected.push((status, url, test));
    }
    let tests: Vec<_> = redirected.iter().map(|(_, url, id)| (url.clone(), *id)).collect();
    for ((status, ..), (url, attempt)) in redirected.iter().zip(first_attempts(&cluster, &tests).await) {
        assert_eq!(attempt.status, Some(*status), "{url}: {attempt:?}; {}", sender.log());
    }
    receiver
        .until("the straight one", |received| received.iter().any(|webhook| webhook.id() == straight).then_some(()))
        .await;
    // A redirection is a failed attempt.
    cluster.until_outbox("settled", |outbox| outbox.delivered == 1 && outbox.waiting == 5).await;
    assert_eq!(elsewhere.connections(), 0);
}
