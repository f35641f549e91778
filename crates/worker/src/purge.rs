//! Removes what has expired: old records of predictions, idempotency keys, silent workers.

use std::{sync::Arc, time::Duration};

use crate::node::Node;

const EVERY: Duration = Duration::from_secs(60);
/// The pause while there is more: a busy installation's records expire as fast as they were made.
const EVERY_WHILE_MORE: Duration = Duration::from_millis(100);
/// The most records of each kind removed in one statement.
const LIMIT: u32 = 1000;

/// Purges until the worker stops.
pub(crate) async fn purge(node: Arc<Node>) {
    let mut pause = EVERY;
    while node.pause(pause).await {
        pause = match node.ask(node.store.purge(node.config.keys_for, LIMIT)).await {
            Ok(purged) if purged.is_full(LIMIT) => EVERY_WHILE_MORE,
            Ok(_) | Err(_) => EVERY,
        };
    }
}
