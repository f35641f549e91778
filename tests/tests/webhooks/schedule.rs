//! The published schedule, on a clock that the test moves: ten attempts over more than 72 hours, resumed exactly whatever is lost
//! in between, and then a redelivery.

use prediction::DeliveryId;
use reqwest::Method;
use serde_json::json;
use tests::{Cluster, Conduct, Plan, Received, Receiver, Recorded, Webhooks};

/// The waits before the attempts that follow the first one, in seconds, as they are published.
const WAITS: [f64; 9] = [5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0];
const JITTER: f64 = 0.2;
/// The waits are counted from the moment an attempt is settled, which is a while after its beginning.
const SETTLED_WITHIN: f64 = 10.0;
/// How many seconds each second of the clock lasts: the second attempt is due within five, and must not come before the test has
/// moved the clock.
const SLOWNESS: f64 = 20.0;
const HOUR: f64 = 3600.0;

async fn recorded(cluster: &Cluster, delivery: DeliveryId, count: usize) -> Vec<Recorded> {
    cluster.until_outbox("settled", |outbox| outbox.sending == 0).await;
    let wait = async {
        loop {
            let recorded = cluster.recorded(delivery).await;
            if recorded.len() >= count {
                return recorded;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(tests::PATIENCE, wait).await.unwrap_or_else(|_| panic!("there is no attempt {count}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stderr, reason = "the test runner shows it when the test fails")]
async fn ten_attempts_over_three_days_whatever_is_lost_in_between() {
    let plan = Plan { workers: 1, webhooks: Some(Webhooks::default()), has_fake_clock: true, ..Plan::default() };
    let cluster = Cluster::start(plan).await;
    cluster.slow_clock(SLOWNESS).await;
    let receiver = Receiver::start(|_| Conduct::status(500)).await;
    let delivery: DeliveryId = cluster.send_test(&receiver.url("/hook")).await.parse().expect("an id");

    for (number, published) in (1..).zip(WAITS) {
        let latest = recorded(&cluster, delivery, number).await.pop().expect("an attempt");
        assert_eq!((latest.status, latest.number), (Some(500), i32::try_from(number).expect("a number")), "{latest:?}");
        let due = cluster.due_at(delivery).await;
        let wait = due - latest.at;
        let (shortest, longest) = (published * (1.0 - JITTER) - 0.01, published * (1.0 + JITTER) + SETTLED_WITHIN);
        assert!((shortest..=longest).contains(&wait), "{wait} s before attempt {}, not {published} s", number + 1);
        lose_something(&cluster, number).await;
        assert_eq!(cluster.due_at(delivery).await.to_bits(), due.to_bits(), "nothing moves it");
        // Not quite: the clock goes on by itself, and nobody may be early.
        cluster.advance(due - cluster.now().await - 1.0 / SLOWNESS).await;
        let next = recorded(&cluster, delivery, number + 1).await.pop().expect("an attempt");
        assert!(next.at >= due, "attempt {} was {} s early", number + 1, due - next.at);
    }

    let recorded = recorded(&cluster, delivery, WAITS.len() + 1).await;
    let hours = (recorded[9].at - recorded[0].at) / HOUR;
    eprintln!("{} attempts over {hours:.1} hours", recorded.len());
    assert!(recorded.len() == 10 && hours >= 72.0, "{} attempts over {hours} hours", recorded.len());
    let path = format!("/v1/webhooks/deliveries/{delivery}");
    let (_, exhausted) = cluster.get(&path).await;
    assert_eq!((&exhausted["status"], &exhausted["attempts"]), (&json!("exhausted"), &json!(10)), "{exhausted}");

    let (status, again) = cluster.ask(Method::POST, &format!("{path}/redeliver"), &json!({})).await;
    assert_eq!(status, 202, "{again}");
    let received = receiver.until("attempt 11", |received| (received.len() > 10).then(|| received.to_vec())).await;
    assert!(received.iter().all(|webhook| webhook.id() == delivery.to_string() && webhook.body == received[0].body));
    assert_signed_when_tried(&received, &recorded);
}

/// The time that is signed is the attempt's, by the database's clock.
fn assert_signed_when_tried(received: &[Received], recorded: &[Recorded]) {
    for (webhook, attempt) in received.iter().zip(recorded) {
        let signed: f64 = webhook.headers["webhook-timestamp"].parse().expect("seconds");
        assert!((signed - attempt.at).abs() <= 1.0, "signed at {signed}, tried at {}", attempt.at);
    }
}

/// Redis' contents, the sender, or both.
async fn lose_something(cluster: &Cluster, number: usize) {
    if number % 3 != 1 {
        cluster.redis.flush_all().await;
    }
    if number % 3 != 2 {
        cluster.senders[0].end("KILL").await;
        cluster.start_sender(0).await;
    }
}
