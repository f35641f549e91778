//! Tickets become runs: all that wait are claimed in one statement; the next batch forms while the store answers the last.

use std::{sync::Arc, time::Instant};

use prediction::PredictionId;
use queue::{Handled, Handler, Slots};
use store::{Claim, gather};
use tokio::sync::{
    mpsc::{self, UnboundedReceiver, UnboundedSender},
    oneshot,
};

use crate::{backoff::Backoff, node::Node};

/// So many tickets are claimed by one statement, and at most as many again: what was read together stays together.
const ENOUGH: usize = 256;

/// Tickets in the consumer's hands, with their slots; unbounded here, because each has one.
pub(crate) struct Waiting {
    ids: Vec<PredictionId>,
    slots: Slots,
    handled: oneshot::Sender<Handled>,
}

pub(crate) fn channel() -> (UnboundedSender<Waiting>, UnboundedReceiver<Waiting>) {
    mpsc::unbounded_channel()
}

/// What the queue calls with tickets: hands them over and waits until they are claimed. From then on the store knows who has
/// the predictions, and the tickets are of no use to anybody.
pub(crate) fn handler(tickets: UnboundedSender<Waiting>) -> Handler {
    Arc::new(move |together, slots| {
        let (handled, answer) = oneshot::channel();
        let ids = together.into_iter().map(|ticket| ticket.id).collect();
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
        let mut slots = slots.into_iter().reduce(merged);
        // A doubled ticket has a slot too many.
        ids.sort_unstable();
        ids.dedup();
        let Some((claim, claimed_at)) = claim(&node, &ids).await else { return };
        if let Some(taken) = slots.as_mut().and_then(|slots| slots.split(claim.claimed.len())) {
            node.start(claim.claimed, claimed_at, taken);
        }
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

fn merged(mut slots: Slots, more: Slots) -> Slots {
    slots.merge(more);
    slots
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
