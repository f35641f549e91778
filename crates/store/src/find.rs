//! Group reading: look-ups that arrive while a statement is answered form the next one.

use std::{collections::HashMap, future::Future, panic::AssertUnwindSafe, sync::Arc};

use futures::{FutureExt, future::join_all};
use prediction::{Prediction, PredictionId};
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    task::yield_now,
};

use crate::{Store, StoreError, take_turn, turn::take};

/// The most predictions in one statement: each may have megabytes.
const MAX_BATCH: usize = 32;

/// Combines concurrent look-ups of single predictions into statements for many.
#[derive(Clone)]
pub struct Finder {
    wanted: mpsc::Sender<Wanted>,
}

type Answer = Result<Option<Prediction>, Arc<StoreError>>;

/// What one caller looks up.
struct Wanted {
    /// Whose it must be, unless it may be anybody's.
    tenant: Option<String>,
    id: PredictionId,
    answer: oneshot::Sender<Answer>,
}

/// Who waits for what.
type ById = HashMap<PredictionId, Vec<oneshot::Sender<Answer>>>;

impl Finder {
    /// Starts `readers` tasks, each taking what waits. They end with the last handle.
    #[must_use]
    pub fn start(store: &Store, readers: usize) -> Self {
        let (wanted, waiting) = mpsc::channel(MAX_BATCH * 4);
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..readers.max(1) {
            tokio::spawn(read_all(store.clone(), Arc::clone(&waiting)));
        }
        Self { wanted }
    }

    /// The prediction, if it exists and is the tenant's, as it is after this was called.
    ///
    /// # Errors
    /// As [`Store::get`]; when the database is away, shared by all callers of the same statement.
    pub fn find(&self, tenant: &str, id: PredictionId) -> impl Future<Output = Answer> + Send {
        self.look_up(Some(tenant), id)
    }

    /// The same, whosever it is.
    ///
    /// # Errors
    /// As above.
    pub fn find_any(&self, id: PredictionId) -> impl Future<Output = Answer> + Send {
        self.look_up(None, id)
    }

    fn look_up(&self, tenant: Option<&str>, id: PredictionId) -> impl Future<Output = Answer> + Send + use<> {
        let (answer, answered) = oneshot::channel();
        let (wanted, job) = (self.wanted.clone(), Wanted { tenant: tenant.map(str::to_owned), id, answer });
        async move {
            let gone = || Arc::new(StoreError::Unavailable(sqlx::Error::WorkerCrashed));
            wanted.send(job).await.map_err(|_| gone())?;
            answered.await.map_err(|_| gone())?
        }
    }
}

/// Takes what waits and reads it, until the last handle is gone.
async fn read_all(store: Store, waiting: Arc<Mutex<mpsc::Receiver<Wanted>>>) {
    loop {
        let mut turn = waiting.lock().await;
        let Some(first) = turn.recv().await else { return };
        // Who was woken with the first caller asks at the same moment.
        yield_now().await;
        let wanted = take(first, || turn.try_recv().ok(), |_| 1, MAX_BATCH);
        let reading = async {
            // A panic drops the batch's answers, which tells its callers; the next batch is not its business.
            if AssertUnwindSafe(read(&store, wanted)).catch_unwind().await.is_err() {
                tracing::error!("looking up a batch of predictions panicked");
            }
        };
        take_turn(turn, reading).await;
    }
}

/// Answers a batch: one statement for each tenant, and one for what may be anybody's.
async fn read(store: &Store, wanted: Vec<Wanted>) {
    let mut tenants: HashMap<Option<String>, ById> = HashMap::new();
    for Wanted { tenant, id, answer } in wanted {
        // Who has gone needs no answer.
        if !answer.is_closed() {
            tenants.entry(tenant).or_default().entry(id).or_default().push(answer);
        }
    }
    join_all(tenants.iter_mut().map(|(tenant, callers)| read_for(store, tenant.as_deref(), callers))).await;
}

/// Answers all callers of one tenant's, or of anybody's. What cannot be read together is read one by one: the fault is one
/// prediction's.
async fn read_for(store: &Store, tenant: Option<&str>, callers: &mut ById) {
    let get = async |ids: &[PredictionId]| match tenant {
        Some(tenant) => store.get(tenant, ids).await,
        None => store.predictions(ids).await,
    };
    let ids: Vec<PredictionId> = callers.keys().copied().collect();
    match get(&ids).await {
        Ok(found) => {
            for prediction in found {
                tell(callers, prediction.id, Ok(Some(prediction)));
            }
            for id in ids {
                tell(callers, id, Ok(None));
            }
        }
        Err(StoreError::Refused(_) | StoreError::Corrupt(_)) if ids.len() > 1 => {
            for id in ids {
                let answer = get(&[id]).await.map(|mut found| found.pop()).map_err(Arc::new);
                tell(callers, id, answer);
            }
        }
        Err(error) => {
            let answer = Err(Arc::new(error));
            for id in ids {
                tell(callers, id, answer.clone());
            }
        }
    }
}

/// Answers those who still wait for this prediction.
fn tell(callers: &mut ById, id: PredictionId, answer: Answer) {
    let mut waiting = callers.remove(&id).unwrap_or_default();
    let last = waiting.pop();
    for caller in waiting {
        let _ = caller.send(answer.clone());
    }
    if let Some(last) = last {
        let _ = last.send(answer);
    }
}
