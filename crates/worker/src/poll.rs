//! Asks the store for work: when the queue is away, when it cannot carry other nodes' tickets, and now and then in any
//! case: whatever has become of tickets, work and suspects are found.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{backoff::Backoff, node::Node};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How often a worker with a healthy queue asks all the same.
const EVERY_WHILE_HEALTHY: Duration = Duration::from_secs(2);

/// Polls until the worker stops.
pub(crate) async fn poll(node: Arc<Node>) {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut asked_at = Instant::now();
    loop {
        let needed = node.config.poll_store || !node.queue.is_healthy();
        let mut found = Found::Nothing;
        if needed || asked_at.elapsed() >= EVERY_WHILE_HEALTHY {
            found = take(&node).await;
            asked_at = Instant::now();
        }
        if found != Found::Nothing {
            backoff.reset();
        }
        let pause = match found {
            Found::All if needed => Duration::ZERO,
            _ if needed => backoff.next(),
            _ => LONGEST_PAUSE,
        };
        if !node.pause(pause).await {
            return;
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// As much as was asked for: there may be more.
    All,
    Some,
    Nothing,
}

/// Takes as much as there are free slots; waits for one.
async fn take(node: &Arc<Node>) -> Found {
    let slot = node.stop.run_until_cancelled(Arc::clone(node.slots.permits()).acquire_owned()).await;
    let Some(Ok(mut slots)) = slot else { return Found::Nothing };
    while let Ok(slot) = Arc::clone(node.slots.permits()).try_acquire_owned() {
        slots.merge(slot);
    }
    let (asked, claimed_at) = (slots.num_permits(), Instant::now());
    let limit = u32::try_from(asked).unwrap_or(u32::MAX);
    let versions = node.models.runnable();
    let next = node.store.claim_next(node.id, &versions, limit, node.config.lease);
    let Ok(claim) = node.ask(next).await else { return Found::Nothing };
    if !claim.suspects.is_empty() {
        node.suspects.notify_one();
    }
    let found = match claim.claimed.len() {
        0 => Found::Nothing,
        some if some < asked => Found::Some,
        _ => Found::All,
    };
    if let Some(taken) = slots.split(claim.claimed.len()) {
        node.start(claim.claimed, claimed_at, taken);
    }
    found
}
