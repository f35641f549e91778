//! Streams of tickets in Redis, for many processes: nothing here outlives the work it hints at by much.

mod acker;
mod connection;
mod consumer;
mod lease;
mod link;
mod messages;
mod names;
mod notices;
mod parcels;
mod reader;
mod scripts;
mod tasks;

use crate::{Config, Depth, Handler, Notice, Piece, QueueError, Room, backend, pieces::Readers};
use connection::Client;
use consumer::{Consumer, MOST_BUNDLED};
use link::Link;
use names::{GROUP, Names};
use notices::Notices;
use prediction::{StreamKey, Ticket};
use redis::{Pipeline, Value};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tasks::Tasks;
use tokio::sync::broadcast;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use uuid::Uuid;

/// The most tickets that one call of the script adds: Redis does nothing else meanwhile.
const MOST_ADDED: usize = 1000;

/// How long a stream that was seen full is believed to be: somebody must look again, and a push is how one looks.
const FULL_FOR: Duration = Duration::from_secs(1);

/// How long a stream is kept that nobody pushes to or takes from, in seconds. A version that was replaced has no consumers any
/// more, and nobody asks for what is left of it; a stream that expires too early is one that was lost, and is filled again.
const STREAM_KEPT: u64 = 86_400;

pub(crate) struct RedisQueue {
    client: Client,
    link: Arc<Link>,
    tasks: Tasks,
    names: Names,
    config: Config,
    notices: Notices,
    /// When streams were last seen full.
    full: Mutex<HashMap<StreamKey, Instant>>,
    _keeper: AbortOnDropHandle<()>,
}

impl RedisQueue {
    pub(crate) async fn open(
        url: &str,
        namespace: &str,
        config: Config,
        readers: &Arc<Readers>,
    ) -> Result<Self, QueueError> {
        let client = Client::new(url, config.call_timeout)?;
        let names = Names::new(namespace);
        let (link, tasks) = (Link::new(&names.probe()), Tasks::default());
        let keeper = AbortOnDropHandle::new(tasks.spawn(Arc::clone(&link).keep(client.clone())));
        tokio::select! {
            () = link.tried() => {}
            () = tasks.watch() => {}
        }
        let notices = Notices::open(&client, &link, &names, Arc::clone(readers), &tasks).await;
        Ok(Self { client, link, tasks, names, config, notices, full: Mutex::default(), _keeper: keeper })
    }

    pub(crate) fn is_healthy(&self) -> bool {
        self.link.is_up()
    }

    pub(crate) fn has_room(&self, stream: &StreamKey) -> bool {
        self.link.is_up() && self.full().get(stream).is_none_or(|seen| seen.elapsed() >= FULL_FOR)
    }

    pub(crate) async fn push(&self, tickets: Vec<Ticket>) -> Vec<Ticket> {
        let batches = batches(tickets);
        if batches.is_empty() {
            return Vec::new();
        }
        let mut pipeline = redis::pipe();
        for batch in &batches {
            self.add_push(&mut pipeline, &batch[0].stream, batch);
        }
        match self.link.query::<Vec<(usize, usize, u64)>>(&pipeline).await {
            Ok(answers) => batches
                .into_iter()
                .zip(answers)
                .flat_map(|(mut batch, (added, length, _))| {
                    self.saw(&batch[0].stream, length);
                    batch.drain(..added.min(batch.len()));
                    batch
                })
                .collect(),
            Err(error) => {
                tracing::debug!(%error, "tickets not queued");
                batches.into_iter().flatten().collect()
            }
        }
    }

    pub(crate) async fn depth(&self, stream: &StreamKey) -> Result<Depth, QueueError> {
        let mut pipeline = redis::pipe();
        self.add_push(&mut pipeline, stream, &[]);
        pipeline.cmd("XPENDING").arg(self.names.stream(stream).tickets).arg(GROUP);
        type Pending = (usize, Value, Value, Value);
        let ((_, length, generation), (delivered, ..)): ((usize, usize, u64), Pending) =
            self.link.query(&pipeline).await?;
        self.saw(stream, length);
        Ok(Depth { undelivered: length.saturating_sub(delivered), delivered, generation })
    }

    pub(crate) async fn consume(&self, streams: Vec<StreamKey>, room: Room, handler: Handler, stop: CancellationToken) {
        let backend = |name: &str| {
            let consumer = Consumer::new(name, &self.names, streams.clone(), room.clone(), self.config.lease);
            consumer::start(consumer, &self.client, &self.link, &self.tasks, &stop)
        };
        backend::consume(backend, handler, &stop).await;
    }

    pub(crate) async fn watch(&self) {
        self.tasks.watch().await;
    }

    pub(crate) fn tell(&self, notice: Notice) {
        self.notices.tell(notice);
    }

    pub(crate) fn send(&self, reader: Uuid, pieces: Vec<Piece>) {
        self.notices.send(reader, pieces);
    }

    pub(crate) fn listen(&self) -> broadcast::Receiver<Notice> {
        self.notices.listen()
    }

    fn add_push(&self, pipeline: &mut Pipeline, stream: &StreamKey, tickets: &[Ticket]) {
        let names = self.names.stream(stream);
        let command =
            scripts::run(pipeline, &scripts::PUSH, [&names.tickets, &names.generation, &names.bundle].into_iter());
        command.arg(GROUP).arg(crate::new_generation()).arg(self.config.window).arg(STREAM_KEPT);
        command.arg(MOST_BUNDLED);
        for ticket in tickets {
            command.arg(ticket.id.0.as_bytes());
        }
    }

    fn saw(&self, stream: &StreamKey, length: usize) {
        if length < self.config.window {
            self.full().remove(stream);
        } else {
            self.full().insert(stream.clone(), Instant::now());
        }
    }

    fn full(&self) -> MutexGuard<'_, HashMap<StreamKey, Instant>> {
        self.full.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tickets by stream, in their order, at most [`MOST_ADDED`] together and never none.
fn batches(tickets: Vec<Ticket>) -> Vec<Vec<Ticket>> {
    let mut batches: Vec<Vec<Ticket>> = Vec::new();
    let mut current: HashMap<StreamKey, usize> = HashMap::new();
    for ticket in tickets {
        match current.get(&ticket.stream) {
            Some(&number) if batches[number].len() < MOST_ADDED => batches[number].push(ticket),
            _ => {
                current.insert(ticket.stream.clone(), batches.len());
                batches.push(vec![ticket]);
            }
        }
    }
    batches
}
