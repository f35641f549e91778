//! Outcomes are written by combiners: runs that end while the store answers form the next statement. No timer.

use std::sync::Arc;

use prediction::PredictionId;
use store::{Outcome, Written, take_turn};
use tokio::sync::{
    Mutex, Semaphore, SemaphorePermit,
    mpsc::{self, UnboundedReceiver, UnboundedSender},
    oneshot,
};

use crate::{node::Node, outage::Trouble};

/// Statements under way at once at most.
pub(crate) const WRITERS: usize = 2;
/// The most outcomes in one statement.
const MAX_BATCH: usize = 256;
/// The most bytes of outputs in one statement, unless one alone has more.
const MAX_BATCH_BYTES: usize = 32 << 20;

/// Room for outcomes that wait to be written while others run, in KiB, and what the smallest takes up: a thousand of them are
/// more than all writers take at once.
const ROOM_KIB: u32 = 64 << 10;
const LEAST_ROOM_KIB: u32 = 64;

/// An outcome that was not written, and why.
pub(crate) struct NotWritten {
    pub(crate) outcome: Outcome,
    pub(crate) trouble: Trouble,
}

/// An outcome on its way to the store, and who waits for it.
pub(crate) struct Item {
    outcome: Outcome,
    answer: oneshot::Sender<Result<Written, NotWritten>>,
}

/// Where runs hand in their outcomes; unbounded here, because each holds a slot or room until it has its answer.
#[derive(Clone)]
pub(crate) struct Outcomes {
    sender: UnboundedSender<Item>,
    /// In KiB.
    room: Arc<Semaphore>,
}

pub(crate) fn channel() -> (Outcomes, Arc<Mutex<UnboundedReceiver<Item>>>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let outcomes = Outcomes { sender, room: Arc::new(Semaphore::new(ROOM_KIB as usize)) };
    (outcomes, Arc::new(Mutex::new(receiver)))
}

impl Outcomes {
    /// Waits for room to keep an outcome in until it is written. One that is larger than all of it has it alone.
    pub(crate) async fn room_for(&self, outcome: &Outcome) -> Option<SemaphorePermit<'_>> {
        let kib = u32::try_from(size(outcome) / 1024).unwrap_or(u32::MAX).clamp(LEAST_ROOM_KIB, ROOM_KIB);
        // It is never closed.
        self.room.acquire_many(kib).await.ok()
    }

    /// Writes it together with others, and says what became of it.
    pub(crate) async fn write(&self, outcome: Outcome) -> Result<Written, NotWritten> {
        let (answer, written) = oneshot::channel();
        let _ = self.sender.send(Item { outcome, answer });
        match written.await {
            Ok(written) => written,
            // The writers end only after everything that waits for them has ended.
            Err(_) => std::future::pending().await,
        }
    }
}

/// Writes outcomes until the worker is over.
pub(crate) async fn write_outcomes(node: Arc<Node>, items: Arc<Mutex<UnboundedReceiver<Item>>>) {
    let next_batch = async || {
        let mut batch = Vec::new();
        let mut items = items.lock().await;
        items.recv_many(&mut batch, MAX_BATCH).await;
        (batch, items)
    };
    while let Some((batch, turn)) = node.over.run_until_cancelled(next_batch()).await {
        let writing = async {
            let mut batches = bounded(batch);
            while let Some(batch) = batches.pop() {
                batches.extend(write_batch(&node, batch).await);
            }
        };
        take_turn(turn, writing).await;
    }
}

/// Writes one batch. A refused one comes back in halves, until the outcome that the store refuses stands alone.
async fn write_batch(node: &Node, mut batch: Vec<Item>) -> Vec<Vec<Item>> {
    let outcomes = batch.iter().map(|item| item.outcome.clone()).collect();
    match node.ask(node.store.complete(outcomes)).await {
        Ok(written) => {
            let ended = batch.iter().zip(&written).filter(|(_, written)| **written == Written::Applied);
            node.finished.tell(ended.filter_map(|(item, _)| ended_id(&item.outcome)).collect());
            for (item, written) in batch.into_iter().zip(written) {
                let _ = item.answer.send(Ok(written));
            }
            Vec::new()
        }
        Err(Trouble::Refused) if batch.len() > 1 => {
            let rest = batch.split_off(batch.len() / 2);
            vec![batch, rest]
        }
        Err(trouble) => {
            for Item { outcome, answer } in batch {
                let _ = answer.send(Err(NotWritten { outcome, trouble }));
            }
            Vec::new()
        }
    }
}

/// The prediction, if the outcome makes it terminal.
pub(crate) fn ended_id(outcome: &Outcome) -> Option<PredictionId> {
    match outcome {
        Outcome::Succeeded { run, .. } | Outcome::Failed { run, .. } => Some(run.id),
        Outcome::Retry { .. } | Outcome::Released { .. } => None,
    }
}

/// Of its output, which is all that may be large.
fn size(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Succeeded { output, .. } => output.get().len(),
        Outcome::Failed { .. } | Outcome::Retry { .. } | Outcome::Released { .. } => 0,
    }
}

/// Splits a batch so that no part has too many bytes.
fn bounded(batch: Vec<Item>) -> Vec<Vec<Item>> {
    let (mut batches, mut bytes) = (Vec::<Vec<Item>>::new(), 0);
    for item in batch {
        let size = size(&item.outcome);
        bytes += size;
        match batches.last_mut() {
            Some(last) if bytes <= MAX_BATCH_BYTES => last.push(item),
            _ => {
                batches.push(vec![item]);
                bytes = size;
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;
    use store::{Run, RunMetrics};

    use super::*;

    #[test]
    fn batches_are_bounded_in_bytes() {
        let item = |bytes: usize| Item {
            outcome: Outcome::Succeeded {
                run: Run { id: PredictionId::generate(), epoch: 1 },
                output: RawValue::from_string(format!("\"{}\"", "x".repeat(bytes - 2))).expect("JSON"),
                metrics: RunMetrics::default(),
            },
            answer: oneshot::channel().0,
        };
        let half = MAX_BATCH_BYTES / 2;
        let sizes = |items: Vec<Item>| bounded(items).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(vec![item(half), item(half), item(half), item(10)]), [2, 2]);
        assert_eq!(sizes(vec![item(MAX_BATCH_BYTES + 1), item(2)]), [1, 1]);
        assert_eq!(sizes(vec![]), Vec::<usize>::new());
    }
}
