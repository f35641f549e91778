//! A receiver that is dead, with ten thousand deliveries due, or hundreds of them, and a healthy one: the healthy one waits for none
//! of them.

use std::time::Instant;

use tests::{Cluster, Conduct, Journal, Load, Plan, Receiver, Webhooks, percentile, seed};

const DUE: i32 = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stderr, reason = "the test runner shows it when the test fails")]
async fn a_dead_receiver_with_ten_thousand_due_deliveries_delays_no_healthy_one() {
    let seed = seed();
    let plan = Plan { workers: 2, webhooks: Some(Webhooks::default()), ..Plan::default() };
    let cluster = Cluster::start(plan).await;
    // It takes connections, reads, and never answers: an attempt costs it the whole fifteen seconds.
    let dead = Receiver::start(|_| Conduct::Hang).await;
    let healthy = Receiver::well().await;
    cluster.add_unvetted(&dead.url("/hook"), &dead.url(""), DUE).await;
    dead.until("the first attempts", |received| (!received.is_empty()).then_some(())).await;

    let load = Load { count: 300, per_second: 50, webhooks: vec![healthy.url("/hook")], ..Load::default() };
    let journal = cluster.send(seed, load).await.expect("everything is accepted");
    let events = journal.webhook_ids().count();
    healthy.until("every event", |received| (received.len() >= events).then_some(())).await;
    let outbox = cluster.outbox(Some(&dead.url("/hook"))).await;
    assert_eq!(healthy.taken().len(), events);
    assert_eq!((outbox.delivered, outbox.exhausted, outbox.disabled), (0, 0, 0), "the dead one has taken nothing");
    let tried = dead.received().len();
    assert!(tried < 500, "the dead receiver was tried {tried} times meanwhile");

    let (median, p99) = latency(&cluster, &journal, &healthy).await;
    eprintln!(
        "from the end of a prediction until the healthy receiver had it: median {median:.3} s, p99 {p99:.3} s; {tried} attempts at \
         the dead one"
    );
}

const HOSTS: usize = 300;
/// How many seconds an attempt at the dead takes.
const ATTEMPT: u64 = 15;
const IN_FLIGHT: u32 = 256;

/// Three hundred hosts of which this sender never heard, and which never answer: enough to take every slot many times over before
/// the first attempt is given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stderr, reason = "the test runner shows it when the test fails")]
async fn hundreds_of_dead_hosts_delay_no_receiver_that_is_known_to_be_well() {
    let seed = seed();
    let webhooks = Webhooks { in_flight: IN_FLIGHT, ..Webhooks::default() };
    let cluster = Cluster::start(Plan { workers: 2, webhooks: Some(webhooks), ..Plan::default() }).await;
    let (dead, healthy) = (Receiver::start(|_| Conduct::Hang).await, Receiver::well().await);
    cluster.send_test(&healthy.url("/hook")).await;
    cluster.until_told().await;
    let begun = Instant::now();
    for host in 0..HOSTS {
        let host = format!("127.1.{}.{}", host / 100, host % 100 + 1);
        cluster.add_unvetted(&dead.url_at(&host, "/hook"), &dead.url_at(&host, ""), 4).await;
    }
    // What is there for the likes of them.
    let half = IN_FLIGHT as usize / 2;
    dead.until("as many as there may be", |received| (received.len() >= half).then_some(())).await;

    let load = Load { count: 150, per_second: 50, webhooks: vec![healthy.url("/hook")], ..Load::default() };
    let journal = cluster.send(seed, load).await.expect("everything is accepted");
    let all = 1 + journal.webhook_ids().count();
    healthy.until("every event", |received| (received.len() >= all).then_some(())).await;
    let (tried, rounds) = (dead.received().len(), 1 + begun.elapsed().as_secs() / ATTEMPT);
    assert!(
        tried as u64 <= half as u64 * rounds,
        "{tried} attempts at the dead in {rounds} times an attempt's duration"
    );
    let (median, p99) = latency(&cluster, &journal, &healthy).await;
    eprintln!(
        "from the end of a prediction until the healthy receiver had it, while {half} attempts at {HOSTS} dead hosts hung: median \
         {median:.3} s, p99 {p99:.3} s"
    );
}

/// Median and p99 of how long after the end of each prediction its receiver had it, in seconds.
async fn latency(cluster: &Cluster, journal: &Journal, receiver: &Receiver) -> (f64, f64) {
    let ends = cluster.completed_at().await;
    let received = receiver.received();
    let seconds =
        received.iter().filter_map(|webhook| Some(webhook.at - ends.get(webhook.id().strip_suffix("_completed")?)?));
    let seconds: Vec<f64> = seconds.collect();
    assert_eq!(seconds.len(), journal.entries.len());
    (percentile(&seconds, 0.5), percentile(&seconds, 0.99))
}
