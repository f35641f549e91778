//! What all handlers share.

use std::sync::Arc;

use axum::body::Bytes;
use prediction::PredictionId;
use queue::Queue;
use store::{Accepter, Store};
use tokio::sync::OnceCell;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Config,
    cached::Cached,
    catalog::Catalog,
    cursor::Signer,
    extract::BodyBounds,
    patience::from_store,
    problem::{Kind, Problem},
    waiters::Waiters,
    webhooks::{Vetted, Webhooks},
};

/// Whose predictions these are, while there are no API keys.
pub(crate) const TENANT: &str = "";

/// How many flushers combine accepted predictions into transactions: two beat one and four when measured.
const FLUSHERS: usize = 2;
/// The most predictions in one of those transactions.
const MOST_PER_TRANSACTION: usize = 1024;

/// The parts of a running API.
pub(crate) struct Api {
    pub(crate) store: Store,
    pub(crate) queue: Queue,
    pub(crate) config: Config,
    /// Its own address as callers use it, without a trailing slash.
    pub(crate) base: String,
    pub(crate) accepter: Accepter,
    pub(crate) catalog: Catalog,
    pub(crate) queues: Cached<Vec<store::ModelQueue>>,
    pub(crate) waiters: Waiters,
    /// Where webhooks were found to be allowed of late.
    pub(crate) vetted: Vetted,
    /// The OpenAPI document.
    pub(crate) openapi: Bytes,
    /// Set when the API stops: whoever waits is answered.
    pub(crate) stop: CancellationToken,
    /// Work that goes on when the request that began it is gone.
    pub(crate) tasks: TaskTracker,
    signer: OnceCell<Signer>,
}

impl Api {
    pub(crate) fn new(
        store: Store,
        queue: Queue,
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
        Self {
            accepter: Accepter::start(store.clone(), enqueue, FLUSHERS, MOST_PER_TRANSACTION),
            catalog: Catalog::new(store.clone()),
            queues: Cached::empty(),
            waiters: Waiters::default(),
            vetted: Vetted::default(),
            signer: OnceCell::new(),
            tasks: TaskTracker::new(),
            store,
            queue,
            config,
            base,
            openapi,
            stop,
        }
    }

    /// The prediction, if it exists and is the caller's.
    pub(crate) async fn find(&self, id: PredictionId) -> Result<Option<prediction::Prediction>, Problem> {
        Ok(from_store(self.store.get(TENANT, &[id])).await?.pop())
    }

    /// What webhooks need, on a server that sends them.
    pub(crate) fn webhooks(&self) -> Result<&Webhooks, Problem> {
        let off = || Problem::new(Kind::WebhooksOff, "This server sends no webhooks: it has no webhook key.");
        self.config.webhooks.as_ref().ok_or_else(off)
    }

    /// What signs cursors.
    pub(crate) async fn signer(&self) -> Result<&Signer, Problem> {
        self.signer.get_or_try_init(|| async { from_store(self.store.secret()).await.map(Signer::new) }).await
    }

    /// Bounds of request bodies.
    pub(crate) fn body_bounds(&self) -> BodyBounds {
        BodyBounds { bytes: self.config.body_limit, time: self.config.read_timeout }
    }
}
