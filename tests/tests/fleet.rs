//! Several workers share the work, hand it back when they stop, and take over what a dead one held.

use std::time::Duration;

use tests::{Cluster, Load, Plan, percentile, seed};
use tokio::time::sleep;

/// The lease that programs have by default, and the bar that holds with it; a busy machine may miss it now and then.
const DEFAULT_LEASE: Duration = Duration::from_secs(10);
const RECOVERY_BAR: f64 = 15.0;
const LONGEST_RECOVERY: f64 = 60.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_workers_share_two_thousand_predictions() {
    let seed = seed();
    let cluster = Cluster::start(Plan { lease: DEFAULT_LEASE, ..Plan::default() }).await;
    let load = Load { per_second: 500, ..Load::default() };
    let count = load.count;
    let journal = cluster.send(seed, load).await.expect("everything is accepted");
    assert!(journal.refused() + journal.indeterminate() < count / 10, "requests are answered at once");
    let verdict = cluster.verdict(&journal).await;
    verdict.assert_sound(&journal, count);
    assert_eq!((verdict.reruns, verdict.stale_completions), (0, 0), "nothing ran twice");

    let finished = cluster.finished_by_each().await;
    assert!(finished.iter().all(|count| *count > 0), "all workers took part: {finished:?}");
    assert_eq!(finished.iter().sum::<i64>(), i64::from(count));
}

/// A rolling deployment: whoever stops on SIGTERM hands back what runs, and nobody pays for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_restart_gracefully_under_load() {
    let seed = seed();
    let mut cluster = Cluster::start(Plan { lease: DEFAULT_LEASE, ..Plan::default() }).await;
    let load = Load::default();
    let count = load.count;
    let sending = cluster.send(seed, load);
    for index in 0..cluster.workers.len() {
        sleep(Duration::from_secs(2)).await;
        assert_eq!(cluster.workers[index].end("TERM").await, Some(0), "worker {index} stops well");
        cluster.start_worker(index).await;
    }
    assert_eq!(cluster.api.end("TERM").await, Some(0), "the API stops well");
    cluster.start_api().await;
    let journal = sending.await.expect("everything is accepted");
    let verdict = cluster.verdict(&journal).await;
    verdict.assert_sound(&journal, count);
    assert_eq!(verdict.stale_completions, 0, "nobody finished what had been handed back");
    assert_eq!(cluster.charged().await, 0, "no retry, suspicion or crash");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stderr, reason = "the test runner shows it when the test fails")]
async fn a_dead_workers_predictions_run_again_soon() {
    let seed = seed();
    let mut cluster = Cluster::start(Plan { lease: DEFAULT_LEASE, ..Plan::default() }).await;
    let load = Load { per_second: 100, sleep_ms: 50..=200, ..Load::default() };
    let count = load.count;
    let sending = cluster.send(seed, load);
    let mut kills = Vec::new();
    for victim in 0..4 {
        sleep(Duration::from_secs(3)).await;
        kills.push(cluster.kill_worker_noting(victim).await);
        cluster.start_worker(victim).await;
    }
    let journal = sending.await.expect("everything is accepted");
    cluster.verdict(&journal).await.assert_sound(&journal, count);

    let mut seconds = Vec::new();
    for kill in &kills {
        seconds.extend(cluster.seconds_to_recover(kill).await);
    }
    assert!(!seconds.is_empty(), "the kills hit predictions that ran");
    let [median, p99, longest] = [0.5, 0.99, 1.0].map(|share| percentile(&seconds, share));
    eprintln!("{} recovered: median {median:.1} s, p99 {p99:.1} s, longest {longest:.1} s", seconds.len());
    assert!(median <= RECOVERY_BAR && longest <= LONGEST_RECOVERY, "from kill to restart: {seconds:?}");
}
