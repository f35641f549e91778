//! Ten times as much as the worker can do: most of it is refused, nothing of the rest is lost, and memory stays as it was.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tests::{Cluster, Entry, Journal, Plan};
use tokio::{sync::Semaphore, task::JoinSet};

/// The most that wait.
const QUEUE_LIMIT: u32 = 200;
/// How long each prediction runs; four run at once, so twenty are served each second at best.
const SLEEP_MS: u64 = 200;
const SLOTS: u32 = 4;
/// Ten times that, and as much again for a machine that is too busy to send them all.
const PER_SECOND: u32 = 400;
const SECONDS: u64 = 20;
/// Far longer than a machine stands still: what comes back from a lease that ended waits beside the most that may.
const LEASE: Duration = Duration::from_secs(20);
/// Names another number of seconds, such as 600.
const SECONDS_VARIABLE: &str = "AUGUR_TEST_OVERLOAD_SECONDS";
/// Requests under way at once. Beyond them the sender waits, which a machine that keeps up never sees.
const CONCURRENCY: usize = 256;
/// Bodies of some size, so that bodies which are kept show in the memory.
const PADDING: usize = 8 * 1024;
/// What a process may come to hold, in MiB: it begins with some twenty, and what is sent is 3 each second.
const MOST_MEMORY: f64 = 64.0;

/// What one request came to.
enum Answered {
    Accepted(Entry),
    Refused {
        retry_after: u32,
    },
    /// The store was slower than the API waits for it; what was asked for may have been done.
    Unknown,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stderr, reason = "the test runner shows it when the test fails")]
async fn ten_times_what_can_be_done_is_refused_and_nothing_accepted_is_lost() {
    let plan = Plan { workers: 1, slots: SLOTS, lease: LEASE, queue_limit: Some(QUEUE_LIMIT), ..Plan::default() };
    let cluster = Cluster::start(plan).await;
    let memory =
        || [("API", &cluster.api), ("worker", &cluster.workers[0])].map(|(name, it)| (name, it.resident_mib()));
    let before = memory();

    let seconds =
        std::env::var(SECONDS_VARIABLE).map_or(SECONDS, |seconds| seconds.parse().expect("a number of seconds"));
    let url = format!("{}/v1/models/augur/echo/predictions", cluster.address);
    let client = reqwest::Client::new();
    let places = Arc::new(Semaphore::new(CONCURRENCY));
    let mut requests = JoinSet::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / PER_SECOND);
    let (begun, mut longest) = (Instant::now(), 0);
    for number in 0.. {
        if begun.elapsed() > Duration::from_secs(seconds) {
            break;
        }
        ticks.tick().await;
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        let (client, url) = (client.clone(), url.clone());
        requests.spawn(async move {
            let answered = send(&client, &url, number).await;
            drop(place);
            answered
        });
        if number % PER_SECOND == 0 {
            let (_, queue) = cluster.get("/v1/queue").await;
            longest = longest.max(queue["depth"].as_u64().expect("a number of predictions"));
        }
    }
    let answers = requests.join_all().await;
    let after = memory();

    let (mut journal, mut waits, mut unknown) = (Journal::default(), Vec::new(), 0);
    for answered in answers {
        match answered {
            Answered::Accepted(entry) => journal.entries.push(entry),
            Answered::Refused { retry_after } => waits.push(retry_after),
            Answered::Unknown => unknown += 1,
        }
    }
    let (accepted, refused) = (journal.entries.len(), waits.len());
    let (shortest_wait, longest_wait) = (waits.iter().min(), waits.iter().max());
    eprintln!(
        "{accepted} accepted, {refused} refused, {unknown} unknown in {:.1} s; at most {longest} seen waiting; Retry-After {shortest_wait:?} to \
         {longest_wait:?}; memory before {before:?}, after {after:?}",
        begun.elapsed().as_secs_f64()
    );
    let mut verdict = cluster.verdict(&journal).await;
    // What was asked for without being told an id.
    let untold = std::mem::take(&mut verdict.unexpected);
    assert!(untold.len() <= unknown, "{unknown} requests made {} predictions", untold.len());
    verdict.assert_sound(&journal, u32::try_from(accepted).expect("some thousands"));

    assert!(longest <= u64::from(QUEUE_LIMIT), "{longest} waited");
    // So many fit into the queue at once; what was served while requests came must have made room for more.
    assert!(accepted > QUEUE_LIMIT as usize * 5 / 4, "{accepted} were accepted");
    assert!(refused > accepted, "{refused} were refused");
    assert!(unknown < (accepted + refused) / 10, "{unknown} were told that the store is unavailable");
    assert!(waits.iter().all(|seconds| (1..=60).contains(seconds)), "{shortest_wait:?} to {longest_wait:?}");
    for (name, mib) in after {
        assert!(mib.is_none_or(|mib| mib < MOST_MEMORY), "the {name} holds {mib:?} MiB");
    }
}

async fn send(client: &reqwest::Client, url: &str, number: u32) -> Answered {
    let expected = json!({"number": number, "padding": "x".repeat(PADDING)});
    let body = json!({"input": {"value": expected, "sleep_ms": SLEEP_MS}});
    let response = client.post(url).json(&body).send().await.expect("every request is answered");
    let status = response.status().as_u16();
    let retry_after = response.headers().get("Retry-After").and_then(|seconds| seconds.to_str().ok()?.parse().ok());
    let answer: Value = response.json().await.expect("every answer is JSON");
    match status {
        202 => {
            let id = answer["id"].as_str().and_then(|id| id.parse().ok()).expect("an accepted prediction has an id");
            Answered::Accepted(Entry { id, expected, indeterminate: 0, refused: 0, replayed: false })
        }
        503 if answer["error"]["code"] == "queue_full" => {
            Answered::Refused { retry_after: retry_after.expect("a refusal says when to come back") }
        }
        503 if answer["error"]["code"] == "store_unavailable" => Answered::Unknown,
        _ => panic!("a sound request is answered with {status}: {answer}"),
    }
}
