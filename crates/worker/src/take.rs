//! New predictions of an API in the same process: this worker claims them in the transaction that stores them, as far as it has
//! free slots and no ticket of the same version waits here.

use std::{sync::Arc, time::Instant};

use prediction::{ModelName, Version};
use store::{Claimant, Claimed, Outcome, Places, Run, Taker};

use crate::{backoff::Backoff, consume::streams, node::Node, outage::Trouble, slots::Taken};

/// What makes room for them.
pub(crate) fn taker(node: &Arc<Node>) -> Taker {
    let node = Arc::clone(node);
    Arc::new(move |model, version, most| Some(Box::new(Room::take(&node, model, version, most)?)))
}

/// Slots of one version.
struct Room {
    node: Arc<Node>,
    slots: Taken,
}

impl Room {
    fn take(node: &Arc<Node>, model: &ModelName, version: &Version, most: usize) -> Option<Self> {
        let is_ending = node.stop.is_cancelled() || node.over.is_cancelled();
        if is_ending || !node.queue.has_none(&streams(model, version)) {
            return None;
        }
        node.models.get(model, version)?;
        let slots = node.slots.free(&(model.clone(), version.clone()), most)?;
        Some(Self { node: Arc::clone(node), slots })
    }
}

impl Places for Room {
    fn claimant(&self) -> Claimant {
        Claimant { worker: self.node.id, lease: self.node.config.lease }
    }

    fn count(&self) -> usize {
        self.slots.len()
    }

    fn start(&mut self, stored: Vec<Claimed>, since: Instant) {
        let slots = self.slots.split(stored.len());
        self.node.start(stored, since, slots);
    }

    fn give_back(&mut self, doubtful: Vec<Run>) {
        // A request that is repeated with the id of what runs here is not what runs.
        let runs: Vec<Run> = doubtful.into_iter().filter(|run| !self.node.held.holds(run.id)).collect();
        let (slots, node) = (self.slots.split(runs.len()), Arc::clone(&self.node));
        tokio::spawn(self.node.awaited(async move {
            release(&node, &runs).await;
            drop(slots);
        }));
    }
}

/// Hands back what this worker has claimed without knowing, however long the store is away; of what was never stored nothing comes.
/// It goes on to wait, which is better than to run alone once its lease has ended.
async fn release(node: &Node, runs: &[Run]) {
    let outcomes: Vec<Outcome> = runs.iter().map(|run| Outcome::Released { run: *run }).collect();
    let mut backoff = Backoff::for_store();
    while let Err(Trouble::Away) = node.ask(node.store.complete(node.id, &outcomes)).await {
        tokio::time::sleep(backoff.next()).await;
    }
}
