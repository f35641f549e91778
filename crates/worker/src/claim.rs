//! Tickets become runs: all that wait are claimed in one statement; the next batch forms while the store answers the last.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Instant,
};

use prediction::{ModelName, PredictionId, Version};
use queue::{Handled, Handler};
use store::{Claim, Claimed, gather};
use tokio::sync::{
    mpsc::{self, UnboundedReceiver, UnboundedSender},
    oneshot,
};

use crate::{
    backoff::Backoff,
    node::Node,
    slots::{Slots, Taken},
};

/// So many tickets are claimed by one statement, and at most as many again: what was read together stays together.
const ENOUGH: usize = 256;

/// Tickets of one version in its consumer's hands, with their slots; unbounded here, because each has one.
pub(crate) struct Waiting {
    ids: Vec<PredictionId>,
    slots: Taken,
    handled: oneshot::Sender<Handled>,
}

pub(crate) fn channel() -> (UnboundedSender<Waiting>, UnboundedReceiver<Waiting>) {
    mpsc::unbounded_channel()
}

/// What the queue calls with tickets of the version that has these slots: hands them over and waits until they are claimed. From then
/// on the store knows who has the predictions, and the tickets are of no use to anybody.
pub(crate) fn handler(slots: Arc<Slots>, tickets: UnboundedSender<Waiting>) -> Handler {
    Arc::new(move |together, permits| {
        let (handled, answer) = oneshot::channel();
        let ids = together.into_iter().map(|ticket| ticket.id).collect();
        let slots = Taken::new(Arc::clone(&slots), permits);
        // A closed channel drops the sender, and the answer is then that nobody looked at the tickets.
        let _ = tickets.send(Waiting { ids, slots, handled });
        Box::pin(async move { answer.await.unwrap_or(Handled::Returned) })
    })
}

/// Claims until the worker stops; whatever still waits then is dropped, which returns its tickets.
pub(crate) async fn claim_tickets(node: Arc<Node>, mut tickets: UnboundedReceiver<Waiting>) {
    while let Some(Some(first)) = node.stop.run_until_cancelled(tickets.recv()).await {
        let together = gather(first, || tickets.try_recv().ok(), |waiting| waiting.ids.len(), ENOUGH).await;
        let (ids, slots, waiting): (Vec<_>, Vec<_>, Vec<_>) =
            together.into_iter().map(|Waiting { ids, slots, handled }| (ids, slots, handled)).collect();
        let mut ids = ids.concat();
        // A doubled ticket has a slot too many.
        ids.sort_unstable();
        ids.dedup();
        let Some((claim, claimed_at)) = claim(&node, &ids).await else { return };
        start(&node, claim.claimed, claimed_at, slots);
        if !claim.suspects.is_empty() {
            node.suspects.notify_one();
        }
        // What was not claimed is finished, taken, not due, or a suspect that is found without a ticket.
        for handled in waiting {
            // The consumer may have gone; its tickets are then stale wherever they turn up.
            let _ = handled.send(Handled::Done);
        }
    }
}

/// Runs what was claimed together, each version on its own slots.
pub(crate) fn start(node: &Arc<Node>, claimed: Vec<Claimed>, claimed_at: Instant, slots: Vec<Taken>) {
    let mut slots_of: HashMap<(ModelName, Version), Taken> = HashMap::new();
    for taken in slots {
        match slots_of.entry(taken.version().clone()) {
            Entry::Occupied(mut entry) => entry.get_mut().merge(taken),
            Entry::Vacant(entry) => drop(entry.insert(taken)),
        }
    }
    let mut together: HashMap<(ModelName, Version), Vec<Claimed>> = HashMap::new();
    for claimed in claimed {
        together.entry((claimed.model.clone(), claimed.version.clone())).or_default().push(claimed);
    }
    for (version, claimed) in together {
        let slots = slots_of.get_mut(&version).and_then(|slots| slots.split(claimed.len()));
        node.start(claimed, claimed_at, slots);
    }
}

/// Tries until the store answers; none when the worker stops first.
async fn claim(node: &Node, ids: &[PredictionId]) -> Option<(Claim, Instant)> {
    let mut backoff = Backoff::for_store();
    loop {
        let claimed_at = Instant::now();
        if let Ok(claim) = node.ask(node.store.claim(node.id, ids, node.config.lease)).await {
            return Some((claim, claimed_at));
        }
        if !node.pause(backoff.next()).await {
            return None;
        }
    }
}
