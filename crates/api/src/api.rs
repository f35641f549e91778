//! What all handlers share.

use std::sync::Arc;

use axum::body::Bytes;
use prediction::PredictionId;
use queue::Queue;
use store::{Accepted, Accepter, Companion, Finder, NewPrediction, Store, Waiters};
use tokio::sync::{OnceCell, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Config,
    admission::{Admission, Bounds},
    bodies::{Bodies, Room},
    cached::Cached,
    catalog::Catalog,
    cursor::Signer,
    extract::BodyBounds,
    keys::{Caller, Keys},
    patience::Patience,
    places::Places,
    problem::{Kind, Problem},
    queue::Counted,
    webhooks::{Vetted, Webhooks},
};

/// How many flushers combine accepted predictions into transactions: two beat one and four when measured.
const FLUSHERS: usize = 2;
/// The most predictions in one of those transactions.
const MOST_PER_TRANSACTION: usize = 1024;

/// The most batches of look-ups under way at once: as many as a store has connections by default, so that a few that take long
/// keep nobody else waiting.
const READS: usize = 16;

/// Bodies larger than this keep their room until the store has answered, even when their callers have gone: the accepter still
/// holds them. Of smaller ones it holds a few thousand at most.
const LARGE: usize = 16 * 1024;
/// Requests looked up at once whether they were made before, so that those who are refused do not take the connections of those who are not.
const REPEATS: usize = 4;

/// The parts of a running API.
pub(crate) struct Api {
    pub(crate) store: Store,
    pub(crate) queue: Queue,
    pub(crate) config: Config,
    /// Its own address as callers use it, without a trailing slash.
    pub(crate) base: String,
    pub(crate) accepter: Accepter,
    finder: Finder,
    pub(crate) keys: Keys,
    /// Whether the queue has room.
    pub(crate) admission: Admission,
    bodies: Bodies,
    repeats: Semaphore,
    /// Room for streams that follow predictions.
    pub(crate) streams: Arc<Places>,
    pub(crate) catalog: Catalog,
    pub(crate) queues: Cached<Counted>,
    pub(crate) waiters: Waiters,
    /// Whether a worker of the same process tells them how predictions ended.
    pub(crate) is_told_of_ends: bool,
    /// Where webhooks were found to be allowed of late.
    pub(crate) vetted: Vetted,
    /// The OpenAPI document.
    pub(crate) openapi: Bytes,
    /// Set when the API stops: whoever waits is answered.
    pub(crate) stop: CancellationToken,
    /// Work that goes on when the request that began it is gone.
    pub(crate) tasks: TaskTracker,
    signer: OnceCell<Signer>,
    patience: Patience,
}

impl Api {
    pub(crate) fn new(
        store: Store,
        queue: Queue,
        worker: Option<Companion>,
        config: Config,
        base: String,
        openapi: Bytes,
        stop: CancellationToken,
    ) -> Self {
        let push_to = queue.clone();
        let enqueue: store::Enqueue = Arc::new(move |tickets| {
            let queue = push_to.clone();
            Box::pin(async move { queue.push(tickets).await })
        });
        let patience = Patience(config.store_patience);
        let is_told_of_ends = worker.is_some();
        let (taker, waiters) = worker.map(|worker| (worker.taker, worker.waiters)).unzip();
        Self {
            accepter: Accepter::start(store.clone(), enqueue, taker, FLUSHERS, MOST_PER_TRANSACTION),
            finder: Finder::start(&store, READS, config.store_patience),
            keys: Keys::new(store.clone(), patience, config.key_share, config.require_keys),
            admission: Admission::new(Bounds { predictions: config.queue_limit, work: config.queue_time_limit }),
            // The largest body must fit at least while there is no other.
            bodies: Bodies::new(config.body_memory.max(config.body_limit)),
            repeats: Semaphore::new(REPEATS),
            streams: Places::new(config.stream_limit),
            catalog: Catalog::new(store.clone(), patience),
            queues: Cached::empty(),
            waiters: waiters.unwrap_or_default(),
            is_told_of_ends,
            vetted: Vetted::default(),
            signer: OnceCell::new(),
            tasks: TaskTracker::new(),
            patience,
            store,
            queue,
            config,
            base,
            openapi,
            stop,
        }
    }

    /// Awaits a call on the store, but not for long.
    pub(crate) fn in_time<T, E: Into<Problem>>(
        &self,
        call: impl Future<Output = Result<T, E>>,
    ) -> impl Future<Output = Result<T, Problem>> {
        self.patience.in_time(call)
    }

    /// The prediction, if it exists and is the caller's.
    pub(crate) async fn find(
        &self,
        caller: &Caller,
        id: PredictionId,
    ) -> Result<Option<prediction::Prediction>, Problem> {
        self.in_time(self.finder.find(caller.tenant(), id)).await
    }

    /// The prediction, if it exists, whosever it is: for whoever has shown that it may be read.
    pub(crate) async fn find_any(&self, id: PredictionId) -> Result<Option<prediction::Prediction>, Problem> {
        self.in_time(self.finder.find_any(id)).await
    }

    /// Whose the prediction is.
    pub(crate) async fn owner(&self, id: PredictionId) -> Result<Caller, Problem> {
        let tenant = self.in_time(self.store.tenant_of(id)).await?;
        tenant.map(|tenant| self.keys.owner(&tenant)).ok_or_else(Problem::not_found)
    }

    /// Stores a new prediction, whose body has this room.
    pub(crate) async fn accept(&self, new: NewPrediction, room: &Arc<Room>) -> Result<Accepted, Problem> {
        if new.input.get().len() <= LARGE {
            return self.in_time(Box::pin(self.accepter.accept(new))).await;
        }
        let (accepter, room) = (self.accepter.clone(), Arc::clone(room));
        let storing = self.tasks.spawn(async move {
            let _room = room;
            accepter.accept(new).await
        });
        self.in_time(async { storing.await.map_err(|_| Problem::internal())?.map_err(Problem::from) }).await
    }

    /// What became of this request when it was accepted before, if it was.
    pub(crate) async fn accepted_before(&self, new: &NewPrediction) -> Result<Option<Accepted>, Problem> {
        let looking_up = async {
            // Never closed.
            let _turn = self.repeats.acquire().await;
            self.store.accepted_before(new).await
        };
        self.in_time(looking_up).await
    }

    /// What webhooks need, on a server that sends them.
    pub(crate) fn webhooks(&self) -> Result<&Webhooks, Problem> {
        let off = || Problem::new(Kind::WebhooksOff, "This server sends no webhooks: it has no webhook key.");
        self.config.webhooks.as_ref().ok_or_else(off)
    }

    /// What signs cursors.
    pub(crate) async fn signer(&self) -> Result<&Signer, Problem> {
        self.signer.get_or_try_init(|| async { self.in_time(self.store.secret()).await.map(Signer::new) }).await
    }

    /// What opens a prediction's stream; nothing while the store does not say what signs.
    pub(crate) async fn capability(&self, id: PredictionId) -> Option<String> {
        Some(self.signer().await.ok()?.capability(id))
    }

    /// Bounds of request bodies.
    pub(crate) fn body_bounds(&self) -> BodyBounds<'_> {
        BodyBounds { bytes: self.config.body_limit, time: self.config.read_timeout, bodies: &self.bodies }
    }
}
