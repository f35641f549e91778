//! A receiver that is dead, with ten thousand deliveries due, and a healthy one: the healthy one waits for none of them.

use tests::{Cluster, Conduct, Load, Plan, Receiver, Webhooks, percentile, seed};

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

    let ends = cluster.completed_at().await;
    let seconds: Vec<f64> = healthy
        .received()
        .iter()
        .filter_map(|webhook| Some(webhook.at - ends.get(webhook.id().strip_suffix("_completed")?)?))
        .collect();
    eprintln!(
        "from the end of a prediction until the healthy receiver had it, of {}: median {:.3} s, p99 {:.3} s; {tried} attempts \
         at the dead one",
        seconds.len(),
        percentile(&seconds, 0.5),
        percentile(&seconds, 0.99),
    );
    assert_eq!(seconds.len(), journal.entries.len());
}
