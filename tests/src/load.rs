//! Predictions with known results, sent at a steady rate by a client that keeps a journal of what it was told, and asks again, with
//! the same idempotency key, whatever it was not told.

use std::{
    ops::RangeInclusive,
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::JoinSet, time::MissedTickBehavior};
use uuid::Uuid;

use crate::PATIENCE;

/// Requests under way at once.
const CONCURRENCY: usize = 64;
/// After this long without an answer a request is given up as indeterminate.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two tries of the same request.
const PAUSE: Duration = Duration::from_millis(100);

/// What is sent.
#[derive(Clone, Debug)]
pub struct Load {
    /// How many predictions.
    pub count: u32,
    /// At which rate, while the API keeps up.
    pub per_second: u32,
    /// How long each runs, in milliseconds.
    pub sleep_ms: RangeInclusive<u64>,
    /// Who is told of every event: each prediction names the next of these URLs. None: nobody is told.
    pub webhooks: Vec<String>,
}

/// The events that there are of a prediction that succeeds and logs nothing.
pub const EVENTS: [&str; 3] = ["start", "output", "completed"];

impl Default for Load {
    /// 2,000 predictions over 20 seconds, of 20 to 100 ms each: every worker holds some at any time.
    fn default() -> Self {
        Self { count: 2000, per_second: 100, sleep_ms: 20..=100, webhooks: Vec::new() }
    }
}

/// One prediction, as its sender knows it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its id, from the first answer that told it.
    pub id: Uuid,
    /// What its output must be.
    pub expected: Value,
    /// Requests that ended without an answer: they may have been carried out or not.
    pub indeterminate: u32,
    /// Requests that were refused for the time being (409, 429, 503).
    pub refused: u32,
    /// Whether the answer was one to a repetition: a request without an answer had been carried out.
    pub replayed: bool,
}

/// What the sender knows: one entry for each prediction.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// In no particular order.
    pub entries: Vec<Entry>,
}

impl Journal {
    /// How many predictions had been stored although their sender was not told at first.
    #[must_use]
    pub fn recovered(&self) -> usize {
        self.entries.iter().filter(|entry| entry.replayed).count()
    }

    /// How many requests got no answer.
    #[must_use]
    pub fn indeterminate(&self) -> u32 {
        self.entries.iter().map(|entry| entry.indeterminate).sum()
    }

    /// The ids of the webhooks that tell of its predictions.
    pub fn webhook_ids(&self) -> impl Iterator<Item = String> {
        self.entries.iter().flat_map(|entry| EVENTS.map(|event| format!("{}_{event}", entry.id)))
    }

    /// How many requests were refused for the time being.
    #[must_use]
    pub fn refused(&self) -> u32 {
        self.entries.iter().map(|entry| entry.refused).sum()
    }
}

impl Load {
    /// Sends everything to the API at `address`; returns once each prediction is known to be accepted.
    pub(crate) async fn send(self, address: String, seed: u64) -> Journal {
        let client = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(2))
            .timeout(REQUEST_TIMEOUT)
            .build()
            .expect("a client");
        let url = format!("{address}/v1/models/augur/echo/predictions");
        let mut dice = StdRng::seed_from_u64(seed);
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / self.per_second);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let places = Arc::new(Semaphore::new(CONCURRENCY));
        let mut requests = JoinSet::new();
        for number in 0..self.count {
            ticks.tick().await;
            let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
            let expected =
                json!({ "number": number, "seed": seed, "die": dice.random::<u32>(), "text": "ä\u{2028}\"\\" });
            let input = json!({ "value": expected, "sleep_ms": dice.random_range(self.sleep_ms.clone()) });
            let mut body = json!({ "input": input });
            if !self.webhooks.is_empty() {
                body["webhook"] = json!(self.webhooks[number as usize % self.webhooks.len()]);
                body["webhook_events_filter"] = json!(EVENTS);
            }
            let request = client.post(&url).header("Idempotency-Key", format!("{seed}-{number}")).json(&body);
            requests.spawn(async move {
                let entry = insist(request, expected).await;
                drop(place);
                entry
            });
        }
        Journal { entries: requests.join_all().await }
    }
}

/// Sends a request until it is answered for good.
async fn insist(request: reqwest::RequestBuilder, expected: Value) -> Entry {
    let begun = Instant::now();
    let (mut indeterminate, mut refused) = (0, 0);
    loop {
        let attempt = request.try_clone().expect("a body in memory can be sent again");
        match answer(attempt).await {
            Ok((200..=202, headers, body)) => {
                let id = body["id"].as_str().and_then(|id| id.parse().ok());
                return Entry {
                    id: id.unwrap_or_else(|| panic!("an accepted prediction has an id: {body}")),
                    expected,
                    indeterminate,
                    refused,
                    replayed: headers.contains_key("Idempotent-Replayed"),
                };
            }
            Ok((409 | 429 | 503, ..)) => refused += 1,
            Ok((status, _, body)) => panic!("a sound request is answered with {status}: {body}"),
            Err(_) => indeterminate += 1,
        }
        assert!(begun.elapsed() < PATIENCE, "not accepted: {refused} refusals, {indeterminate} without an answer");
        tokio::time::sleep(PAUSE).await;
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Result<(u16, HeaderMap, Value), reqwest::Error> {
    let response = request.send().await?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Ok((status, headers, response.json().await?))
}
