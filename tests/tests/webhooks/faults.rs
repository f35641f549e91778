//! Whatever dies, and however ill the receiver is, every event arrives; more than once only where a death or a lost answer made
//! that unavoidable, and always under the same id. Each test prints its seed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use reqwest::Method;
use serde_json::json;
use tests::{Cluster, Conduct, Journal, Load, Plan, Received, Receiver, Webhooks, percentile, seed};
use tokio::time::{MissedTickBehavior, interval, sleep};

const SECOND: Duration = Duration::from_secs(1);
const IN_FLIGHT: u32 = 64;

/// Asserts that each event was taken, and nothing else was, and returns how often one was taken again.
fn assert_all_taken(journal: &Journal, taken: &BTreeMap<String, usize>) -> usize {
    let expected: BTreeSet<String> = journal.webhook_ids().collect();
    let missing: Vec<_> = expected.iter().filter(|id| !taken.contains_key(*id)).collect();
    let unexpected: Vec<_> = taken.keys().filter(|id| !expected.contains(*id)).collect();
    assert!(missing.is_empty(), "{} of {} events never arrived: {:?}", missing.len(), expected.len(), &missing[..1]);
    assert!(unexpected.is_empty(), "nobody asked for {unexpected:?}");
    taken.values().sum::<usize>() - expected.len()
}

/// A receiver fails in every way at more than half of the attempts, another is well, and of two senders one is killed every five
/// seconds. Only while no sender runs does the clock move, so that no lease ends which somebody holds: once all predictions have
/// ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stderr, reason = "the test runner shows it when the test fails")]
async fn an_ill_receiver_gets_every_event_from_senders_that_keep_dying() {
    let seed = seed();
    let webhooks = Webhooks { senders: 2, in_flight: IN_FLIGHT, ..Webhooks::default() };
    let plan = Plan { workers: 2, webhooks: Some(webhooks), has_fake_clock: true, ..Plan::default() };
    let cluster = Cluster::start(plan).await;
    let (ill, healthy) = (ill_receiver(seed).await, Receiver::well().await);
    // Many origins, as if many receivers had this illness: one alone would soon be given a rest. Four of five predictions are told
    // to the healthy one.
    let origins = (1..=20).map(|number| ill.url_at(&format!("127.0.0.{number}"), "/hook"));
    let webhooks = origins.flat_map(|origin| [vec![origin], vec![healthy.url("/hook"); 4]].concat()).collect();
    let sending = cluster.send(seed, Load { count: 1000, per_second: 40, webhooks, ..Load::default() });

    let (mut kills, mut exhausted, mut in_time) = (0, 0, None);
    loop {
        let begun = Instant::now();
        while begun.elapsed() < 5 * SECOND && !(sending.is_finished() && is_idle(&cluster).await) {
            sleep(SECOND / 10).await;
        }
        if !sending.is_finished() || cluster.unfinished().await > 0 {
            let victim = kills % cluster.senders.len();
            cluster.senders[victim].end("KILL").await;
            kills += 1;
            cluster.start_sender(victim).await;
            continue;
        }
        for sender in &cluster.senders {
            sender.end("KILL").await;
            kills += 1;
        }
        in_time.get_or_insert((kills, healthy.received()));
        exhausted += redeliver_exhausted(&cluster).await;
        let Some(last) = cluster.last_due().await else { break };
        cluster.advance((last - cluster.now().await).max(0.0)).await;
        assert!(kills < 120, "still not told: {:?}", cluster.outbox(None).await);
        for index in 0..cluster.senders.len() {
            cluster.start_sender(index).await;
        }
    }
    let journal = sending.await.expect("everything is accepted");
    let mut taken = ill.taken();
    taken.extend(healthy.taken());
    let again = assert_all_taken(&journal, &taken);

    let received = [ill.received(), healthy.received()].concat();
    let mut bodies: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for request in &received {
        bodies.entry(request.id()).or_default().insert(&request.body);
    }
    let changed = bodies.values().find(|bodies| bodies.len() > 1);
    assert!(changed.is_none(), "an event is told in one way, however often: {changed:?}");
    let count = |conduct: &Conduct| received.iter().filter(|request| request.conduct == *conduct).count();
    let [hangs, resets, drips] = [Conduct::Hang, Conduct::Reset, Conduct::Drip].map(|conduct| count(&conduct));
    let (of_one, in_time) = in_time.expect("there was a last round");
    eprintln!(
        "{} requests, {} taken, {again} of them again; {kills} kills, {hangs} hangs, {resets} resets, {drips} drips; \
         {exhausted} were exhausted and sent again",
        received.len(),
        received.iter().filter(|request| request.is_taken()).count(),
    );
    eprintln!("{}, over {} kills of one of two senders", latency(&cluster, &healthy, &in_time).await, of_one - 2);
    assert!(hangs > 0 && resets > 0 && drips > 0, "it was ill in every way");
    let unavoidable = kills * IN_FLIGHT as usize + resets;
    assert!(again <= unavoidable, "{again} were taken again, more than {unavoidable}");
}

/// 30 % are answered with 500, 10 % never, 5 % at a byte per second; 10 % are taken, and the connection is reset.
async fn ill_receiver(seed: u64) -> Receiver {
    let mut dice = StdRng::seed_from_u64(seed);
    Receiver::start(move |_| match dice.random_range(0..100) {
        0..30 => Conduct::status(500),
        30..40 => Conduct::Hang,
        40..50 => Conduct::Reset,
        50..55 => Conduct::Drip,
        _ => Conduct::Take,
    })
    .await
}

/// How long after the end of each prediction its healthy receiver had it, in words. What was not there `in_time`, before the clock
/// moved, counts as if it never came: on the real clock it waits for the lease of a dead sender to end.
async fn latency(cluster: &Cluster, healthy: &Receiver, in_time: &[Received]) -> String {
    let had_at = |received: &[Received]| {
        let ends =
            received.iter().rev().filter_map(|webhook| Some((webhook.id().strip_suffix("_completed")?, webhook.at)));
        ends.map(|(prediction, at)| (prediction.to_owned(), at)).collect::<BTreeMap<_, _>>()
    };
    let (all, in_time, ends) = (had_at(&healthy.received()), had_at(in_time), cluster.completed_at().await);
    let latency = |prediction| in_time.get(prediction).map_or(f64::INFINITY, |at| at - ends[prediction]);
    let seconds: Vec<f64> = all.keys().map(latency).collect();
    let [median, p99] = [0.5, 0.99].map(|share| percentile(&seconds, share));
    let over = seconds.iter().filter(|seconds| **seconds > 1.0).count();
    format!(
        "from the end of each of {} predictions until the healthy receiver had it: median {median:.3} s, p99 {p99:.3} s, {over} \
         after more than a second, {} of those left to a dead sender's lease until the clock moved",
        seconds.len(),
        all.len() - in_time.len()
    )
}

/// Whether nothing is being sent and nothing is due.
async fn is_idle(cluster: &Cluster) -> bool {
    let outbox = cluster.outbox(None).await;
    outbox.sending == 0 && cluster.due_now().await == 0
}

/// Asks for whatever was given up once more, as an operator would; says how many.
async fn redeliver_exhausted(cluster: &Cluster) -> usize {
    let (status, page) = cluster.get("/v1/webhooks/deliveries?status=exhausted&limit=100").await;
    assert_eq!(status, 200, "{page}");
    let deliveries = page["results"].as_array().expect("a page of deliveries");
    for delivery in deliveries {
        let path = format!("/v1/webhooks/deliveries/{}/redeliver", delivery["id"].as_str().expect("an id"));
        let (status, delivery) = cluster.ask(Method::POST, &path, &json!({})).await;
        assert_eq!(status, 202, "{delivery}");
    }
    deliveries.len()
}

/// Under load, one of two senders is killed every two seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stderr, reason = "the test runner shows it when the test fails")]
async fn a_sender_is_killed_every_two_seconds() {
    let seed = seed();
    let webhooks = Webhooks { senders: 2, in_flight: IN_FLIGHT, ..Webhooks::default() };
    let cluster = Cluster::start(Plan { workers: 2, webhooks: Some(webhooks), ..Plan::default() }).await;
    let receiver = Receiver::well().await;
    let load = Load { count: 1000, per_second: 60, webhooks: vec![receiver.url("/hook")], ..Load::default() };
    let sending = cluster.send(seed, load);
    let mut ticks = interval(2 * SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    let mut kills = 0;
    while !sending.is_finished() {
        ticks.tick().await;
        let victim = kills % cluster.senders.len();
        cluster.senders[victim].end("KILL").await;
        kills += 1;
        cluster.start_sender(victim).await;
    }
    let journal = sending.await.expect("everything is accepted");
    cluster.until_finished().await;
    cluster.until_told().await;
    let again = assert_all_taken(&journal, &receiver.taken());
    eprintln!("{kills} kills, {again} webhooks taken again");
    assert!(again <= kills * IN_FLIGHT as usize, "{again} were taken again after {kills} kills");
}

/// Everything at once dies again and again: programs, Redis, Postgres. At some of these moments predictions have just ended and
/// nobody has been told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stderr, reason = "the test runner shows it when the test fails")]
async fn everything_is_killed_between_the_end_of_predictions_and_their_webhooks() {
    let seed = seed();
    let mut dice = StdRng::seed_from_u64(seed);
    let plan = Plan { workers: 2, webhooks: Some(Webhooks::default()), ..Plan::default() };
    let mut cluster = Cluster::start(plan).await;
    let receiver = Receiver::well().await;
    let load = Load { count: 600, per_second: 60, webhooks: vec![receiver.url("/hook")], ..Load::default() };
    let sending = cluster.send(seed, load);
    let (mut deaths, mut untold) = (0, 0);
    while !sending.is_finished() {
        sleep(Duration::from_millis(dice.random_range(500..2500))).await;
        // Without senders for a moment, so that what ends meanwhile is untold when all is killed.
        cluster.senders[0].end("KILL").await;
        sleep(Duration::from_millis(dice.random_range(0..300))).await;
        cluster.api.end("KILL").await;
        for index in 0..cluster.workers.len() {
            cluster.kill_worker(index).await;
        }
        cluster.postgres.stop_immediately().await;
        cluster.redis.stop().await;
        deaths += 1;

        cluster.postgres.start_again().await;
        cluster.redis.start_again().await;
        untold += cluster.outbox(None).await.waiting;
        for index in 0..cluster.workers.len() {
            cluster.start_worker(index).await;
        }
        cluster.start_api().await;
        cluster.start_sender(0).await;
    }
    let journal = sending.await.expect("everything is accepted");
    cluster.until_finished().await;
    cluster.until_told().await;
    let again = assert_all_taken(&journal, &receiver.taken());
    eprintln!("{deaths} deaths, {untold} events that had happened and were untold, {again} webhooks taken again");
    assert!(untold > 0, "the deaths hit events");
}
