//! Asks the store for work: when the queue is away, when it cannot carry other nodes' tickets, and now and then in any
//! case: whatever has become of tickets, work and suspects are found.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt, future::select_all};

use crate::{
    backoff::Backoff,
    claim,
    node::Node,
    slots::{Slots, Taken},
};

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

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    Nothing,
    Some,
    /// As much as was asked for: there may be more.
    All,
}

/// Takes as much as there are free slots; waits for one.
async fn take(node: &Arc<Node>) -> Found {
    let Some(free) = node.stop.run_until_cancelled(free(node)).await else { return Found::Nothing };
    let mut found = Found::Nothing;
    // Versions with as many free slots are asked for together.
    for (asked, slots) in free {
        let (limit, claimed_at) = (u32::try_from(asked).unwrap_or(u32::MAX), Instant::now());
        let versions: Vec<_> = slots.iter().map(|taken| taken.version().clone()).collect();
        let next = node.store.claim_next(node.id, &versions, limit, node.config.lease);
        let Ok(claim) = node.ask(next).await else { return found };
        if !claim.suspects.is_empty() {
            node.suspects.notify_one();
        }
        found = found.max(match claim.claimed.len() {
            0 => Found::Nothing,
            some if some < asked => Found::Some,
            _ => Found::All,
        });
        claim::start(node, claim.claimed, claimed_at, slots);
    }
    found
}

/// The free slots of every version that can be run, by how many each has; waits until one has any.
async fn free(node: &Node) -> BTreeMap<usize, Vec<Taken>> {
    let runnable = node.models.runnable();
    node.slots.retain(&runnable).await;
    let mut each = node.slots.each().await;
    each.retain(|slots| runnable.contains(slots.version()));
    // Only until there is one; those that wait here keep nobody from theirs.
    let any = each.iter().map(|slots| slots.permits().acquire().boxed());
    if !each.is_empty() {
        drop(select_all(any).await);
    }
    let mut free: BTreeMap<usize, Vec<Taken>> = BTreeMap::new();
    for taken in each.into_iter().filter_map(Slots::free) {
        free.entry(taken.len()).or_default().push(taken);
    }
    free
}
