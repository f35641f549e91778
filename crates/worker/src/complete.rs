//! Outcomes are written by combiners: runs that end while the store answers form the next statement.

use std::{ops::Range, sync::Arc};

use prediction::PredictionId;
use store::{Outcome, Written, gather, take_turn};
use tokio::sync::{
    Mutex, Semaphore, SemaphorePermit,
    mpsc::{self, UnboundedReceiver, UnboundedSender},
    oneshot,
};

use crate::{node::Node, outage::Trouble};

/// Statements under way at once at most.
pub(crate) const WRITERS: usize = 2;
/// The most outcomes in one statement, where Postgres walks along an array of outputs for each of them.
const MAX_BATCH: usize = 256;
/// The most bytes of outputs in one statement, unless one alone has more.
const MAX_BATCH_BYTES: usize = 32 << 20;

/// Room for outcomes that wait to be written while others run, in KiB, and what the smallest takes up: a thousand of them are
/// more than all writers take at once.
const ROOM_KIB: u32 = 64 << 10;
const LEAST_ROOM_KIB: u32 = 64;

/// What became of an outcome.
pub(crate) type Answer = (Outcome, Result<Written, Trouble>);

/// Outcomes on their way to the store, and who waits for them.
pub(crate) struct Part {
    outcomes: Vec<Outcome>,
    answer: oneshot::Sender<Vec<Answer>>,
}

/// Where runs hand in their outcomes; unbounded here, because each holds a slot or room until it has its answer.
#[derive(Clone)]
pub(crate) struct Outcomes {
    sender: UnboundedSender<Part>,
    /// In KiB.
    room: Arc<Semaphore>,
}

pub(crate) fn channel() -> (Outcomes, Arc<Mutex<UnboundedReceiver<Part>>>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let outcomes = Outcomes { sender, room: Arc::new(Semaphore::new(ROOM_KIB as usize)) };
    (outcomes, Arc::new(Mutex::new(receiver)))
}

impl Outcomes {
    /// Waits for room to keep outcomes in until they are written. Those that are larger than all of it have it alone.
    pub(crate) async fn room_for(&self, outcomes: impl Iterator<Item = &Outcome>) -> Option<SemaphorePermit<'_>> {
        let kib = |outcome| u32::try_from(size(outcome) / 1024).unwrap_or(u32::MAX).max(LEAST_ROOM_KIB);
        let all = outcomes.map(kib).fold(0, u32::saturating_add);
        // It is never closed.
        self.room.acquire_many(all.min(ROOM_KIB)).await.ok()
    }

    /// Writes them together with others, and says what became of each, in order.
    pub(crate) async fn write(&self, outcomes: Vec<Outcome>) -> Vec<Answer> {
        let (answer, written) = oneshot::channel();
        let _ = self.sender.send(Part { outcomes, answer });
        match written.await {
            Ok(written) => written,
            // The writers end only after everything that waits for them has ended.
            Err(_) => std::future::pending().await,
        }
    }
}

/// Writes outcomes until the worker is over.
pub(crate) async fn write_outcomes(node: Arc<Node>, parts: Arc<Mutex<UnboundedReceiver<Part>>>) {
    let next_batch = async || {
        let mut parts = parts.lock().await;
        let batch = match parts.recv().await {
            Some(first) => gather(first, || parts.try_recv().ok(), |part| part.outcomes.len(), MAX_BATCH).await,
            None => Vec::new(),
        };
        (batch, parts)
    };
    while let Some((batch, turn)) = node.over.run_until_cancelled(next_batch()).await {
        take_turn(turn, write_batch(&node, batch)).await;
    }
}

/// Writes one batch, in as few statements as the bounds allow. A refused statement comes back in halves, until the outcome that
/// the store refuses stands alone.
async fn write_batch(node: &Node, batch: Vec<Part>) {
    let (mut outcomes, mut callers) = (Vec::new(), Vec::with_capacity(batch.len()));
    for part in batch {
        callers.push((part.answer, part.outcomes.len()));
        outcomes.extend(part.outcomes);
    }
    let mut written = vec![Err(Trouble::Away); outcomes.len()];
    let mut ranges = bounded(&outcomes);
    while let Some(range) = ranges.pop() {
        match node.ask(node.store.complete(node.id, &outcomes[range.clone()])).await {
            Ok(answers) => {
                let applied = outcomes[range.clone()].iter().zip(&answers);
                let applied = applied.filter(|(_, written)| **written == Written::Applied);
                node.finished.tell(applied.filter_map(|(outcome, _)| ended_id(outcome)).collect());
                written[range].iter_mut().zip(answers).for_each(|(written, answer)| *written = Ok(answer));
            }
            Err(Trouble::Refused) if range.len() > 1 => {
                let middle = range.start + range.len() / 2;
                ranges.extend([range.start..middle, middle..range.end]);
            }
            Err(trouble) => written[range].fill(Err(trouble)),
        }
    }
    let mut answers = outcomes.into_iter().zip(written);
    for (caller, length) in callers {
        // It is gone when the worker is over.
        let _ = caller.send(answers.by_ref().take(length).collect());
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

/// Splits outcomes so that no statement has too many of them or of their bytes; the last ones first.
fn bounded(outcomes: &[Outcome]) -> Vec<Range<usize>> {
    let (mut ranges, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (place, outcome) in outcomes.iter().enumerate() {
        bytes += size(outcome);
        if place > start && (bytes > MAX_BATCH_BYTES || place - start == MAX_BATCH) {
            ranges.push(start..place);
            (start, bytes) = (place, size(outcome));
        }
    }
    if start < outcomes.len() {
        ranges.push(start..outcomes.len());
    }
    ranges.reverse();
    ranges
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;
    use store::{Run, RunMetrics};

    use super::*;

    #[test]
    fn statements_are_bounded_in_outcomes_and_bytes() {
        let outcome = |bytes: usize| Outcome::Succeeded {
            run: Run { id: PredictionId::generate(), epoch: 1 },
            output: RawValue::from_string(format!("\"{}\"", "x".repeat(bytes - 2))).expect("JSON"),
            metrics: RunMetrics::default(),
        };
        let half = MAX_BATCH_BYTES / 2;
        let ranges = |sizes: &[usize]| bounded(&sizes.iter().map(|bytes| outcome(*bytes)).collect::<Vec<_>>());
        assert_eq!(ranges(&[half, half, half, 10]), [2..4, 0..2]);
        assert_eq!(ranges(&[MAX_BATCH_BYTES + 1, 2]), [1..2, 0..1]);
        assert_eq!(ranges(&[2; MAX_BATCH + 1]), [MAX_BATCH..MAX_BATCH + 1, 0..MAX_BATCH]);
        assert!(ranges(&[]).is_empty());
    }
}
