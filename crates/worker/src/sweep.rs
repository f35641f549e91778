//! Ends what is over, each second: expired leases go back to waiting, passed deadlines are canceled; now and then old records go.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use store::Sweep;

use crate::node::Node;

const EVERY: Duration = Duration::from_secs(1);
/// The most predictions of each kind in one statement.
const LIMIT: u32 = 500;
const PURGE_EVERY: Duration = Duration::from_secs(60);
/// The most records removed in one statement, and statements at once: the rest waits for the next time.
const PURGE_LIMIT: u32 = 1000;
const PURGE_ROUNDS: u32 = 10;

/// Sweeps until the worker stops.
pub(crate) async fn sweep(node: Arc<Node>) {
    let mut purged = Instant::now();
    while node.pause(EVERY).await {
        while sweep_once(&node).await {}
        if purged.elapsed() >= PURGE_EVERY {
            purge(&node).await;
            purged = Instant::now();
        }
    }
}

/// Whether there may be more.
async fn sweep_once(node: &Node) -> bool {
    let lease = node.config.lease;
    // While the store was away nobody could renew: everybody has one lease's time to do so before anything is taken away.
    let leases = node.outage.is_past(lease);
    let sweep = Sweep { lease, max_crashes: node.config.max_crashes, limit: LIMIT, leases };
    let Ok(swept) = node.ask(node.store.sweep(sweep)).await else { return false };
    let full = |ids: &[_]| ids.len() >= LIMIT as usize;
    let more = full(&swept.requeued) || full(&swept.ended);
    if !swept.requeued.is_empty() {
        tracing::warn!(predictions = swept.requeued.len(), "leases ended: to be run again, alone");
        node.suspects.notify_one();
    }
    node.finished.tell(swept.ended);
    more && !node.stop.is_cancelled()
}

async fn purge(node: &Node) {
    for _ in 0..PURGE_ROUNDS {
        match node.ask(node.store.purge(node.config.keys_for, PURGE_LIMIT)).await {
            Ok(removed) if removed >= u64::from(PURGE_LIMIT) => {}
            Ok(_) | Err(_) => return,
        }
    }
}
