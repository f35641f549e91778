//! One consumer of the group: what it holds, and the tasks that read, renew and settle for it.

use super::{
    acker,
    connection::Client,
    lease,
    link::Link,
    names::{GROUP, Names, RETURNED, RETURNED_SILENCE, StreamNames},
    reader::Reader,
    scripts,
    tasks::Tasks,
};
use crate::{Handled, Room, backend::TicketBackend};
use prediction::StreamKey;
use redis::Pipeline;
use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// The most deliveries between the reader and their handlers.
const MOST_UNHANDLED: usize = 16;

/// How long a stopping consumer tries to tell Redis what it finished; what it cannot tell others find stale.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// The most tickets in one entry: an entry is what Redis and we are asked to do once, however many tickets it has.
pub(crate) const MOST_BUNDLED: u32 = 16;
/// Consumers with so many slots want entries of one ticket.
const FEW_SLOTS: u32 = 64;
/// Of the slots beyond those, the part that the tickets of one entry may take.
const BUNDLED_PART: u32 = 12;

/// What the tasks of one consumer share.
pub(crate) struct Consumer {
    pub(crate) name: String,
    pub(crate) streams: Vec<(StreamKey, StreamNames)>,
    pub(crate) lease: Duration,
    /// A ticket is taken for a free slot only.
    pub(crate) room: Room,
    held: Mutex<HashSet<Entry>>,
}

/// An entry of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Entry {
    /// Which of the consumer's streams, from 0.
    pub(crate) stream: usize,
    pub(crate) id: String,
}

/// Entries whose fate Redis must be told.
pub(crate) struct Settled {
    pub(crate) entries: Vec<Entry>,
    pub(crate) handled: Handled,
}

/// An entry in the hands of those who have its tickets, one for each, and how many of them were not done with yet.
pub(crate) struct Shared(Arc<(Entry, AtomicUsize)>);

impl Shared {
    /// One for each of so many tickets.
    pub(crate) fn among(entry: Entry, tickets: usize) -> impl Iterator<Item = Self> {
        let shared = Arc::new((entry, AtomicUsize::new(tickets)));
        std::iter::repeat_n(shared, tickets).map(Self)
    }

    /// Says what became of one ticket. Whoever comes last learns what becomes of the entry: it is returned unless all are done.
    pub(crate) fn settle(self, handled: Handled) -> Option<(Entry, Handled)> {
        if handled == Handled::Done {
            self.0.1.fetch_sub(1, Ordering::AcqRel);
        }
        let (entry, left) = Arc::into_inner(self.0)?;
        Some((entry, if left.into_inner() == 0 { Handled::Done } else { Handled::Returned }))
    }
}

impl Consumer {
    pub(crate) fn new(name: &str, names: &Names, streams: Vec<StreamKey>, room: Room, lease: Duration) -> Arc<Self> {
        let streams = streams.into_iter().map(|key| (key.clone(), names.stream(&key))).collect();
        Arc::new(Self { name: name.to_owned(), streams, lease, room, held: Mutex::default() })
    }

    /// The most tickets that it wants in one entry: those of one entry go to one consumer, so they are a small part of what it
    /// runs at once, and only many slots, which are those of a fast model, are worth it.
    pub(crate) fn bundle(&self) -> u32 {
        let more = self.room.all.load(Ordering::Relaxed).saturating_sub(FEW_SLOTS);
        (more / BUNDLED_PART).clamp(1, MOST_BUNDLED)
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
    tasks: &Tasks,
    stop: &CancellationToken,
) -> TicketBackend {
    let (settled_sender, settled) = mpsc::unbounded_channel();
    let (sender, deliveries) = mpsc::channel(MOST_UNHANDLED);
    // Nobody need watch it: without it the backend ends, and another consumer takes its place.
    let reader = Reader::new(Arc::clone(&consumer), sender, settled_sender, stop.clone());
    let reader = AbortOnDropHandle::new(tokio::spawn(reader.run(client.clone())));
    let acker = AbortOnDropHandle::new(tasks.spawn(acker::settle(Arc::clone(&consumer), Arc::clone(link), settled)));
    let lease = AbortOnDropHandle::new(tasks.spawn(lease::renew(Arc::clone(&consumer), Arc::clone(link))));
    let link = Arc::clone(link);
    TicketBackend::new(deliveries, async move {
        // It ends at `stop`; every delivery is settled by then, so nobody is left to tell the acker anything, and it
        // ends too.
        let _ = reader.await;
        if tokio::time::timeout(FLUSH_TIMEOUT, acker).await.is_err() {
            tracing::warn!(worker = consumer.name, "stopped before Redis knew what was finished");
        }
        drop(lease);
        consumer.leave(&link).await;
    })
}
