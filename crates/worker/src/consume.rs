//! Takes tickets of the versions that can be run. When these change, another consumer begins before the last one ends, so that
//! nothing waits for the change.

use std::{mem, sync::Arc};

use prediction::{ModelName, Priority, StreamKey, Version};
use queue::Handler;
use tokio::task::JoinSet;
use tokio_util::sync::DropGuard;

use crate::{node::Node, stop::propagate_panic};

/// Consumes until the worker stops; returns when every consumer has given back what it did not handle.
pub(crate) async fn consume(node: Arc<Node>, handler: Handler) {
    let mut consumers = JoinSet::new();
    let mut current = begin(&node, &handler, &mut consumers);
    loop {
        tokio::select! {
            () = node.stop.cancelled() => break,
            () = node.other_versions.notified() => {
                let next = begin(&node, &handler, &mut consumers);
                // Its end is that of the consumer before: both have the same slots, and what one is handed the other is not.
                drop(mem::replace(&mut current, next));
            }
            Some(ended) = consumers.join_next() => propagate_panic(ended),
        }
    }
    while let Some(ended) = consumers.join_next().await {
        propagate_panic(ended);
    }
}

/// Starts a consumer of what can be run now; it ends when the guard is dropped.
fn begin(node: &Arc<Node>, handler: &Handler, consumers: &mut JoinSet<()>) -> DropGuard {
    let stop = node.stop.child_token();
    let (node, handler, stopped) = (Arc::clone(node), Arc::clone(handler), stop.clone());
    consumers.spawn(async move {
        let (streams, slots) = (streams(&node.models.runnable()), Arc::clone(node.slots.permits()));
        node.queue.consume(streams, slots, handler, stopped).await;
    });
    stop.drop_guard()
}

/// The streams whose tickets this worker can use, those of the highest priority first.
fn streams(versions: &[(ModelName, Version)]) -> Vec<StreamKey> {
    let of_priority = |priority| {
        versions.iter().map(move |(model, version)| StreamKey {
            model: model.clone(),
            version: version.clone(),
            priority,
        })
    };
    Priority::ALL.into_iter().flat_map(of_priority).collect()
}
