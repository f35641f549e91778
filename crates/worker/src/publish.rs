//! Says what this worker serves and that it is alive, until it stops.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use store::StoreError;

use crate::{backoff::Backoff, node::Node};

const EVERY: Duration = Duration::from_secs(5);

/// Publishes for the first time, however long the store is away; false when the worker is stopped before.
pub(crate) async fn first(node: &Node) -> Result<bool, StoreError> {
    let mut backoff = Backoff::for_store();
    loop {
        match node.stop.run_until_cancelled(publish(node)).await {
            None => return Ok(false),
            Some(Ok(())) => return Ok(true),
            Some(Err(error @ StoreError::Unavailable(_))) => node.outage.saw(&error),
            Some(Err(error)) => return Err(error),
        }
        if !node.pause(backoff.next()).await {
            return Ok(false);
        }
    }
}

/// Publishes again and again until the worker stops.
pub(crate) async fn keep_published(node: Arc<Node>) {
    while node.pause(EVERY).await {
        // The next time is soon enough for whatever went wrong; it has been logged.
        let _ = node.ask(publish(&node)).await;
    }
}

/// Reports the last count of refused completions and says that nothing is served any more.
pub(crate) async fn withdraw(node: &Node) {
    let farewell = async {
        publish(node).await?;
        node.store.withdraw(node.id).await
    };
    // A worker that could not say farewell is forgotten when it has been silent for a while.
    let _ = node.ask(farewell).await;
}

/// Says what is served now.
pub(crate) async fn publish(node: &Node) -> Result<(), StoreError> {
    let _turn = node.publishing.lock().await;
    let stale = node.stale.load(Ordering::Relaxed);
    node.store.publish(node.id, &node.config.host, &node.models.offers(), stale).await
}
