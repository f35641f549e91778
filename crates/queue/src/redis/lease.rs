//! Renews a consumer's hold on its tickets, says how many it wants in one entry, and removes the names of those who are gone.

use super::{consumer::Consumer, link::Link, names::GROUP, scripts};
use redis::{Pipeline, Value};
use std::{sync::Arc, time::Duration};
use tokio::time::{MissedTickBehavior, interval};

/// How many leases a consumer that holds nothing is silent before its name is removed, and what it wanted forgotten.
const LEASES_UNTIL_FORGOTTEN: u32 = 3;

/// The most entries renewed by one command.
const MOST_RENEWED: usize = 500;

/// Renews three times per lease, for ever; looks for names to remove once per lease. What fails is tried next time.
pub(crate) async fn renew(consumer: Arc<Consumer>, link: Arc<Link>) {
    // A period of zero would panic.
    let mut ticks = interval((consumer.lease / 3).max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for tick in 0_u64.. {
        ticks.tick().await;
        let mut pipeline = renewal(&consumer);
        let bundles = consumer.streams.iter().map(|(_, names)| &names.bundle);
        scripts::run(&mut pipeline, &scripts::WANT, bundles)
            .arg(&consumer.name)
            .arg(consumer.bundle())
            .arg(milliseconds(consumer.lease * LEASES_UNTIL_FORGOTTEN));
        if tick % 3 == 2 {
            scripts::run(&mut pipeline, &scripts::TIDY, consumer.tickets())
                .arg(GROUP)
                .arg(milliseconds(consumer.lease * LEASES_UNTIL_FORGOTTEN));
        }
        if let Err(error) = link.query::<Value>(&pipeline).await {
            tracing::debug!(%error, worker = consumer.name, "tickets not renewed");
        }
    }
}

/// At least one: what lasts no time cannot be set.
fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

fn renewal(consumer: &Consumer) -> Pipeline {
    let mut pipeline = redis::pipe();
    let held = consumer.held();
    for (number, stream) in consumer.tickets().enumerate() {
        let entries = held.iter().filter(|entry| entry.stream == number);
        let ids: Vec<&str> = entries.map(|entry| entry.id.as_str()).collect();
        for ids in ids.chunks(MOST_RENEWED) {
            // Claimed by its own consumer, an entry's idle time starts anew.
            pipeline.cmd("XCLAIM").arg(stream).arg(GROUP).arg(&consumer.name).arg(0).arg(ids).arg("JUSTID");
        }
    }
    pipeline
}
