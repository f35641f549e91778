//! Removes what has expired: old records of predictions, idempotency keys, silent workers.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::node::Node;

const EVERY: Duration = Duration::from_secs(60);
/// While there is more the pause is as long as the last removal took, but no shorter and no longer than this: a busy installation's
/// records expire as fast as they were made, and a worker keeps the database at removing them no more than half of the time.
const WHILE_MORE: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];
/// The most records of each kind removed in one statement.
const LIMIT: u32 = 1000;

/// Purges until the worker stops.
pub(crate) async fn purge(node: Arc<Node>) {
    let mut pause = EVERY;
    while node.pause(pause).await {
        let begun = Instant::now();
        pause = match node.ask(node.store.purge(node.config.keys_for, LIMIT)).await {
            Ok(purged) if purged.is_full(LIMIT) => begun.elapsed().clamp(WHILE_MORE[0], WHILE_MORE[1]),
            Ok(_) | Err(_) => EVERY,
        };
    }
}
