//! Whatever dies, and however ill the receiver is, every event arrives; more than once only where a death or a lost answer made
//! that unavoidable, and always under the same id. Each test prints its seed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use reqwest::Method;
use serde_json::json;
use tests::{Cluster, Conduct, Journal, Load, Plan, Receiver, Webhooks, seed};
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

/// A receiver fails in every way at more than half of the attempts while its sender is killed at least every five seconds. Only
/// while no sender runs does the clock move, so that no lease ends which somebody holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stderr, reason = "the test runner shows it when the test fails")]
async fn an_ill_receiver_gets_every_event_from_a_sender_that_keeps_dying() {
    let seed = seed();
    let webhooks = Webhooks { in_flight: IN_FLIGHT, ..Webhooks::default() };
    let plan = Plan { workers: 2, webhooks: Some(webhooks), has_fake_clock: true, ..Plan::default() };
    let cluster = Cluster::start(plan).await;
    let mut dice = StdRng::seed_from_u64(seed);
    let receiver = Receiver::start(move |_| match dice.random_range(0..100) {
        0..30 => Conduct::status(500),
        30..40 => Conduct::Hang,
        40..50 => Conduct::Reset,
        50..55 => Conduct::Drip,
        _ => Conduct::Take,
    })
    .await;
    // Many origins, as if many receivers had this illness: one alone would soon be given a rest.
    let webhooks = (1..=20).map(|number| receiver.url_at(&format!("127.0.0.{number}"), "/hook")).collect();
    let sending = cluster.send(seed, Load { count: 200, webhooks, ..Load::default() });

    let mut kills = 0;
    let mut exhausted = 0;
    loop {
        let begun = Instant::now();
        while begun.elapsed() < 5 * SECOND && !(sending.is_finished() && is_idle(&cluster).await) {
            sleep(SECOND / 10).await;
        }
        cluster.senders[0].end("KILL").await;
        kills += 1;
        if sending.is_finished() && cluster.unfinished().await == 0 {
            exhausted += redeliver_exhausted(&cluster).await;
            let Some(last) = cluster.last_due().await else { break };
            cluster.advance((last - cluster.now().await).max(0.0)).await;
        }
        assert!(kills < 60, "still not told: {:?}", cluster.outbox(None).await);
        cluster.start_sender(0).await;
    }
    let journal = sending.await.expect("everything is accepted");
    let again = assert_all_taken(&journal, &receiver.taken());

    let received = receiver.received();
    let mut bodies: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for request in &received {
        bodies.entry(request.id()).or_default().insert(&request.body);
    }
    let changed = bodies.values().find(|bodies| bodies.len() > 1);
    assert!(changed.is_none(), "an event is told in one way, however often: {changed:?}");
    let count = |conduct: &Conduct| received.iter().filter(|request| request.conduct == *conduct).count();
    let [hangs, resets, drips] = [Conduct::Hang, Conduct::Reset, Conduct::Drip].map(|conduct| count(&conduct));
    eprintln!(
        "{} requests, {} taken, {again} of them again; {kills} kills, {hangs} hangs, {resets} resets, {drips} drips; \
         {exhausted} were exhausted and sent again",
        received.len(),
        received.iter().filter(|request| request.is_taken()).count(),
    );
    assert!(hangs > 0 && resets > 0 && drips > 0, "it was ill in every way");
    let unavoidable = kills * IN_FLIGHT as usize + resets;
    assert!(again <= unavoidable, "{again} were taken again, more than {unavoidable}");
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
