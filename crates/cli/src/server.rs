//! API, worker and sender of webhooks in one process, on one store and one queue: started in order, stopped in order.

use std::{array, future::Future, net::SocketAddr};

use api::Routes;
use inference::Models;
use queue::Queue;
use settings::{Fatal, ListenSettings, WebhookSettings};
use store::StoreError;
use tokio::{
    sync::oneshot,
    task::{JoinHandle, spawn_blocking},
};
use tokio_util::sync::CancellationToken;
use webhook::{Guard, Policy};

use crate::{parts::open_store, webhook_key::KeyPlace};

/// Connections that may wait to be taken; more are refused by the system.
const BACKLOG: u32 = 1024;

/// What to start.
pub(crate) struct Plan {
    pub(crate) listen: ListenSettings,
    pub(crate) store: store::Location,
    pub(crate) migrate: bool,
    pub(crate) queue: queue::Location,
    pub(crate) queue_config: queue::Config,
    pub(crate) models: inference::Config,
    pub(crate) worker: worker::Config,
    /// Without its webhooks: those are made of the plan's.
    pub(crate) api: api::Config,
    pub(crate) webhooks: WebhookPlan,
}

/// How webhooks are sent, if there is a key for them.
pub(crate) struct WebhookPlan {
    pub(crate) policy: Policy,
    pub(crate) key: KeyPlace,
    pub(crate) in_flight: usize,
}

/// A server at work.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    store: store::Store,
    api: JoinHandle<()>,
    worker: JoinHandle<Result<(), StoreError>>,
    sender: Option<JoinHandle<Result<(), StoreError>>>,
    stop_api: CancellationToken,
    stop_worker: CancellationToken,
    stop_sender: CancellationToken,
    /// Cancelled when a part ends, however it comes.
    over: CancellationToken,
}

impl Server {
    /// Starts everything. Listens only when the worker is ready, so that the first request is served.
    pub(crate) async fn start(mut plan: Plan, stop: &CancellationToken) -> Result<Self, Fatal> {
        let socket = plan.listen.bind()?;
        let base = plan.api.base(socket.local_addr()?);
        let routes = async { Ok(spawn_blocking(move || Routes::new(base)).await??) };
        let models = async {
            let loaded = spawn_blocking(move || Models::load(&plan.models)).await?;
            loaded.map_err(Fatal::from)
        };
        let opening = async {
            let store = open_store(&plan.store, plan.migrate).await?;
            plan.listen.check(store.valid_api_keys().await?.is_some())?;
            Ok(store)
        };
        let (routes, store, models) = tokio::try_join!(routes, opening, models)?;
        let sealer = plan.webhooks.key.found_or_made()?;
        let queue = Queue::open(&plan.queue, plan.queue_config).await?;

        let [stop_api, stop_worker, stop_sender, over] = array::from_fn(|_| CancellationToken::new());
        let (ready, is_ready) = oneshot::channel();
        let working = worker::run(
            store.clone(),
            queue.clone(),
            models,
            plan.worker,
            move |companion| {
                // Nobody waits any more when the server is stopped meanwhile.
                let _ = ready.send(companion);
            },
            stop_worker.clone(),
        );
        let worker = watched(&over, working);
        let became_ready = tokio::select! {
            told = is_ready => told.ok(),
            () = stop.cancelled() => None,
        };
        let Some(companion) = became_ready else {
            stop_worker.cancel();
            worker.await??;
            return Err(Fatal::new("stopped before it was ready"));
        };

        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        let sender = sealer.as_ref().map(|sealer| {
            let config = worker::DeliveryConfig {
                guard: Guard::new(plan.webhooks.policy.clone()),
                sealer: sealer.clone(),
                in_flight: plan.webhooks.in_flight,
                grace: plan.api.grace,
                public_url: Some(plan.api.base(address)),
            };
            watched(&over, worker::deliver(store.clone(), queue.clone(), config, stop_sender.clone()))
        });
        if sender.is_none() {
            tracing::info!("{}", WebhookSettings::OFF);
        }
        // With a resolver of its own: look-ups that callers ask for must not keep the sender's waiting.
        let guard = Guard::new(plan.webhooks.policy);
        plan.api.webhooks = sealer.map(|sealer| api::Webhooks { guard, sealer });
        let serving = api::serve(store.clone(), queue, Some(companion), plan.api, routes, listener, stop_api.clone());
        let api = watched(&over, serving);
        Ok(Self { address, store, api, worker, sender, stop_api, stop_worker, stop_sender, over })
    }

    /// Serves until `stop`, then stops. A part that ends by itself stops the rest.
    pub(crate) async fn run_until(self, stop: CancellationToken) -> Result<(), Fatal> {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.over.cancelled() => {}
        }
        self.stop().await?;
        if stop.is_cancelled() { Ok(()) } else { Err(Fatal::new("the server ended by itself")) }
    }

    /// Stops: first nothing more is taken in, then what runs is finished or handed back. The sender goes on until then, so that
    /// it hears of what finished late; then it takes no more, and what it has not sent is due at the next start.
    pub(crate) async fn stop(self) -> Result<(), Fatal> {
        self.stop_api.cancel();
        let api = self.api.await;
        self.stop_worker.cancel();
        let worker = self.worker.await;
        self.stop_sender.cancel();
        let sender = match self.sender {
            Some(sender) => sender.await,
            None => Ok(Ok(())),
        };
        self.store.close().await;
        api?;
        worker??;
        sender??;
        Ok(())
    }
}

/// Starts a part whose end, however it comes, is told.
fn watched<T: Send + 'static>(
    over: &CancellationToken,
    part: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    let guard = over.clone().drop_guard();
    tokio::spawn(async move {
        let _over = guard;
        part.await
    })
}
