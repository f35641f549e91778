//! The apalis backend that both kinds of queue share, and the apalis worker that runs handlers over it.

use crate::{Handled, Handler, delivery::Delivery};
use apalis::prelude::{Backend, Identity, Task, WorkerBuilder, WorkerContext};
use apalis_core::backend::{BackendConfig, finalize::Ephemeral};
use futures::{FutureExt, future::BoxFuture};
use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long to wait before a worker that ended by itself is started again.
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// Emits the deliveries that a task of ours feeds it. It never emits an error: apalis would end the worker and drop
/// the handlers that run. Who feeds it deals with errors, and bounds the deliveries that are not settled yet.
pub(crate) struct TicketBackend {
    deliveries: mpsc::Receiver<Delivery>,
    /// Ends what feeds the backend, once no delivery is left in it; dropping it unpolled ends that at once.
    closing: BoxFuture<'static, ()>,
}

impl TicketBackend {
    pub(crate) fn new(
        deliveries: mpsc::Receiver<Delivery>,
        closing: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self { deliveries, closing: closing.boxed() }
    }
}

impl Backend for TicketBackend {
    type Task = Task<Delivery>;
    type Error = Infallible;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(
        &mut self,
        context: &mut Context<'_>,
        worker: &WorkerContext,
    ) -> Poll<Option<Result<Self::Task, Infallible>>> {
        let delivery = futures::ready!(self.deliveries.poll_recv(context));
        if delivery.is_none() {
            // An exhausted worker would wait for ever for somebody to stop it. It is already stopped at worst.
            let _ = worker.stop();
        }
        Poll::Ready(delivery.map(|delivery| Ok(Task::new(delivery))))
    }

    fn poll_close(&mut self, context: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        self.deliveries.close();
        while self.deliveries.try_recv().is_ok() {
            // Dropped, and thereby returned.
        }
        self.closing.poll_unpin(context).map(Ok)
    }
}

impl BackendConfig for TicketBackend {
    type Args = Delivery;
    type Id = u64;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = Identity;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Identity {
        Identity::new()
    }
}

/// Runs workers until `stop`: one, unless it ends by itself. Each has a random name, so that none is taken for its
/// predecessor, whose tickets might then never be handed to others.
pub(crate) async fn consume(backend: impl Fn(&str) -> TicketBackend, handler: Handler, stop: &CancellationToken) {
    loop {
        let name = Uuid::new_v4().simple().to_string();
        work(&name, backend(&name), Arc::clone(&handler), stop).await;
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RESTART_DELAY) => tracing::error!(worker = name, "worker ended by itself, another is started"),
        }
    }
}

async fn work(name: &str, backend: TicketBackend, handler: Handler, stop: &CancellationToken) {
    let context = WorkerContext::new(name);
    let worker = WorkerBuilder::new(&context)
        .backend(backend)
        .build(move |delivery: Delivery| handle(Arc::clone(&handler), delivery))
        .run()
        .boxed();
    tokio::pin!(worker);
    let ended = tokio::select! {
        // The worker first: one that was never polled cannot be stopped.
        biased;
        ended = &mut worker => ended,
        () = stop.cancelled() => {
            // It fails only on a worker that has not started.
            let _ = context.stop();
            worker.await
        }
    };
    if let Err(error) = ended {
        tracing::error!(worker = name, %error, "worker failed");
    }
}

/// Runs the handler; its panic ends nothing else.
async fn handle(handler: Handler, mut delivery: Delivery) {
    let Some((tickets, slots)) = delivery.hand_over() else { return };
    let count = tickets.len();
    match AssertUnwindSafe(async { handler(tickets, slots).await }).catch_unwind().await {
        Ok(handled) => delivery.settle(handled),
        // Returned, they would panic for ever; forgotten, they come back when the store still wants them.
        Err(_) => {
            tracing::error!(count, "the handler of tickets panicked");
            delivery.settle(Handled::Done);
        }
    }
}
