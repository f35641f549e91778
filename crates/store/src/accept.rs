//! Group commit: callers that arrive while a transaction commits form the next one.

use std::{
    future::Future,
    ops::Range,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt, future::BoxFuture};
use prediction::{PredictionId, StreamKey, Ticket};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

use crate::{Accepted, NewPrediction, Store, StoreError, Taker, gather, take_turn, taker::Taken, turn::take};

/// What is done with the tickets of predictions just committed, by a task of its own and not by the caller (whose client may
/// hang up). Returns the tickets that could not be queued.
pub type Enqueue = Arc<dyn Fn(Vec<Ticket>) -> BoxFuture<'static, Vec<Ticket>> + Send + Sync>;

/// The most bytes of payload in one transaction, unless a single prediction is larger: what a few milliseconds write.
const MAX_BATCH_BYTES: usize = 4 << 20;

/// Waits before each attempt to mark predictions whose tickets were refused. After the last one, the dispatcher finds them by
/// their age.
const MARK_WAITS: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2)];

/// Combines concurrent callers into multi-row transactions.
#[derive(Clone)]
pub struct Accepter {
    jobs: mpsc::Sender<Job>,
    outstanding: TaskTracker,
}

/// One caller's prediction on its way.
struct Job {
    new: NewPrediction,
    answer: oneshot::Sender<Result<Accepted, Arc<StoreError>>>,
    outstanding: TaskTrackerToken,
}

/// A ticket on its way; outstanding until it is queued or marked as not queued.
type Pushed = (Ticket, TaskTrackerToken);

impl Accepter {
    /// Starts `flushers` tasks, each taking all that waits, up to `max_batch` (and a bound on bytes). They end with the last
    /// handle. What `taker` has room for gets no ticket.
    #[must_use]
    pub fn start(store: Store, enqueue: Enqueue, taker: Option<Taker>, flushers: usize, max_batch: usize) -> Self {
        let max_batch = max_batch.max(1);
        let (jobs, waiting) = mpsc::channel(max_batch * 4);
        // Without a bound, but each push is short and a queue that does not answer is not given tickets for long.
        let (tickets, committed) = mpsc::unbounded_channel();
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..flushers.max(1) {
            let flusher = Flusher { store: store.clone(), taker: taker.clone(), tickets: tickets.clone() };
            tokio::spawn(flusher.flush_all(Arc::clone(&waiting), max_batch));
        }
        tokio::spawn(push_all(store, enqueue, committed));
        Self { jobs, outstanding: TaskTracker::new() }
    }

    /// Stores one prediction, which has no claimant yet; answers after its transaction has committed. Dropping the future does not undo it.
    ///
    /// # Errors
    /// As [`Store::accept`]; shared by all callers of the same transaction.
    pub fn accept(&self, new: NewPrediction) -> impl Future<Output = Result<Accepted, Arc<StoreError>>> + Send {
        let (answer, answered) = oneshot::channel();
        let job = Job { new, answer, outstanding: self.outstanding.token() };
        let jobs = self.jobs.clone();
        async move {
            let gone = || Arc::new(StoreError::Unavailable(sqlx::Error::WorkerCrashed));
            jobs.send(job).await.map_err(|_| gone())?;
            answered.await.map_err(|_| gone())?
        }
    }

    /// Waits until everything handed in has been committed and queued.
    pub async fn drain(&self) {
        // Closing ends the wait when nothing is outstanding; it keeps nobody from handing in more.
        self.outstanding.close();
        self.outstanding.wait().await;
    }
}

/// What a flusher works with.
struct Flusher {
    store: Store,
    taker: Option<Taker>,
    tickets: mpsc::UnboundedSender<Pushed>,
}

impl Flusher {
    /// Takes what waits and stores it, until the last handle is gone.
    async fn flush_all(self, waiting: Arc<Mutex<mpsc::Receiver<Job>>>, max_batch: usize) {
        loop {
            let mut turn = waiting.lock().await;
            let Some(first) = turn.recv().await else { return };
            let mut jobs = take(first, || turn.try_recv().ok(), |_| 1, max_batch);
            let flushing = async {
                while !jobs.is_empty() {
                    let rest = jobs.split_off(fitting(&jobs));
                    let batch = std::mem::replace(&mut jobs, rest);
                    // A panic drops the batch's answers, which tells its callers; the next batch is not its business.
                    if AssertUnwindSafe(self.flush(batch)).catch_unwind().await.is_err() {
                        tracing::error!("storing a batch of predictions panicked");
                    }
                }
            };
            take_turn(turn, flushing).await;
        }
    }

    /// Stores a batch, answers its callers, and passes its tickets on or has what was claimed run. A refused transaction is halved
    /// until the predictions that the database refuses stand alone.
    async fn flush(&self, batch: Vec<Job>) {
        let (mut news, mut callers): (Vec<NewPrediction>, Vec<_>) =
            batch.into_iter().map(|job| (job.new, Some((job.answer, job.outstanding)))).unzip();
        let mut taken = self.taker.as_ref().map(|taker| Taken::from(taker, &mut news)).unwrap_or_default();
        let mut ranges: Vec<Range<usize>> = std::iter::once(0..news.len()).collect();
        while let Some(range) = ranges.pop() {
            let since = Instant::now();
            match self.store.accept_slice(&news[range.clone()]).await {
                Ok(answers) => {
                    // Outstanding until they run.
                    let (mut claimed, mut tokens) = (Vec::new(), Vec::new());
                    for (place, answer) in range.zip(answers) {
                        let Some((caller, outstanding)) = callers[place].take() else { continue };
                        if let Accepted::Created { .. } = &answer {
                            if news[place].claimed_by().is_some() {
                                claimed.push(place);
                                tokens.push(outstanding);
                            } else if news[place].queued {
                                // The pusher ends after the last flusher, so somebody receives this.
                                let _ = self.tickets.send((ticket(&news[place]), outstanding));
                            }
                        }
                        let _ = caller.send(Ok(answer));
                    }
                    taken.start(&news, &claimed, since);
                }
                Err(StoreError::Refused(error)) if range.len() > 1 => {
                    tracing::warn!(%error, predictions = range.len(), "a batch was refused; it is halved");
                    let middle = range.start + range.len() / 2;
                    ranges.extend([middle..range.end, range.start..middle]);
                }
                Err(error) => {
                    let error = Arc::new(error);
                    taken.give_back(&news, range.clone());
                    for (caller, _) in callers[range].iter_mut().filter_map(Option::take) {
                        let _ = caller.send(Err(Arc::clone(&error)));
                    }
                }
            }
        }
    }
}

/// How many of the first jobs fit into one transaction; at least one.
fn fitting(jobs: &[Job]) -> usize {
    let mut bytes = 0;
    let fits = |job: &&Job| {
        bytes += job.new.input.get().len() + job.new.metadata.as_ref().map_or(0, |metadata| metadata.get().len());
        bytes <= MAX_BATCH_BYTES
    };
    jobs.iter().take_while(fits).count().max(1)
}

fn ticket(new: &NewPrediction) -> Ticket {
    let stream = StreamKey { model: new.model.clone(), version: new.version.clone(), priority: new.priority };
    Ticket { id: new.id, stream }
}

/// Queues tickets, all that wait at once, beside the transactions: a slow queue delays neither them nor their callers.
async fn push_all(store: Store, enqueue: Enqueue, mut committed: mpsc::UnboundedReceiver<Pushed>) {
    while let Some(first) = committed.recv().await {
        let waiting = gather(first, || committed.try_recv().ok(), |_| 1, usize::MAX).await;
        let (tickets, outstanding): (Vec<Ticket>, Vec<TaskTrackerToken>) = waiting.into_iter().unzip();
        match AssertUnwindSafe(async { enqueue(tickets).await }).catch_unwind().await {
            Ok(refused) if refused.is_empty() => {}
            Ok(refused) => {
                let ids = refused.iter().map(|ticket| ticket.id).collect();
                tokio::spawn(mark_unqueued(store.clone(), ids, outstanding));
            }
            Err(_) => tracing::error!("queueing tickets panicked"),
        }
    }
}

async fn mark_unqueued(store: Store, ids: Vec<PredictionId>, outstanding: Vec<TaskTrackerToken>) {
    for wait in MARK_WAITS {
        tokio::time::sleep(wait).await;
        match store.mark_unqueued(&ids).await {
            Ok(()) => break,
            Err(error) => tracing::warn!(%error, predictions = ids.len(), "cannot mark predictions as not queued"),
        }
    }
    drop(outstanding);
}
