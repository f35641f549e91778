//! HTTP in, rows and tickets out: the `/v1` API, its documentation and health. [`serve`] is all there is to call.

mod admission;
mod api;
mod bodies;
mod cached;
mod capability;
mod catalog;
mod cursor;
mod deadlines;
mod docs;
mod extract;
mod fields;
mod fingerprint;
mod headers;
mod health;
mod json;
mod keys;
mod models;
mod offer;
mod pace;
mod pages;
mod patience;
mod places;
mod predictions;
mod problem;
mod query;
mod queue;
mod respond;
mod routes;
mod server;
mod validate;
mod waiters;
mod webhooks;

pub use keys::PlainKey;
pub use patience::STORE_PATIENCE;
pub use routes::Routes;
pub use webhooks::Webhooks;

use ::queue::Queue;
use axum::middleware::from_fn_with_state;
use settings::run_beside;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use store::{Companion, Store};
use tokio::{net::TcpListener, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{api::Api, respond::Responder, server::Timeouts};

/// How the API behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address callers use; `http://<listen address>` when absent.
    pub public_url: Option<String>,
    /// The most bytes of a request body.
    pub body_limit: usize,
    /// The most bytes of request bodies held at once, each counted as at least 4096; at least `body_limit` are.
    pub body_memory: usize,
    /// The most predictions that wait.
    pub queue_limit: u32,
    /// The most work that waits for a version, as the time that its workers take for it.
    pub queue_time_limit: Option<Duration>,
    /// The most of the queue that one API key may fill unless it has a share of its own: above 0, up to 1.
    pub key_share: f64,
    /// Whether requests need an API key even while none was ever made.
    pub require_keys: bool,
    /// The most streams at once that follow predictions.
    pub stream_limit: usize,
    /// How long request headers, and then the body, may take to arrive.
    pub read_timeout: Duration,
    /// How long a client may read nothing of its answer.
    pub write_timeout: Duration,
    /// How long a request waits for one call on the store before its caller is told that it is away.
    pub store_patience: Duration,
    /// How long records of finished predictions are kept.
    pub retention: Duration,
    /// Whether predictions for a known version that no live worker serves are accepted.
    pub queue_unserved: bool,
    /// How long a stopping API lets requests finish.
    pub grace: Duration,
    /// What webhooks need; without it they are refused.
    pub webhooks: Option<Webhooks>,
}

impl Config {
    /// The address callers use, without a trailing slash, of an API that listens at `address`.
    #[must_use]
    pub fn base(&self, address: SocketAddr) -> String {
        let given = self.public_url.as_ref().map(|url| url.trim_end_matches('/').to_owned());
        given.unwrap_or_else(|| format!("http://{address}"))
    }
}

/// Serves until `stop`; then accepts no more connections, lets the requests under way finish within the grace time
/// (those who wait for a prediction are answered at once), and commits all that has been accepted. `worker`: one in the same
/// process, if there is one.
///
/// # Panics
/// When a part of the API panicked: it stops as above first.
pub async fn serve(
    store: Store,
    queue: Queue,
    worker: Option<Companion>,
    config: Config,
    routes: Routes,
    listener: TcpListener,
    stop: CancellationToken,
) {
    let Routes { open, streams, keyed, document, base } = routes;
    let grace = config.grace;
    let timeouts = Timeouts { read: config.read_timeout, write: config.write_timeout };
    let stop = stop.child_token();
    let api = Arc::new(Api::new(store, queue, worker, config, base, document, stop.clone()));
    let keyed = keyed.route_layer(from_fn_with_state(Arc::clone(&api), keys::require));
    // So that the first requests find the keys. Without an answer they are told that the store is away, until there is one.
    let _ = api.keys.refresh().await;

    let mut background = JoinSet::new();
    background.spawn(waiters::run(Arc::clone(&api)));
    background.spawn(keys::keep_reading(Arc::clone(&api)));
    background.spawn(refresh_catalog(Arc::clone(&api)));
    background.spawn(deadlines::keep(Arc::clone(&api)));
    background.spawn(admission::keep_counting(Arc::clone(&api)));
    background.spawn(api.queue.clone().watch());
    let responder = Responder::new(open.merge(streams).merge(keyed).with_state(Arc::clone(&api)), &api.base);
    let serving = async {
        server::run(listener, responder, timeouts, grace, stop.clone()).await;
        api.tasks.close();
        let finishing = async { tokio::join!(api.tasks.wait(), api.accepter.drain()) };
        if timeout(grace, finishing).await.is_err() {
            tracing::warn!("the store did not take what was still being accepted");
        }
    };
    run_beside(&mut background, &stop, serving).await;
}

/// Keeps the catalog fresh, so that accepting a prediction reads nothing.
async fn refresh_catalog(api: Arc<Api>) {
    let mut ticks = tokio::time::interval(catalog::REFRESH);
    loop {
        ticks.tick().await;
        // Without an answer the last catalog goes on being used; the store's absence is logged where it is noticed.
        let _ = api.catalog.versions().await;
    }
}
