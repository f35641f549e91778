//! What all parts of one worker share, and the one way in which they call the store.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
    time::{Duration, Instant},
};

use futures::TryFutureExt;
use inference::{Audience, Device, Models};
use prediction::{ModelName, WorkerId};
use queue::Queue;
use store::{Claimed, Store, StoreError};
use tokio::sync::{Mutex, Notify, SetOnce};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Config,
    complete::Outcomes,
    held::Held,
    outage::{Outage, Trouble},
    run,
    slots::{AllSlots, Taken},
    tell::Finished,
};

/// Why a worker can do nothing more in its process.
pub(crate) enum Broken {
    /// This model cannot be run any more on what it runs on.
    Model(ModelName, Device),
    /// The database has not the tables any more that this program knows.
    Schema,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model(model, device) => write!(f, "{model} can run on {device} no more in this process"),
            Self::Schema => write!(f, "the database's schema has become another one"),
        }
    }
}

/// One worker.
pub(crate) struct Node {
    pub(crate) id: WorkerId,
    pub(crate) store: Store,
    pub(crate) queue: Queue,
    pub(crate) models: Models,
    pub(crate) config: Config,
    pub(crate) slots: AllSlots,
    pub(crate) held: Arc<Held>,
    /// Those who read along with what is held.
    pub(crate) audience: Audience,
    pub(crate) outcomes: Outcomes,
    pub(crate) finished: Finished,
    /// Held while what is served is told, so that no older word comes after a newer one.
    pub(crate) publishing: Mutex<()>,
    /// Deliveries were made due.
    pub(crate) due: Notify,
    pub(crate) outage: Outage,
    /// Completions that the store refused so far.
    pub(crate) stale: AtomicU64,
    /// Other versions can be run than before.
    pub(crate) other_versions: Notify,
    /// Somebody saw a suspect.
    pub(crate) suspects: Notify,
    /// Another node was the dispatcher when this one last asked to be.
    pub(crate) another_leads: AtomicBool,
    /// Why this worker can do nothing more in this process, if so.
    pub(crate) broken: SetOnce<Broken>,
    /// Nothing new is taken.
    pub(crate) stop: CancellationToken,
    /// The grace is over: what still runs goes back.
    pub(crate) hand_back: CancellationToken,
    /// Nothing more is done at all.
    pub(crate) over: CancellationToken,
    /// Counts the runs and the parts that start them.
    pub(crate) tasks: TaskTracker,
}

impl Node {
    pub(crate) fn new(
        store: Store,
        queue: Queue,
        models: Models,
        config: Config,
        outcomes: Outcomes,
        finished: Finished,
        stop: CancellationToken,
    ) -> Self {
        Self {
            id: WorkerId::generate(),
            slots: AllSlots::new(config.slots),
            held: Arc::default(),
            audience: Audience::default(),
            outage: Outage::default(),
            stale: AtomicU64::new(0),
            other_versions: Notify::new(),
            suspects: Notify::new(),
            another_leads: AtomicBool::new(false),
            publishing: Mutex::new(()),
            due: Notify::new(),
            broken: SetOnce::new(),
            hand_back: CancellationToken::new(),
            over: CancellationToken::new(),
            tasks: TaskTracker::new(),
            store,
            queue,
            models,
            config,
            outcomes,
            finished,
            stop,
        }
    }

    /// Waits for the store's answer, one lease at most: a later one would be of no use, and a connection may hang for ever.
    pub(crate) async fn ask<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, Trouble> {
        self.ask_within(self.config.lease, call).await
    }

    /// The same with a patience of its own.
    pub(crate) async fn ask_within<T>(
        &self,
        patience: Duration,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, Trouble> {
        let call = call.inspect_err(|error| {
            if matches!(error, StoreError::Schema) {
                // Somebody else may have said so.
                let _ = self.broken.set(Broken::Schema);
            }
        });
        self.outage.ask(patience, call).await
    }

    /// Waits; false as soon as the worker stops.
    pub(crate) async fn pause(&self, time: Duration) -> bool {
        self.stop.run_until_cancelled(tokio::time::sleep(time)).await.is_some()
    }

    /// A task that the stop waits for, until everything is over.
    pub(crate) fn awaited(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let over = self.over.clone();
        self.tasks.track_future(async move {
            over.run_until_cancelled(task).await;
        })
    }

    /// Runs what was claimed together. `claimed_at`: before the claim was sent.
    pub(crate) fn start(self: &Arc<Self>, claimed: Vec<Claimed>, claimed_at: Instant, slots: Option<Taken>) {
        let node = Arc::clone(self);
        tokio::spawn(self.awaited(async move { run::run(&node, claimed, claimed_at, slots).await }));
    }
}
