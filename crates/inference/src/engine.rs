//! Dynamic batching: one thread per model that runs whatever is ready, as much as one batch may hold, without ever waiting
//! for more. A failing batch is split until the guilty item stands alone.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::Instant,
};

use prediction::{Failure, FailureCode};
use tokio::sync::{mpsc, oneshot};

use crate::{Abandon, Draft, Output, architecture::Architecture};

/// Full batches that are sorted by cost together; everything in such a window runs before newer items, so that long ones do
/// not wait for ever.
const WINDOW_BATCHES: usize = 4;

/// One prepared item on its way to the engine.
pub(crate) struct Job<I> {
    /// What to run.
    pub(crate) item: I,
    /// Set when nobody wants the result any more.
    pub(crate) abandon: Abandon,
    /// Where its text grows, if the architecture writes one.
    pub(crate) draft: Draft,
    /// Told when its batch begins.
    pub(crate) begun: oneshot::Sender<()>,
    /// Where the result goes.
    pub(crate) reply: oneshot::Sender<Result<Output, Failure>>,
}

/// A job with its cost, in a window.
struct Waiting<I> {
    cost: usize,
    job: Job<I>,
}

/// Where one result goes, and what is known of its item.
struct Waiter {
    tokens: Option<u32>,
    reply: oneshot::Sender<Result<Output, Failure>>,
}

struct Engine<A> {
    name: String,
    architecture: Arc<A>,
    max_batch: usize,
}

/// Starts a model's thread. The queue holds as many items as one window; who sends more waits. The thread ends when the last
/// sender is dropped.
///
/// # Errors
/// When the system gives no thread.
pub(crate) fn start<A: Architecture>(
    name: &str,
    architecture: Arc<A>,
    max_batch: usize,
) -> std::io::Result<mpsc::Sender<Job<A::Item>>> {
    let max_batch = max_batch.max(1);
    let (sender, receiver) = mpsc::channel(max_batch * WINDOW_BATCHES);
    let engine = Engine { name: name.to_owned(), architecture, max_batch };
    thread::Builder::new().name(format!("model {name}")).spawn(move || engine.drive(receiver))?;
    Ok(sender)
}

/// What an abandoned prediction ends with.
pub(crate) fn canceled() -> Failure {
    Failure::new(FailureCode::Canceled, "canceled while it ran")
}

impl<A: Architecture> Engine<A> {
    fn drive(&self, mut jobs: mpsc::Receiver<Job<A::Item>>) {
        while let Some(job) = jobs.blocking_recv() {
            let mut window = vec![self.weigh(job)];
            while window.len() < self.max_batch * WINDOW_BATCHES
                && let Ok(job) = jobs.try_recv()
            {
                window.push(self.weigh(job));
            }
            window.sort_by_key(|waiting| waiting.cost);
            self.run_window(window);
        }
    }

    fn weigh(&self, job: Job<A::Item>) -> Waiting<A::Item> {
        Waiting { cost: self.architecture.cost(&job.item), job }
    }

    /// Runs a window, cheapest first, in as few batches as the limits allow.
    fn run_window(&self, mut window: Vec<Waiting<A::Item>>) {
        while !window.is_empty() {
            let (wanted, abandoned): (Vec<_>, Vec<_>) =
                window.into_iter().partition(|waiting| !waiting.job.abandon.is_abandoned());
            for waiting in abandoned {
                // The waiter may be gone, which is as good.
                let _ = waiting.job.reply.send(Err(canceled()));
            }
            window = wanted;
            let rest = window.split_off(self.batch_length(&window));
            let (batch, mut waiters): (Vec<_>, Vec<_>) = window
                .into_iter()
                .map(|Waiting { job, .. }| {
                    let tokens = self.architecture.tokens(&job.item);
                    let _ = job.begun.send(());
                    ((job.item, job.abandon), Some(Waiter { tokens, reply: job.reply }))
                })
                .unzip();
            if !batch.is_empty() {
                self.run(&batch, &mut waiters);
            }
            window = rest;
        }
    }

    /// How many of a window sorted by cost make the next batch: at least one, so that a costly item still runs alone.
    fn batch_length(&self, window: &[Waiting<A::Item>]) -> usize {
        let bound = self.architecture.max_batch_cost();
        let costs = window.iter().take(self.max_batch).scan(0_usize, |sum, waiting| {
            *sum = sum.saturating_add(waiting.cost);
            Some(*sum)
        });
        let fitting = costs.take_while(|sum| *sum <= bound).count();
        fitting.max(1).min(window.len())
    }

    /// Runs one batch and answers its waiters; halves it when it fails as a whole.
    fn run(&self, batch: &[(A::Item, Abandon)], waiters: &mut [Option<Waiter>]) {
        let started = Instant::now();
        let failure = match catch_unwind(AssertUnwindSafe(|| self.architecture.run(batch))) {
            Ok(Ok(results)) if results.len() == batch.len() => {
                let predict_time = started.elapsed();
                let batch_size = u32::try_from(batch.len()).unwrap_or(u32::MAX);
                for (result, waiter) in results.into_iter().zip(waiters) {
                    let tokens = waiter.as_ref().and_then(|waiter| waiter.tokens);
                    answer(waiter, result.map(|value| Output { value, predict_time, batch_size, tokens }));
                }
                return;
            }
            Ok(Ok(results)) => {
                tracing::error!(
                    model = self.name,
                    asked = batch.len(),
                    answered = results.len(),
                    "answers do not match"
                );
                Failure::new(FailureCode::ModelError, "the model gave no answer to this input")
            }
            Ok(Err(failure)) => failure,
            Err(_) => {
                tracing::error!(model = self.name, batch = batch.len(), "a batch panicked");
                Failure::new(FailureCode::ModelError, "the model crashed on this input")
            }
        };
        if let [waiter] = waiters {
            answer(waiter, Err(failure));
            return;
        }
        tracing::warn!(model = self.name, batch = batch.len(), %failure, "a batch failed and is split");
        let middle = batch.len() / 2;
        let (first, second) = waiters.split_at_mut(middle);
        self.run(&batch[..middle], first);
        self.run(&batch[middle..], second);
    }
}

fn answer(waiter: &mut Option<Waiter>, result: Result<Output, Failure>) {
    if let Some(waiter) = waiter.take() {
        // The waiter may be gone, which is as good.
        let _ = waiter.reply.send(result);
    }
}

#[cfg(test)]
mod tests;
