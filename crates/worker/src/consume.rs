//! Takes tickets of the versions that can be run, each by a consumer of its own with the version's slots.

use std::{collections::HashMap, sync::Arc};

use prediction::{ModelName, Priority, StreamKey, Version};
use tokio::{sync::mpsc::UnboundedSender, task::JoinSet};
use tokio_util::sync::DropGuard;

use crate::{
    claim::{self, Waiting},
    node::Node,
    stop::propagate_panic,
};

/// Consumes until the worker stops; returns when every consumer has given back what it did not handle.
pub(crate) async fn consume(node: Arc<Node>, tickets: UnboundedSender<Waiting>) {
    let mut consumers = JoinSet::new();
    // Each ends when its guard is dropped.
    let mut current: HashMap<(ModelName, Version), DropGuard> = HashMap::new();
    loop {
        let runnable = node.models.runnable();
        current.retain(|version, _| runnable.contains(version));
        for version in &runnable {
            if !current.contains_key(version) {
                current.insert(version.clone(), begin(&node, version, &tickets, &mut consumers));
            }
        }
        tokio::select! {
            () = node.stop.cancelled() => break,
            () = node.other_versions.notified() => {}
            Some(ended) = consumers.join_next() => propagate_panic(ended),
        }
    }
    while let Some(ended) = consumers.join_next().await {
        propagate_panic(ended);
    }
}

/// Starts the consumer of one version.
fn begin(
    node: &Arc<Node>,
    (model, version): &(ModelName, Version),
    tickets: &UnboundedSender<Waiting>,
    consumers: &mut JoinSet<()>,
) -> DropGuard {
    let stop = node.stop.child_token();
    let (node, tickets, stopped) = (Arc::clone(node), tickets.clone(), stop.clone());
    let (model, version) = (model.clone(), version.clone());
    consumers.spawn(async move {
        let Some(slots) = stopped.run_until_cancelled(node.slots.of(&model, &version)).await else { return };
        let room = slots.room();
        let handler = claim::handler(slots, tickets);
        node.queue.consume(streams(&model, &version), room, handler, stopped).await;
    });
    stop.drop_guard()
}

/// The streams of a version, that of the highest priority first.
pub(crate) fn streams(model: &ModelName, version: &Version) -> Vec<StreamKey> {
    let of_priority = |priority| StreamKey { model: model.clone(), version: version.clone(), priority };
    Priority::ALL.into_iter().map(of_priority).collect()
}
