//! Tickets become runs: all that wait are claimed in one statement, up to the free slots. No timer: the next batch forms
//! while the store answers the last.

use std::{collections::HashMap, sync::Arc, time::Instant};

use prediction::PredictionId;
use queue::{Handled, Handler};
use store::Claim;
use tokio::sync::{
    OwnedSemaphorePermit,
    mpsc::{self, UnboundedReceiver, UnboundedSender},
    oneshot,
};

use crate::{backoff::Backoff, node::Node};

/// A ticket in the consumer's hands; unbounded here, because the consumer runs as many handlers as there are slots.
pub(crate) struct Waiting {
    id: PredictionId,
    handled: oneshot::Sender<Handled>,
}

pub(crate) fn channel() -> (UnboundedSender<Waiting>, UnboundedReceiver<Waiting>) {
    mpsc::unbounded_channel()
}

/// What the queue calls for each ticket: hands it over and waits until it is settled.
pub(crate) fn handler(tickets: UnboundedSender<Waiting>) -> Handler {
    Arc::new(move |ticket| {
        let (handled, answer) = oneshot::channel();
        // A closed channel drops the sender, and the answer is then that nobody looked at the ticket.
        let _ = tickets.send(Waiting { id: ticket.id, handled });
        Box::pin(async move { answer.await.unwrap_or(Handled::Returned) })
    })
}

/// Claims until the worker stops; whatever still waits then is dropped, which returns its tickets.
pub(crate) async fn claim_tickets(node: Arc<Node>, mut tickets: UnboundedReceiver<Waiting>) {
    while let Some(Some((mut waiting, mut slots))) =
        node.stop.run_until_cancelled(next_batch(&node, &mut tickets)).await
    {
        let ids: Vec<PredictionId> = waiting.keys().copied().collect();
        let Some((claim, claimed_at)) = claim(&node, &ids).await else { return };
        for claimed in claim.claimed {
            let ticket = waiting.remove(&claimed.run.id);
            let slot = slots.pop().expect("no more is claimed than asked for");
            node.start(claimed, claimed_at, slot, ticket);
        }
        if !claim.suspects.is_empty() {
            node.suspects.notify_one();
        }
        // What was not claimed is finished, taken, not due, or a suspect that is found without a ticket.
        for ticket in waiting.into_values() {
            let _ = ticket.send(Handled::Done);
        }
    }
}

type Batch = (HashMap<PredictionId, oneshot::Sender<Handled>>, Vec<OwnedSemaphorePermit>);

/// At least one ticket and a slot for each; none when the consumer has gone.
async fn next_batch(node: &Node, tickets: &mut UnboundedReceiver<Waiting>) -> Option<Batch> {
    let first = tickets.recv().await?;
    let slot = Arc::clone(&node.slots).acquire_owned().await.ok()?;
    let (mut waiting, mut slots) = (HashMap::from([(first.id, first.handled)]), vec![slot]);
    while let Ok(slot) = Arc::clone(&node.slots).try_acquire_owned() {
        let Ok(ticket) = tickets.try_recv() else { break };
        match waiting.insert(ticket.id, ticket.handled) {
            None => slots.push(slot),
            Some(doubled) => drop(doubled.send(Handled::Done)),
        }
    }
    Some((waiting, slots))
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
