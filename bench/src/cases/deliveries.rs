//! The case `deliveries`: webhooks per second to a receiver that is fast, how long after its end a prediction's webhook arrives,
//! and a sender's memory.

use std::{collections::BTreeMap, time::Duration};

use sqlx::Row;
use tokio::time::sleep;

use super::memory;
use crate::{
    drive::seconds_since_1970,
    numbers::{Numbers, percentile},
    receiver::Receiver,
    stage::Stage,
};

/// Webhooks sent in one go.
const BACKLOG: usize = 20_000;
/// How many origins they go to; one has at most 16 attempts in flight.
const ORIGINS: usize = 8;
/// The steady rate at which the way to the receiver is timed, per second, and for how many webhooks.
const RATE: u32 = 200;
const TIMED: usize = 2_000;

pub(super) async fn once() -> Numbers {
    let stage = Stage::start().await;
    let mut numbers = Numbers::new();
    numbers.insert("1 origin: webhooks/s".into(), drain(&stage, 1).await);
    numbers.insert(format!("{ORIGINS} origins: webhooks/s"), drain(&stage, ORIGINS).await);
    numbers.extend(latencies(&stage).await);
    numbers.extend(memory::measure(&stage).await);
    numbers
}

/// Webhooks per second of a sender that starts when many predictions have ended already: from its start until the receiver has
/// the last one.
async fn drain(stage: &Stage, origins: usize) -> f64 {
    let receiver = Receiver::start(Duration::ZERO).await;
    let webhooks: Vec<String> = (0..origins).map(|origin| receiver.url(origin)).collect();
    stage.predict(BACKLOG, None, &webhooks).await;
    let begun = seconds_since_1970();
    let sender = stage.sender().await;
    stage.until("all is delivered", "SELECT count(*) = 0 FROM deliveries WHERE status <> 2").await;
    sender.kill().await;
    let received = receiver.take();
    assert_eq!(received.len(), BACKLOG, "each once");
    let last = received.iter().map(|(_, at)| *at).fold(0.0, f64::max);
    stage.clear().await;
    #[allow(clippy::cast_precision_loss)]
    let count = BACKLOG as f64;
    count / (last - begun)
}

/// From the commit that ends a prediction until the receiver has its webhook, at a steady rate. Both clocks are this machine's.
async fn latencies(stage: &Stage) -> Numbers {
    let receiver = Receiver::start(Duration::ZERO).await;
    let sender = stage.sender().await;
    stage.predict(TIMED, Some(RATE), &[receiver.url(0)]).await;
    while receiver.count() < TIMED {
        sleep(Duration::from_millis(20)).await;
    }
    let ends =
        sqlx::query("SELECT id::text || '_completed', extract(epoch FROM completed_at)::float8 FROM predictions");
    let ends = ends.fetch_all(&stage.database).await.expect("Postgres answers");
    let ends: BTreeMap<String, f64> = ends.iter().map(|row| (row.get(0), row.get(1))).collect();
    let milliseconds: Vec<f64> = receiver.take().iter().map(|(id, at)| (at - ends[id]) * 1e3).collect();
    stage.until("all is settled", "SELECT count(*) = 0 FROM deliveries WHERE status <> 2").await;
    sender.kill().await;
    stage.clear().await;
    let name = |share: &str| format!("end of prediction to receiver at {RATE}/s, {share}: ms");
    Numbers::from([
        (name("p50"), percentile(&milliseconds, 0.5)),
        (name("p99"), percentile(&milliseconds, 0.99)),
        (name("max"), percentile(&milliseconds, 1.0)),
    ])
}
