//! The graceful stop: what runs may finish within the grace, the rest goes back unspent, and nothing is left unwritten
//! that the store would have taken.

use std::{panic::resume_unwind, time::Duration};

use tokio::{
    task::{JoinError, JoinSet},
    time::timeout,
};

use crate::{node::Node, publish};

/// The queue returns its tickets in a few round trips of at most a second each.
const QUEUE_PATIENCE: Duration = Duration::from_secs(5);

/// Waits for the runs and their writes, ends all parts and withdraws. Nothing new is taken by now.
pub(crate) async fn drain(node: &Node, mut parts: JoinSet<()>) {
    node.tasks.close();
    if timeout(node.config.grace, node.tasks.wait()).await.is_err() {
        tracing::info!(predictions = node.held.runs().len(), "the grace is over: handing back what still runs");
        node.hand_back.cancel();
        // A store that is away for longer finds the leases ended, and whatever was not written runs again.
        if timeout(node.config.lease, node.tasks.wait()).await.is_err() {
            tracing::warn!(predictions = node.held.runs().len(), "the store is away: left to their leases");
        }
    }
    node.over.cancel();
    node.tasks.wait().await;
    let ended = async {
        while let Some(ended) = parts.join_next().await {
            propagate_panic(ended);
        }
    };
    if timeout(QUEUE_PATIENCE, ended).await.is_err() {
        tracing::warn!("the queue did not end in time");
        parts.shutdown().await;
    }
    publish::withdraw(node).await;
}

/// A part that panicked takes the worker with it: half a worker would hold leases and do nothing.
pub(crate) fn propagate_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && let Ok(panic) = error.try_into_panic()
    {
        resume_unwind(panic);
    }
}
