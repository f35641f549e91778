//! Tickets become runs: all that wait are claimed in one statement. No timer: the next batch forms while the store answers
//! the last.

use std::{collections::HashMap, sync::Arc, time::Instant};

use prediction::PredictionId;
use queue::{Handled, Handler, Slot};
use store::Claim;
use tokio::sync::{
    mpsc::{self, UnboundedReceiver, UnboundedSender},
    oneshot,
};

use crate::{backoff::Backoff, node::Node};

/// The most tickets claimed by one statement.
const MAX_BATCH: usize = 256;

/// A ticket in the consumer's hands, with its slot; unbounded here, because each has one.
pub(crate) struct Waiting {
    id: PredictionId,
    slot: Slot,
    handled: oneshot::Sender<Handled>,
}

pub(crate) fn channel() -> (UnboundedSender<Waiting>, UnboundedReceiver<Waiting>) {
    mpsc::unbounded_channel()
}

/// What the queue calls for each ticket: hands it over and waits until it is claimed. From then on the store knows who has the
/// prediction, and the ticket is of no use to anybody.
pub(crate) fn handler(tickets: UnboundedSender<Waiting>) -> Handler {
    Arc::new(move |ticket, slot| {
        let (handled, answer) = oneshot::channel();
        // A closed channel drops the sender, and the answer is then that nobody looked at the ticket.
        let _ = tickets.send(Waiting { id: ticket.id, slot, handled });
        Box::pin(async move { answer.await.unwrap_or(Handled::Returned) })
    })
}

/// Claims until the worker stops; whatever still waits then is dropped, which returns its tickets.
pub(crate) async fn claim_tickets(node: Arc<Node>, mut tickets: UnboundedReceiver<Waiting>) {
    let mut batch = Vec::with_capacity(MAX_BATCH);
    while let Some(1..) = node.stop.run_until_cancelled(tickets.recv_many(&mut batch, MAX_BATCH)).await {
        let mut waiting = HashMap::with_capacity(batch.len());
        for Waiting { id, slot, handled } in batch.drain(..) {
            if let Some((_, doubled)) = waiting.insert(id, (slot, handled)) {
                tell(doubled);
            }
        }
        let ids: Vec<PredictionId> = waiting.keys().copied().collect();
        let Some((claim, claimed_at)) = claim(&node, &ids).await else { return };
        for claimed in claim.claimed {
            let (slot, handled) = waiting.remove(&claimed.run.id).expect("no more is claimed than asked for");
            node.start(claimed, claimed_at, slot);
            tell(handled);
        }
        if !claim.suspects.is_empty() {
            node.suspects.notify_one();
        }
        // What was not claimed is finished, taken, not due, or a suspect that is found without a ticket.
        waiting.into_values().for_each(|(_, handled)| tell(handled));
    }
}

/// The ticket is of no use any more. (The consumer may have gone; it is then stale wherever it turns up.)
fn tell(handled: oneshot::Sender<Handled>) {
    let _ = handled.send(Handled::Done);
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
