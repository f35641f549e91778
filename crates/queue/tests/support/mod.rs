//! What the suites share: streams, tickets, and consumers that record what they were handed.

use futures::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use prediction::{PredictionId, Priority, StreamKey, Ticket};
use queue::{Config, Handled, Handler, Queue, Room, Slots};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// How long a test waits for what must happen: so long that only what never happens takes it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A queue whose Redis may be as slow as a busy machine is.
pub(crate) fn config() -> Config {
    Config { call_timeout: PATIENCE / 2, ..Config::default() }
}

pub(crate) fn stream(priority: Priority) -> StreamKey {
    let model = "augur/echo".parse().expect("a good name");
    StreamKey { model, version: "0123456789abcdef".repeat(4).parse().expect("a good version"), priority }
}

pub(crate) fn tickets(stream: &StreamKey, count: usize) -> Vec<Ticket> {
    (0..count).map(|_| Ticket { id: PredictionId::generate(), stream: stream.clone() }).collect()
}

/// A consumer in a task of its own.
pub(crate) struct Consumer {
    /// The tickets its handler was called with.
    pub(crate) handed: mpsc::UnboundedReceiver<Ticket>,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

impl Consumer {
    /// Starts one that does with each ticket what `handle` says, and keeps its slot until then.
    pub(crate) fn start(
        queue: &Queue,
        streams: &[StreamKey],
        slots: u32,
        handle: impl Fn(Ticket) -> BoxFuture<'static, Handled> + Send + Sync + 'static,
    ) -> Self {
        let (sender, handed) = mpsc::unbounded_channel();
        let handler: Handler = Arc::new(move |tickets: Vec<Ticket>, mut slots: Slots| {
            let each = |ticket: Ticket| {
                let slot = slots.split(1);
                // The test may be over.
                let _ = sender.send(ticket.clone());
                handle(ticket).inspect(move |_| drop(slot))
            };
            let all = join_all(tickets.into_iter().map(each).collect::<Vec<_>>());
            let is_returned = |all: Vec<Handled>| all.contains(&Handled::Returned);
            all.map(move |all| if is_returned(all) { Handled::Returned } else { Handled::Done }).boxed()
        });
        let (queue, streams, stop) = (queue.clone(), streams.to_vec(), CancellationToken::new());
        let stopped = stop.clone();
        let task = tokio::spawn(async move { queue.consume(streams, Room::of(slots), handler, stopped).await });
        Self { handed, stop, task }
    }

    /// Starts one that is done with each ticket at once.
    pub(crate) fn done(queue: &Queue, streams: &[StreamKey], slots: u32) -> Self {
        Self::start(queue, streams, slots, |_| async { Handled::Done }.boxed())
    }

    /// Starts one that is never done with a ticket.
    pub(crate) fn stuck(queue: &Queue, streams: &[StreamKey], slots: u32) -> Self {
        Self::start(queue, streams, slots, |_| std::future::pending().boxed())
    }

    /// Starts one that is done with a ticket for each permit that it is given.
    pub(crate) fn gated(queue: &Queue, streams: &[StreamKey], slots: u32) -> (Self, Arc<Semaphore>) {
        let gate = Arc::new(Semaphore::new(0));
        let closed = Arc::clone(&gate);
        let consumer = Self::start(queue, streams, slots, move |_| {
            let gate = Arc::clone(&closed);
            async move {
                gate.acquire().await.expect("it stays open").forget();
                Handled::Done
            }
            .boxed()
        });
        (consumer, gate)
    }

    pub(crate) async fn next(&mut self) -> Ticket {
        let next = tokio::time::timeout(PATIENCE, self.handed.recv()).await;
        next.expect("a ticket is handed out").expect("the consumer lives")
    }

    pub(crate) async fn take(&mut self, count: usize) -> Vec<Ticket> {
        let mut taken = Vec::with_capacity(count);
        for _ in 0..count {
            taken.push(self.next().await);
        }
        taken
    }

    /// Stops it, and returns what it was handed and nobody looked at.
    pub(crate) async fn finish(mut self) -> Vec<Ticket> {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.expect("the consumer ends").expect("it does not panic");
        std::iter::from_fn(|| self.handed.try_recv().ok()).collect()
    }
}

/// Waits until the condition holds.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let holds = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, holds).await.unwrap_or_else(|_| panic!("never happened: {what}"));
}
