//! Tickets: bounded streams of hints that predictions wait, and notices that they are finished or canceled or that deliveries
//! are due; and pieces of texts for those who read along. Redis streams behind an apalis backend of our own, or channels in the process; nothing here is the truth, so everything here may be lost.

mod backend;
mod delivery;
mod in_process;
mod pieces;
mod redis;

pub use pieces::{ASKED_FOR, Ask, LONGEST_PIECE, Piece, Reader};

use crate::{in_process::InProcess, pieces::Readers, redis::RedisQueue};
use futures::future::BoxFuture;
use prediction::{PredictionId, StreamKey, Ticket};
use std::{
    fmt,
    future::pending,
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How many notices a listener may lag behind, and how many wait to be sent.
const NOTICES_KEPT: usize = 1024;

/// Where tickets wait.
#[derive(Clone, Debug)]
pub enum Location {
    /// Redis streams under keys that begin with `namespace`.
    Redis {
        /// `redis://…`
        url: String,
        /// Begins every key and channel.
        namespace: String,
    },
    /// Channels in this process.
    InProcess,
    /// Nowhere: workers ask the store.
    Absent,
}

/// How tickets are queued and leased.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The most entries in one stream. An entry has one ticket or, in Redis, several, where consumers have room for many.
    pub window: usize,
    /// How long a consumer may be silent before its tickets are handed to others.
    pub lease: Duration,
    /// The longest that Redis may take to answer, or to be connected to; more than the half second that it holds a read.
    pub call_timeout: Duration,
}
impl Default for Config {
    fn default() -> Self {
        Self { window: 10_000, lease: Duration::from_secs(10), call_timeout: Duration::from_secs(1) }
    }
}

/// Something that happened, told to whoever listens; best effort.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// These predictions became terminal: those who wait for them look now.
    Finished(Arc<[PredictionId]>),
    /// These predictions were canceled: a worker that runs one drops it.
    Canceled(Arc<[PredictionId]>),
    /// There are deliveries to be made: senders look now.
    DeliveriesDue,
    /// Somebody reads along with these predictions: workers that run them send pieces.
    Asked(Arc<[Ask]>),
}

/// How full a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    /// Entries that no consumer has been handed.
    pub undelivered: usize,
    /// Entries handed out and not acknowledged.
    pub delivered: usize,
    /// Names the life of the stream's contents: another number means that all earlier tickets are gone.
    pub generation: u64,
}

/// What became of the tickets that a handler was called with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    /// Their predictions are claimed in the store, which now knows who has them, or the tickets were stale: forget them.
    Done,
    /// They were not looked at (the worker stops): another consumer shall have them at once.
    Returned,
}

/// What tickets are taken for: room for one prediction each, free again when dropped. It can be split.
pub type Slots = OwnedSemaphorePermit;

/// Where [`Slots`] come from; cheap to clone.
#[derive(Clone, Debug)]
pub struct Room {
    /// Free slots are its permits.
    pub slots: Arc<Semaphore>,
    /// How many slots there are at present, free or not.
    pub all: Arc<AtomicU32>,
}

impl Room {
    /// Of so many slots.
    #[must_use]
    pub fn of(slots: u32) -> Self {
        Self { slots: Arc::new(Semaphore::new(slots as usize)), all: Arc::new(AtomicU32::new(slots)) }
    }
}

/// Called with tickets that were read together, and as many slots, which it may keep for longer than it takes.
pub type Handler = Arc<dyn Fn(Vec<Ticket>, Slots) -> BoxFuture<'static, Handled> + Send + Sync>;

/// The most tickets that a handler is called with.
const MOST_TOGETHER: usize = 256;

/// Redis did not answer, or not as expected.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The URL cannot be read.
    #[error("the Redis URL cannot be read")]
    Url,
    /// It does not answer.
    #[error("Redis does not answer: {0}")]
    Unavailable(String),
}

/// A handle on the queue; cheap to clone.
#[derive(Clone)]
pub struct Queue {
    kind: Kind,
    readers: Arc<Readers>,
}

#[derive(Clone)]
enum Kind {
    Redis(Arc<RedisQueue>),
    InProcess(Arc<InProcess>, broadcast::Sender<Notice>),
    Absent(broadcast::Sender<Notice>),
}

impl Queue {
    /// Prepares the queue. A Redis that is away is no error: connections are made, and made again, in the background.
    ///
    /// # Errors
    /// When the URL cannot be read.
    pub async fn open(location: &Location, config: Config) -> Result<Self, QueueError> {
        let readers = Readers::new();
        let kind = match location {
            Location::Redis { url, namespace } => {
                Kind::Redis(Arc::new(RedisQueue::open(url, namespace, config, &readers).await?))
            }
            Location::InProcess => {
                Kind::InProcess(Arc::new(InProcess::new(config)), broadcast::Sender::new(NOTICES_KEPT))
            }
            Location::Absent => Kind::Absent(broadcast::Sender::new(NOTICES_KEPT)),
        };
        Ok(Self { kind, readers })
    }

    /// Whether the last calls were answered (Redis), always (in process), never (absent).
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        match &self.kind {
            Kind::Redis(queue) => queue.is_healthy(),
            Kind::InProcess(..) => true,
            Kind::Absent(_) => false,
        }
    }

    /// Whether, as last seen, the stream has room; a hint.
    #[must_use]
    pub fn has_room(&self, stream: &StreamKey) -> bool {
        match &self.kind {
            Kind::Redis(queue) => queue.has_room(stream),
            Kind::InProcess(queue, _) => queue.has_room(stream),
            Kind::Absent(_) => false,
        }
    }

    /// Whether it is known here that none of these streams has a ticket that waits: only of a queue in this process.
    #[must_use]
    pub fn has_none(&self, streams: &[StreamKey]) -> bool {
        match &self.kind {
            Kind::InProcess(queue, _) => !queue.has_any(streams),
            Kind::Redis(_) | Kind::Absent(_) => false,
        }
    }

    /// Queues tickets, each stream up to its window, in one round trip; returns those refused (window full or Redis
    /// away). Some of those may have been queued all the same, when Redis went away in between.
    pub async fn push(&self, tickets: Vec<Ticket>) -> Vec<Ticket> {
        match &self.kind {
            Kind::Redis(queue) => queue.push(tickets).await,
            Kind::InProcess(queue, _) => queue.push(tickets),
            Kind::Absent(_) => tickets,
        }
    }

    /// How full a stream is.
    ///
    /// # Errors
    /// When Redis does not answer, or there is no queue.
    pub async fn depth(&self, stream: &StreamKey) -> Result<Depth, QueueError> {
        match &self.kind {
            Kind::Redis(queue) => queue.depth(stream).await,
            Kind::InProcess(queue, _) => Ok(queue.depth(stream)),
            Kind::Absent(_) => Err(QueueError::Unavailable("there is no queue".to_owned())),
        }
    }

    /// Hands tickets of these streams to `handler`, as an apalis worker under a random name, no more than there are free
    /// slots, until `stop`; then lets handlers finish, returns what was not handled to the stream and leaves the group.
    /// Survives whatever happens to Redis. Dropped instead of stopped, it drops the handlers, and others are handed their
    /// tickets when the lease is over.
    ///
    /// New tickets of earlier streams go first, so list those of the highest priority first.
    pub async fn consume(&self, streams: Vec<StreamKey>, room: Room, handler: Handler, stop: CancellationToken) {
        match &self.kind {
            _ if streams.is_empty() => stop.cancelled().await,
            Kind::Redis(queue) => queue.consume(streams, room, handler, stop).await,
            Kind::InProcess(queue, _) => Arc::clone(queue).consume(streams, room, handler, stop).await,
            Kind::Absent(_) => stop.cancelled().await,
        }
    }

    /// Never returns.
    ///
    /// # Panics
    /// When a task of this queue has panicked, without which it would only look well: the first of those who watch.
    pub async fn watch(self) {
        match self.kind {
            Kind::Redis(queue) => queue.watch().await,
            Kind::InProcess(..) | Kind::Absent(_) => pending().await,
        }
    }

    /// Tells everyone who listens, in this process and (Redis) in others; best effort, never waits long.
    pub async fn tell(&self, notice: Notice) {
        match &self.kind {
            Kind::Redis(queue) => queue.tell(notice),
            // It fails when nobody listens.
            Kind::InProcess(_, listeners) | Kind::Absent(listeners) => drop(listeners.send(notice)),
        }
    }

    /// Reads along with a prediction.
    #[must_use]
    pub fn read(&self, id: PredictionId) -> Reader {
        Reader::new(self.clone(), id)
    }

    /// Sends pieces to the process that asked for them, in one message; best effort, never waits.
    pub fn send(&self, reader: Uuid, pieces: Vec<Piece>) {
        match &self.kind {
            _ if reader == self.readers.name => self.readers.hand_out(pieces),
            Kind::Redis(queue) => queue.send(reader, pieces),
            // Nobody else can have asked.
            Kind::InProcess(..) | Kind::Absent(_) => {}
        }
    }

    /// Listens. A lagging or disconnected listener misses notices: poll the store as well.
    #[must_use]
    pub fn listen(&self) -> broadcast::Receiver<Notice> {
        match &self.kind {
            Kind::Redis(queue) => queue.listen(),
            Kind::InProcess(_, listeners) | Kind::Absent(listeners) => listeners.subscribe(),
        }
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.kind {
            Kind::Redis(_) => "Queue::Redis",
            Kind::InProcess(..) => "Queue::InProcess",
            Kind::Absent(_) => "Queue::Absent",
        })
    }
}

/// A number that no earlier generation had; never 0.
fn new_generation() -> u64 {
    rand::random::<u64>().max(1)
}
