//! S23: receivers that answer without end, at a byte per second, with huge headers or a bomb cost an attempt its time and 16 KiB.

use tests::{Cluster, Conduct, Plan, Receiver, Webhooks};

const KEPT: usize = 16 * 1024;
/// An attempt's time in seconds, and what a busy machine may add to what it measures.
const DEADLINE: f64 = 15.0;
const BUSY: f64 = 60.0;

/// The head of 10 GB of zeros, compressed.
const BOMB: [u8; 24] =
    [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 0xec, 0xc1, 1, 1, 0, 0, 0, 0x80, 0x90, 0xfe, 0xaf, 0xee, 8, 0];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_receivers_cost_little() {
    let plan = Plan { workers: 1, webhooks: Some(Webhooks::default()), ..Plan::default() };
    let cluster = Cluster::start(plan).await;
    let receiver = Receiver::start(|webhook| match webhook.path.as_str() {
        "/drip" => Conduct::Drip,
        "/flood" => Conduct::Flood,
        "/headers" => {
            let fields = format!("x: {}\r\n", "y".repeat(1024 * 1024));
            Conduct::Say(format!("HTTP/1.1 200 OK\r\n{fields}\r\n").into_bytes())
        }
        _ => {
            let mut bomb = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n".to_vec();
            bomb.extend(BOMB);
            bomb.resize(bomb.len() + 100 * 1024, 0);
            Conduct::Say(bomb)
        }
    })
    .await;
    let mut attempts = Vec::new();
    for path in ["/drip", "/flood", "/headers", "/bomb"] {
        // Origins of their own: none waits for another.
        let host = format!("127.0.1.{}", attempts.len() + 1);
        attempts.push(cluster.send_test(&receiver.url_at(&host, path)).await);
    }
    cluster.until_outbox("tried", |outbox| outbox.sending == 0 && outbox.delivered == 2).await;
    let mut recorded = Vec::new();
    for id in attempts {
        let id = id.parse().expect("an id");
        let wait = async {
            loop {
                if let Some(first) = cluster.recorded(id).await.into_iter().next() {
                    return first;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        recorded.push(tokio::time::timeout(tests::PATIENCE, wait).await.expect("an attempt"));
    }
    let [drip, flood, headers, bomb] = recorded.try_into().expect("four");
    assert_eq!((drip.error.as_deref(), headers.error.as_deref()), (Some("timed_out"), Some("headers_too_large")));
    assert_eq!((flood.status, bomb.status), (Some(200), Some(200)));
    assert_eq!(flood.answer.as_deref(), Some(&[b'.'; KEPT][..]));
    let kept = bomb.answer.expect("the beginning of the bomb");
    assert_eq!((kept.len(), &kept[..BOMB.len()]), (KEPT, &BOMB[..]), "as it came");
    for attempt in [drip.seconds, flood.seconds, headers.seconds, bomb.seconds] {
        assert!(attempt <= DEADLINE + BUSY, "an attempt took {attempt} s");
    }
}
