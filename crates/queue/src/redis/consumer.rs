//! One consumer of the group: what it holds, and the tasks that read, renew and settle for it.

use super::{
    acker,
    connection::Client,
    lease,
    link::Link,
    names::{GROUP, Names, RETURNED, RETURNED_SILENCE, StreamNames},
    reader::Reader,
    scripts,
};
use crate::{Handled, backend::TicketBackend};
use prediction::StreamKey;
use redis::Pipeline;
use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// The most deliveries between the reader and their handlers.
const MOST_UNHANDLED: usize = 16;

/// How long a stopping consumer tries to tell Redis what it finished; what it cannot tell others find stale.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// What the tasks of one consumer share.
pub(crate) struct Consumer {
    pub(crate) name: String,
    pub(crate) streams: Vec<(StreamKey, StreamNames)>,
    pub(crate) lease: Duration,
    /// A ticket is taken for a free one only.
    pub(crate) slots: Arc<Semaphore>,
    held: Mutex<HashSet<Entry>>,
}

/// An entry of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Entry {
    /// Which of the consumer's streams, from 0.
    pub(crate) stream: usize,
    pub(crate) id: String,
}

/// An entry that was taken, in the hands of everyone who has some of its tickets.
#[derive(Clone)]
pub(crate) struct Shared(Arc<(Entry, AtomicBool)>);

/// Entries whose fate Redis must be told.
pub(crate) struct Settled {
    pub(crate) entries: Vec<Entry>,
    pub(crate) handled: Handled,
}

impl Shared {
    pub(crate) fn new(entry: Entry) -> Self {
        Self(Arc::new((entry, AtomicBool::new(false))))
    }

    /// Says what became of the tickets of one holder; the last one learns what becomes of the entry: it is returned if any of them
    /// were.
    pub(crate) fn settle(self, handled: Handled) -> Option<(Entry, Handled)> {
        self.0.1.fetch_or(handled == Handled::Returned, Ordering::AcqRel);
        let (entry, returned) = Arc::into_inner(self.0)?;
        Some((entry, if returned.into_inner() { Handled::Returned } else { Handled::Done }))
    }
}

impl Consumer {
    pub(crate) fn new(
        name: &str,
        names: &Names,
        streams: Vec<StreamKey>,
        slots: Arc<Semaphore>,
        lease: Duration,
    ) -> Arc<Self> {
        let streams = streams.into_iter().map(|key| (key.clone(), names.stream(&key))).collect();
        Arc::new(Self { name: name.to_owned(), streams, lease, slots, held: Mutex::default() })
    }

    pub(crate) fn held(&self) -> MutexGuard<'_, HashSet<Entry>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keys of the tickets' streams.
    pub(crate) fn tickets(&self) -> impl ExactSizeIterator<Item = &str> {
        self.streams.iter().map(|(_, names)| names.tickets.as_str())
    }

    async fn leave(&self, link: &Link) {
        let mut pipeline = Pipeline::new();
        scripts::run(&mut pipeline, &scripts::LEAVE, self.tickets())
            .arg(GROUP)
            .arg(&self.name)
            .arg(RETURNED)
            .arg(RETURNED_SILENCE)
            .ignore();
        if let Err(error) = link.query::<()>(&pipeline).await {
            tracing::debug!(%error, worker = self.name, "left without a word; others find out");
        }
    }
}

/// Starts the tasks, and returns the backend they feed.
pub(crate) fn start(
    consumer: Arc<Consumer>,
    client: &Client,
    link: &Arc<Link>,
    stop: &CancellationToken,
) -> TicketBackend {
    let (settled_sender, settled) = mpsc::unbounded_channel();
    let (sender, deliveries) = mpsc::channel(MOST_UNHANDLED);
    let reader = Reader::new(Arc::clone(&consumer), sender, settled_sender, stop.clone());
    let reader = AbortOnDropHandle::new(tokio::spawn(reader.run(client.clone())));
    let acker = AbortOnDropHandle::new(tokio::spawn(acker::settle(Arc::clone(&consumer), Arc::clone(link), settled)));
    let lease = AbortOnDropHandle::new(tokio::spawn(lease::renew(Arc::clone(&consumer), Arc::clone(link))));
    let link = Arc::clone(link);
    TicketBackend::new(deliveries, async move {
        // It ends at `stop`; every delivery is settled by then, so nobody is left to tell the acker anything, and it
        // ends too. (Tasks that panicked were reported by the runtime.)
        let _ = reader.await;
        if tokio::time::timeout(FLUSH_TIMEOUT, acker).await.is_err() {
            tracing::warn!(worker = consumer.name, "stopped before Redis knew what was finished");
        }
        drop(lease);
        consumer.leave(&link).await;
    })
}
