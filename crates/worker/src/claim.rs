//! Tickets become runs: all that wait are claimed in one statement; the next batch forms while the store answers the last.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Instant,
};

use prediction::{ModelName, PredictionId, Version};
use queue::{Handled, Handler};
use store::{Claimed, gather};
use tokio::sync::{
    mpsc::{self, UnboundedReceiver, UnboundedSender},
    oneshot,
};

use crate::{
    backoff::Backoff,
    node::Node,
    outage::Trouble,
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
        if !claim(&node, &ids, &mut by_version(slots)).await {
            return;
        }
        // What was not claimed is finished, taken, not due, or a suspect that is found without a ticket.
        for handled in waiting {
            // The consumer may have gone; its tickets are then stale wherever they turn up.
            let _ = handled.send(Handled::Done);
        }
    }
}

/// The slots of each version.
pub(crate) type ByVersion = HashMap<(ModelName, Version), Taken>;

pub(crate) fn by_version(slots: Vec<Taken>) -> ByVersion {
    let mut of_versions = ByVersion::new();
    for taken in slots {
        match of_versions.entry(taken.version().clone()) {
            Entry::Occupied(mut entry) => entry.get_mut().merge(taken),
            Entry::Vacant(entry) => drop(entry.insert(taken)),
        }
    }
    of_versions
}

/// Runs what was claimed together, each version on its own slots.
pub(crate) fn start(node: &Arc<Node>, claimed: Vec<Claimed>, claimed_at: Instant, slots: &mut ByVersion) {
    let mut together: HashMap<(ModelName, Version), Vec<Claimed>> = HashMap::new();
    for claimed in claimed {
        together.entry((claimed.model.clone(), claimed.version.clone())).or_default().push(claimed);
    }
    for (version, claimed) in together {
        let slots = slots.get_mut(&version).and_then(|slots| slots.split(claimed.len()));
        node.start(claimed, claimed_at, slots);
    }
}

/// Claims and runs them, however long the store is away; false when the worker stops first. A refused claim is halved until the
/// prediction that the store refuses stands alone: it goes on waiting without a ticket, which it will be given again.
async fn claim(node: &Arc<Node>, ids: &[PredictionId], slots: &mut ByVersion) -> bool {
    let mut backoff = Backoff::for_store();
    let mut parts = vec![ids];
    while let Some(part) = parts.pop() {
        let claimed_at = Instant::now();
        match node.ask(node.store.claim(node.id, part, node.config.lease)).await {
            Ok(claim) => {
                backoff.reset();
                start(node, claim.claimed, claimed_at, slots);
                if !claim.suspects.is_empty() {
                    node.suspects.notify_one();
                }
            }
            Err(Trouble::Away) => {
                parts.push(part);
                if !node.pause(backoff.next()).await {
                    return false;
                }
            }
            Err(Trouble::Refused) => match part {
                [] => {}
                [guilty] => {
                    tracing::error!(prediction = %guilty, "it cannot be claimed; its ticket is dropped for now");
                    // Where one after the other is refused, the fault is not theirs.
                    if !node.pause(backoff.next()).await {
                        return false;
                    }
                }
                _ => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
            },
        }
    }
    true
}
