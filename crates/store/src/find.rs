//! Group reading: look-ups that arrive while a statement is answered form the next one.

use std::{
    collections::HashMap,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, future::join_all};
use prediction::{Prediction, PredictionId};
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    task::yield_now,
    time::timeout,
};

use crate::{Store, StoreError, take_turn, turn::take};

/// The most predictions in one statement…
const MAX_BATCH: usize = 16;
/// …of which there are fewer after one whose payloads had more bytes: what some milliseconds read.
const MAX_BYTES: usize = 1 << 20;

/// Combines concurrent look-ups of single predictions into statements for many.
pub struct Finder {
    wanted: mpsc::Sender<Wanted>,
}

type Found = Result<Option<Prediction>, Arc<StoreError>>;

/// What one caller looks up.
struct Wanted {
    /// Whose it must be, unless it may be anybody's.
    tenant: Option<String>,
    id: PredictionId,
    answer: oneshot::Sender<Found>,
}

/// Who waits for what.
type ById = HashMap<PredictionId, Vec<oneshot::Sender<Found>>>;

impl Finder {
    /// Starts `readers` tasks, each taking what waits. They end with the handle. `patience`: no caller waits longer than this, so
    /// nothing is read for longer.
    #[must_use]
    pub fn start(store: &Store, readers: usize, patience: Duration) -> Self {
        let (wanted, waiting) = mpsc::channel(MAX_BATCH * 4);
        let (waiting, most) = (Arc::new(Mutex::new(waiting)), Arc::new(AtomicUsize::new(MAX_BATCH)));
        for _ in 0..readers.max(1) {
            tokio::spawn(read_all(store.clone(), Arc::clone(&waiting), Arc::clone(&most), patience));
        }
        Self { wanted }
    }

    /// The prediction, if it exists and is the tenant's, as it is after this was called.
    ///
    /// # Errors
    /// As [`Store::get`]; what is not one prediction's fault is shared by all callers of the same statement.
    pub fn find(&self, tenant: &str, id: PredictionId) -> impl Future<Output = Found> + Send {
        self.look_up(Some(tenant), id)
    }

    /// The same, whosever it is.
    ///
    /// # Errors
    /// As above.
    pub fn find_any(&self, id: PredictionId) -> impl Future<Output = Found> + Send {
        self.look_up(None, id)
    }

    fn look_up(&self, tenant: Option<&str>, id: PredictionId) -> impl Future<Output = Found> + Send + use<> {
        let (answer, answered) = oneshot::channel();
        let (wanted, job) = (self.wanted.clone(), Wanted { tenant: tenant.map(str::to_owned), id, answer });
        async move {
            let gone = || Arc::new(StoreError::Unavailable(sqlx::Error::WorkerCrashed));
            wanted.send(job).await.map_err(|_| gone())?;
            answered.await.map_err(|_| gone())?
        }
    }
}

/// Takes what waits and reads it, until the handle is gone.
async fn read_all(
    store: Store,
    waiting: Arc<Mutex<mpsc::Receiver<Wanted>>>,
    most: Arc<AtomicUsize>,
    patience: Duration,
) {
    loop {
        let mut turn = waiting.lock().await;
        let Some(first) = turn.recv().await else { return };
        // Who was woken with the first caller asks at the same moment.
        yield_now().await;
        let enough = most.load(Ordering::Relaxed);
        let wanted = take(first, || turn.try_recv().ok(), |_| 1, enough);
        let count = wanted.len();
        let reading = async {
            let fitting = match timeout(patience, read(&store, wanted)).await {
                Ok(bytes) if bytes <= MAX_BYTES && count == enough => enough * 2,
                Ok(bytes) if bytes <= MAX_BYTES => return,
                Ok(_) => count / 2,
                Err(_) => {
                    tracing::warn!(predictions = count, "looking up predictions took longer than {patience:?}");
                    count / 2
                }
            };
            most.store(fitting.clamp(1, MAX_BATCH), Ordering::Relaxed);
        };
        if count == enough {
            // It is as large as it may be: the next one need not wait for it.
            drop(turn);
            reading.await;
        } else {
            take_turn(turn, reading).await;
        }
    }
}

/// Answers a batch: one statement for each tenant, and one for what may be anybody's. Returns how many bytes their payloads had.
async fn read(store: &Store, wanted: Vec<Wanted>) -> usize {
    let mut tenants: HashMap<Option<String>, ById> = HashMap::new();
    for Wanted { tenant, id, answer } in wanted {
        // Who has gone needs no answer.
        if !answer.is_closed() {
            tenants.entry(tenant).or_default().entry(id).or_default().push(answer);
        }
    }
    let of_each = tenants.iter_mut().map(async |(tenant, callers)| {
        // A panic drops the answers, which tells their callers; other tenants' are not its business.
        AssertUnwindSafe(read_for(store, tenant.as_deref(), callers)).catch_unwind().await.unwrap_or_else(|_| {
            tracing::error!("looking up predictions panicked");
            0
        })
    });
    join_all(of_each).await.into_iter().sum()
}

/// Answers all callers of one tenant's, or of anybody's. What cannot be read together is read one by one: the fault is one
/// prediction's. Returns how many bytes their payloads had.
async fn read_for(store: &Store, tenant: Option<&str>, callers: &mut ById) -> usize {
    let get = async |ids: &[PredictionId]| match tenant {
        Some(tenant) => store.get(tenant, ids).await,
        None => store.predictions(ids).await,
    };
    let ids: Vec<PredictionId> = callers.keys().copied().collect();
    let mut bytes = 0;
    match get(&ids).await {
        Ok(found) => {
            for prediction in found {
                let payloads = [&prediction.input, &prediction.output];
                bytes += payloads.into_iter().flatten().map(|payload| payload.get().len()).sum::<usize>();
                tell(callers, prediction.id, Ok(Some(prediction)));
            }
            for id in ids {
                tell(callers, id, Ok(None));
            }
        }
        Err(error) if is_of_one(&error) && ids.len() > 1 => {
            tracing::warn!(%error, predictions = ids.len(), "predictions cannot be read together; they are read one by one");
            let mut left = ids.into_iter();
            for id in left.by_ref() {
                let answer = get(&[id]).await.map(|mut found| found.pop()).map_err(Arc::new);
                let goes_on = answer.as_ref().map_or_else(|error| is_of_one(error), |_| true);
                tell(callers, id, answer);
                if !goes_on {
                    break;
                }
            }
            // Dropped answers say that the database is away.
            left.for_each(|id| drop(callers.remove(&id)));
        }
        Err(error) => {
            let answer = Err(Arc::new(error));
            for id in ids {
                tell(callers, id, answer.clone());
            }
        }
    }
    bytes
}

/// Whether a prediction may be at fault, and not the database.
fn is_of_one(error: &StoreError) -> bool {
    matches!(error, StoreError::Refused(_) | StoreError::Corrupt(_))
}

/// Answers those who still wait for this prediction.
fn tell(callers: &mut ById, id: PredictionId, answer: Found) {
    let mut waiting = callers.remove(&id).unwrap_or_default();
    let last = waiting.pop();
    for caller in waiting {
        let _ = caller.send(answer.clone());
    }
    if let Some(last) = last {
        let _ = last.send(answer);
    }
}
