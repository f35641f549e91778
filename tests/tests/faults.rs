//! Everything that can die, dies, while 2,000 predictions pass: none is lost, none is wrong, each is finished once, and what is
//! over never changes. Each test prints its seed.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use reqwest::Method;
use serde_json::{Value, json};
use tests::{Catch, Cluster, Load, Plan, seed};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

/// The load of a fault test, long enough that the faults hit it.
fn load() -> Load {
    Load::default()
}

/// Ticks from one second from now on, each second, without catching up.
fn each_second() -> tokio::time::Interval {
    let mut ticks = interval(SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    ticks
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_random_worker_is_killed_every_second() {
    let seed = seed();
    let mut dice = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start(Plan::default()).await;
    let sending = cluster.send(seed, load());
    let mut ticks = each_second();
    while !sending.is_finished() {
        ticks.tick().await;
        let victim = dice.random_range(0..cluster.workers.len());
        cluster.kill_worker(victim).await;
        cluster.start_worker(victim).await;
    }
    let journal = sending.await.expect("everything is accepted");
    let verdict = cluster.verdict(&journal).await;
    verdict.assert_sound(&journal, load().count);
    assert!(verdict.reruns > 0, "the kills hit predictions that ran");
}

/// A migration of a later version takes a column away under a worker, which could go on claiming and finish nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_tables_have_changed_ends() {
    let seed = seed();
    let mut cluster = Cluster::start(Plan { workers: 1, ..Plan::default() }).await;
    let sending = cluster.send(seed, load());
    sleep(SECOND).await;
    cluster.tamper("ALTER TABLE predictions RENAME COLUMN output TO elsewhere").await;
    let ends = async {
        while cluster.workers[0].is_alive().await {
            sleep(SECOND / 10).await;
        }
    };
    timeout(10 * SECOND, ends).await.expect("it ends by itself");
    assert!(cluster.workers[0].log().contains("schema has become another one"), "{}", cluster.workers[0].log());
    cluster.tamper("ALTER TABLE predictions RENAME COLUMN elsewhere TO output").await;
    cluster.start_worker(0).await;
    let journal = sending.await.expect("everything is accepted");
    let verdict = cluster.verdict(&journal).await;
    verdict.assert_sound(&journal, load().count);
    assert!(verdict.reruns > 0, "what it ran was run again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_forgets_everything_every_second() {
    let seed = seed();
    let cluster = Cluster::start(Plan::default()).await;
    let sending = cluster.send(seed, load());
    let mut ticks = each_second();
    while !sending.is_finished() {
        ticks.tick().await;
        cluster.redis.flush_all().await;
    }
    let journal = sending.await.expect("everything is accepted");
    cluster.verdict(&journal).await.assert_sound(&journal, load().count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_away_for_ten_seconds() {
    let seed = seed();
    let mut cluster = Cluster::start(Plan::default()).await;
    let sending = cluster.send(seed, load());
    sleep(3 * SECOND).await;
    cluster.redis.stop().await;
    sleep(10 * SECOND).await;
    cluster.redis.start_again().await;
    let journal = sending.await.expect("everything is accepted");
    assert!(journal.refused() + journal.indeterminate() < load().count / 10, "those who send do not notice");
    cluster.verdict(&journal).await.assert_sound(&journal, load().count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_hangs_for_ten_seconds() {
    let seed = seed();
    let cluster = Cluster::start(Plan { lease: 8 * SECOND, ..Plan::default() }).await;
    let sending = cluster.send(seed, load());
    sleep(3 * SECOND).await;
    cluster.redis.pause();
    sleep(10 * SECOND).await;
    cluster.redis.resume();
    let journal = sending.await.expect("everything is accepted");
    let verdict = cluster.verdict(&journal).await;
    verdict.assert_sound(&journal, load().count);
    assert_eq!(verdict.reruns, 0, "no lease is lost to a hanging Redis");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_stops_at_once_for_five_seconds() {
    let seed = seed();
    let mut cluster = Cluster::start(Plan::default()).await;
    let sending = cluster.send(seed, load());
    sleep(5 * SECOND).await;
    cluster.postgres.stop_immediately().await;
    sleep(5 * SECOND).await;
    cluster.postgres.start_again().await;
    let journal = sending.await.expect("everything is accepted");
    assert!(journal.refused() + journal.indeterminate() > 0, "the outage was noticed");
    cluster.verdict(&journal).await.assert_sound(&journal, load().count);
}

/// The API is killed in the very moment: its push is held up on the way to Redis, or its answer on the way back. What it had
/// stored by then is finished all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_is_killed_between_commit_and_push() {
    let seed = seed();
    let mut dice = StdRng::seed_from_u64(seed);
    let cluster = Cluster::start(Plan::default()).await;
    let sending = cluster.send(seed, Load { per_second: 150, ..load() });
    let (mut before, mut after) = (0, 0);
    while !sending.is_finished() {
        let catch = if dice.random() { Catch::BeforeRedis } else { Catch::BeforeItsAnswer };
        // No push comes when everything has been sent, or for a while.
        let Ok(pushed) = timeout(3 * SECOND, cluster.tripwire.next_push(catch)).await else { continue };
        assert_eq!(cluster.stored(&pushed).await, pushed.len(), "what is pushed is stored");
        *(if catch == Catch::BeforeRedis { &mut before } else { &mut after }) += pushed.len();
        cluster.api.end("KILL").await;
        cluster.start_api().await;
        sleep(Duration::from_millis(dice.random_range(0..700))).await;
    }
    let journal = sending.await.expect("everything is accepted");
    assert!(before > 0 && after > 0, "{before} predictions had no ticket when their API died, {after} had one");
    cluster.verdict(&journal).await.assert_sound(&journal, load().count);
}

/// Deaths at random moments, so that some requests die before their commit and some after it, unanswered; with Redis away for
/// half of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_is_killed_at_random() {
    let seed = seed();
    let mut dice = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start(Plan::default()).await;
    let sending = cluster.send(seed, Load { per_second: 150, ..load() });
    sleep(SECOND).await;
    cluster.redis.stop().await;
    let mut redis_runs = false;
    while !sending.is_finished() {
        sleep(Duration::from_millis(dice.random_range(300..1200))).await;
        cluster.api.end("KILL").await;
        // Half of the deaths are with Redis: then some tickets were pushed and nobody was told.
        if dice.random() {
            redis_runs = !redis_runs;
            if redis_runs { cluster.redis.start_again().await } else { cluster.redis.stop().await }
        }
        cluster.start_api().await;
    }
    let journal = sending.await.expect("everything is accepted");
    assert!(journal.indeterminate() > 0, "the deaths hit requests");
    cluster.verdict(&journal).await.assert_sound(&journal, load().count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_sleeps_past_its_lease_and_wakes_up() {
    let seed = seed();
    let mut dice = StdRng::seed_from_u64(seed);
    let plan = Plan::default();
    let cluster = Cluster::start(plan).await;
    let sending = cluster.send(seed, load());
    let all: Vec<usize> = (0..plan.workers).collect();
    sleep(SECOND).await;
    while !sending.is_finished() {
        // Two at once; the others take over what they held.
        let sleepers: Vec<usize> = all.sample(&mut dice, 2).copied().collect();
        sleepers.iter().for_each(|index| cluster.workers[*index].signal("STOP"));
        sleep(plan.lease + 3 * SECOND).await;
        sleepers.iter().for_each(|index| cluster.workers[*index].signal("CONT"));
        sleep(SECOND).await;
    }
    let journal = sending.await.expect("everything is accepted");
    let verdict = cluster.verdict(&journal).await;
    verdict.assert_sound(&journal, load().count);
    assert!(verdict.reruns > 0, "others took over");
    // A worker reports its count when it announces itself, every now and then.
    let counted = async {
        while cluster.stale_completions().await == 0 {
            sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(tests::PATIENCE, counted).await.expect("the completions that came too late are counted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_input_that_cannot_be_read_fails_alone() {
    let lease = 10 * SECOND;
    let cluster = Cluster::start(Plan { workers: 1, slots: 4, lease, ..Plan::default() }).await;
    let send = async |input: Value| {
        let path = "/v1/models/augur/echo/predictions";
        let (status, sent) = cluster.ask(Method::POST, path, &json!({"input": input})).await;
        assert_eq!(status, 202, "{sent}");
        sent["id"].as_str().expect("an id").to_owned()
    };
    // While all slots are taken, what is to be claimed next is spoilt.
    let mut running = Vec::new();
    for _ in 0..4 {
        running.push(send(json!({"value": "first", "sleep_ms": 600_000})).await);
    }
    let mut waiting = Vec::new();
    for value in ["one", "spoilt", "other"] {
        waiting.push(send(json!({"value": value})).await);
    }
    cluster.tamper("UPDATE inputs SET input = 'no JSON' WHERE input LIKE '%spoilt%'").await;
    for id in running {
        let path = format!("/v1/predictions/{id}/cancel");
        let (status, canceled) = cluster.ask(Method::POST, &path, &Value::Null).await;
        assert_eq!(status, 200, "{canceled}");
    }
    cluster.until_finished().await;
    for (id, value) in waiting.iter().zip(["one", "spoilt", "other"]) {
        let (_, found) = cluster.get(&format!("/v1/predictions/{id}")).await;
        assert_eq!(found["attempt"], 1, "its lease did not run out: {found}");
        if value == "spoilt" {
            assert_eq!((&found["status"], &found["data_removed"]), (&json!("failed"), &json!(true)), "{found}");
            assert_eq!(found["failure"]["code"], "internal", "{found}");
        } else {
            assert_eq!((&found["status"], &found["output"]), (&json!("succeeded"), &json!(value)), "{found}");
        }
    }
}
