//! API and worker in one process, on one store and one queue: started in order, stopped in order.

use std::net::SocketAddr;

use inference::Models;
use queue::Queue;
use settings::Fatal;
use store::StoreError;
use tokio::{
    net::TcpSocket,
    sync::oneshot,
    task::{JoinHandle, spawn_blocking},
};
use tokio_util::sync::CancellationToken;

use crate::parts::open_store;

/// Connections that may wait to be taken; more are refused by the system.
const BACKLOG: u32 = 1024;

/// What to start.
pub(crate) struct Plan {
    pub(crate) store: store::Location,
    pub(crate) migrate: bool,
    pub(crate) queue: queue::Location,
    pub(crate) queue_config: queue::Config,
    pub(crate) models: inference::Config,
    pub(crate) worker: worker::Config,
    pub(crate) api: api::Config,
}

/// A server at work.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    store: store::Store,
    api: JoinHandle<std::io::Result<()>>,
    worker: JoinHandle<Result<(), StoreError>>,
    stop_api: CancellationToken,
    stop_worker: CancellationToken,
    /// Cancelled when a part ends, however it comes.
    over: CancellationToken,
}

impl Server {
    /// Starts everything. Listens at `socket` only when the worker is ready, so that the first request is served.
    pub(crate) async fn start(plan: Plan, socket: TcpSocket, stop: &CancellationToken) -> Result<Self, Fatal> {
        let models = async {
            let loaded = spawn_blocking(move || Models::load(&plan.models)).await?;
            loaded.map_err(Fatal::from)
        };
        let (store, models) = tokio::try_join!(open_store(&plan.store, plan.migrate), models)?;
        let queue = Queue::open(&plan.queue, plan.queue_config).await?;

        let (stop_api, stop_worker, over) =
            (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let (ready, is_ready) = oneshot::channel();
        let working = worker::run(
            store.clone(),
            queue.clone(),
            models,
            plan.worker,
            move || {
                // Nobody waits any more when the server is stopped meanwhile.
                let _ = ready.send(());
            },
            stop_worker.clone(),
        );
        let guard = over.clone().drop_guard();
        let worker = tokio::spawn(async move {
            let _over = guard;
            working.await
        });
        let became_ready = tokio::select! {
            told = is_ready => told.is_ok(),
            () = stop.cancelled() => false,
        };
        if !became_ready {
            stop_worker.cancel();
            worker.await??;
            return Err(Fatal::new("stopped before it was ready"));
        }

        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        let serving = api::serve(store.clone(), queue, plan.api, listener, stop_api.clone());
        let guard = over.clone().drop_guard();
        let api = tokio::spawn(async move {
            let _over = guard;
            serving.await
        });
        Ok(Self { address, store, api, worker, stop_api, stop_worker, over })
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

    /// Stops: first nothing more is taken in, then what runs is finished or handed back.
    pub(crate) async fn stop(self) -> Result<(), Fatal> {
        self.stop_api.cancel();
        let api = self.api.await;
        self.stop_worker.cancel();
        let worker = self.worker.await;
        self.store.close().await;
        api??;
        worker??;
        Ok(())
    }
}
