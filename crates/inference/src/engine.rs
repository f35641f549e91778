//! Dynamic batching: one batch after the other of whatever is ready, as much as one may hold, without ever waiting for more. A
//! failing batch is split until the guilty item stands alone. Where an architecture computes with several threads, the next batch
//! begins when so little of one is left that some would have nothing to do.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use prediction::{Failure, FailureCode};
use tokio::sync::{mpsc, oneshot};

use crate::{Abandon, Draft, Output, architecture::Architecture, turn::Turn};

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

/// What waits to be run.
struct Line<I> {
    /// What came since the window was filled.
    jobs: mpsc::Receiver<Job<I>>,
    /// Cheapest first.
    window: Vec<Waiting<I>>,
}

/// A batch, and where its results go.
struct Batch<I> {
    items: Vec<(I, Abandon)>,
    waiters: Vec<Option<Waiter>>,
}

struct Engine<A: Architecture> {
    name: String,
    architecture: Arc<A>,
    max_batch: usize,
    /// Held by the thread whose turn it is.
    line: Mutex<Line<A::Item>>,
    /// Threads that wait for their turn.
    idle: AtomicUsize,
}

/// Starts a model's threads. The queue holds as many items as one window; who sends more waits. They end when the last sender is
/// dropped.
///
/// # Errors
/// When the system gives no thread.
pub(crate) fn start<A: Architecture>(
    name: &str,
    architecture: Arc<A>,
    max_batch: usize,
) -> std::io::Result<mpsc::Sender<Job<A::Item>>> {
    let max_batch = max_batch.max(1);
    let (sender, jobs) = mpsc::channel(max_batch * WINDOW_BATCHES);
    let under_way = architecture.under_way();
    let line = Mutex::new(Line { jobs, window: Vec::new() });
    let engine = Arc::new(Engine { name: name.to_owned(), architecture, max_batch, line, idle: AtomicUsize::new(0) });
    for _ in 0..under_way {
        let engine = Arc::clone(&engine);
        thread::Builder::new().name(format!("model {name}")).spawn(move || engine.drive())?;
    }
    Ok(sender)
}

/// What an abandoned prediction ends with.
pub(crate) fn canceled() -> Failure {
    Failure::new(FailureCode::Canceled, "canceled while it ran")
}

impl<A: Architecture> Engine<A> {
    /// Runs batches until no job can come any more.
    fn drive(&self) {
        loop {
            let mut line = self.wait_for_turn();
            let Some(Batch { items, mut waiters }) = self.next(&mut line) else { return };
            let mut held = Some(line);
            let mut pass = || {
                let passes = held.as_ref().is_some_and(|line| self.idle.load(Ordering::SeqCst) > 0 && line.has_more());
                if passes {
                    held = None;
                }
                passes
            };
            if let Err(failure) = self.run(&items, &mut waiters, &mut Turn::new(&mut pass)) {
                self.split(&items, &mut waiters, failure);
            }
        }
    }

    fn wait_for_turn(&self) -> MutexGuard<'_, Line<A::Item>> {
        self.idle.fetch_add(1, Ordering::SeqCst);
        let line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        self.idle.fetch_sub(1, Ordering::SeqCst);
        line
    }

    /// The next batch, of a window that is filled when it is empty: cheapest first, in as few batches as the limits allow. Waits
    /// while there is nothing to run; `None` when nothing can come any more.
    fn next(&self, line: &mut Line<A::Item>) -> Option<Batch<A::Item>> {
        loop {
            if line.window.is_empty() {
                line.window.push(self.weigh(line.jobs.blocking_recv()?));
                while line.window.len() < self.max_batch * WINDOW_BATCHES
                    && let Ok(job) = line.jobs.try_recv()
                {
                    line.window.push(self.weigh(job));
                }
                line.window.sort_by_key(|waiting| waiting.cost);
            }
            for waiting in line.window.extract_if(.., |waiting| waiting.job.abandon.is_abandoned()) {
                // The waiter may be gone, which is as good.
                let _ = waiting.job.reply.send(Err(canceled()));
            }
            if !line.window.is_empty() {
                let batch = line.window.drain(..self.batch_length(&line.window));
                let (items, waiters) = batch.map(|waiting| self.begin(waiting.job)).unzip();
                return Some(Batch { items, waiters });
            }
        }
    }

    fn weigh(&self, job: Job<A::Item>) -> Waiting<A::Item> {
        Waiting { cost: self.architecture.cost(&job.item), job }
    }

    fn begin(&self, job: Job<A::Item>) -> ((A::Item, Abandon), Option<Waiter>) {
        let tokens = self.architecture.tokens(&job.item);
        let _ = job.begun.send(());
        ((job.item, job.abandon), Some(Waiter { tokens, reply: job.reply }))
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

    /// Runs one batch and answers its waiters, unless it fails as a whole.
    fn run(
        &self,
        batch: &[(A::Item, Abandon)],
        waiters: &mut [Option<Waiter>],
        turn: &mut Turn<'_>,
    ) -> Result<(), Failure> {
        let started = Instant::now();
        match catch_unwind(AssertUnwindSafe(|| self.architecture.run(batch, turn))) {
            Ok(Ok(results)) if results.len() == batch.len() => {
                let predict_time = started.elapsed();
                let batch_size = u32::try_from(batch.len()).unwrap_or(u32::MAX);
                for (result, waiter) in results.into_iter().zip(waiters) {
                    let tokens = waiter.as_ref().and_then(|waiter| waiter.tokens);
                    answer(waiter, result.map(|value| Output { value, predict_time, batch_size, tokens }));
                }
                Ok(())
            }
            Ok(Ok(results)) => {
                tracing::error!(
                    model = self.name,
                    asked = batch.len(),
                    answered = results.len(),
                    "answers do not match"
                );
                Err(Failure::new(FailureCode::ModelError, "the model gave no answer to this input"))
            }
            Ok(Err(failure)) => Err(failure),
            Err(_) => {
                tracing::error!(model = self.name, batch = batch.len(), "a batch panicked");
                Err(Failure::new(FailureCode::ModelError, "the model crashed on this input"))
            }
        }
    }

    /// Runs the halves of a batch that failed as a whole, until the guilty item stands alone. None is where nothing can run any more.
    fn split(&self, batch: &[(A::Item, Abandon)], waiters: &mut [Option<Waiter>], failure: Failure) {
        if waiters.len() == 1 || self.architecture.is_broken() {
            waiters.iter_mut().for_each(|waiter| answer(waiter, Err(failure.clone())));
            return;
        }
        tracing::warn!(model = self.name, batch = batch.len(), %failure, "a batch failed and is split");
        let middle = batch.len() / 2;
        let (first, second) = waiters.split_at_mut(middle);
        for (half, waiters) in [(&batch[..middle], first), (&batch[middle..], second)] {
            if let Err(failure) = self.run(half, waiters, &mut Turn::kept()) {
                self.split(half, waiters, failure);
            }
        }
    }
}

impl<I> Line<I> {
    /// Whether a batch could begin.
    fn has_more(&self) -> bool {
        !self.window.is_empty() || !self.jobs.is_empty()
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
