//! Streams of tickets in this process's memory.

use crate::{
    Config, Depth, Handled, Handler, MOST_TOGETHER, Room, Slots, backend, backend::TicketBackend, delivery::Delivery,
};
use prediction::{PredictionId, StreamKey, Ticket};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// The most deliveries between the streams and their handlers.
const MOST_UNHANDLED: usize = 16;

pub(crate) struct InProcess {
    window: usize,
    generation: u64,
    /// Streams that hold nothing are absent.
    streams: Mutex<HashMap<StreamKey, Stream>>,
    added: Notify,
}

#[derive(Default)]
struct Stream {
    waiting: VecDeque<PredictionId>,
    delivered: usize,
}

impl Stream {
    fn len(&self) -> usize {
        self.waiting.len() + self.delivered
    }
}

impl InProcess {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            window: config.window,
            generation: crate::new_generation(),
            streams: Mutex::default(),
            added: Notify::new(),
        }
    }

    pub(crate) fn has_room(&self, stream: &StreamKey) -> bool {
        self.streams().get(stream).map_or(0, Stream::len) < self.window
    }

    pub(crate) fn push(&self, tickets: Vec<Ticket>) -> Vec<Ticket> {
        let mut streams = self.streams();
        let refused = tickets
            .into_iter()
            .filter(|ticket| {
                let len = streams.get(&ticket.stream).map_or(0, Stream::len);
                if len < self.window {
                    streams.entry(ticket.stream.clone()).or_default().waiting.push_back(ticket.id);
                }
                len >= self.window
            })
            .collect();
        drop(streams);
        self.added.notify_waiters();
        refused
    }

    pub(crate) fn depth(&self, stream: &StreamKey) -> Depth {
        let streams = self.streams();
        let (undelivered, delivered) =
            streams.get(stream).map_or((0, 0), |stream| (stream.waiting.len(), stream.delivered));
        Depth { undelivered, delivered, generation: self.generation }
    }

    pub(crate) async fn consume(
        self: Arc<Self>,
        streams: Vec<StreamKey>,
        Room { slots, .. }: Room,
        handler: Handler,
        stop: CancellationToken,
    ) {
        let backend = |_: &str| {
            let (sender, deliveries) = mpsc::channel(MOST_UNHANDLED);
            let feeder = Arc::clone(&self).feed(streams.clone(), Arc::clone(&slots), sender, stop.clone());
            let feeder = AbortOnDropHandle::new(tokio::spawn(feeder));
            TicketBackend::new(deliveries, async move {
                // It ends by itself at `stop`; a panic in it has been reported by the runtime.
                let _ = feeder.await;
            })
        };
        backend::consume(backend, handler, &stop).await;
    }

    async fn feed(
        self: Arc<Self>,
        streams: Vec<StreamKey>,
        slots: Arc<Semaphore>,
        deliveries: mpsc::Sender<Delivery>,
        stop: CancellationToken,
    ) {
        loop {
            let next = async {
                self.waiting(&streams).await;
                Arc::clone(&slots).acquire_owned().await
            };
            let slot = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                slot = next => slot,
            };
            let Ok(first) = slot else { return };
            let (tickets, taken_for) = self.take_all(&streams, first, &slots);
            if tickets.is_empty() {
                continue;
            }
            let (queue, settled) = (Arc::clone(&self), tickets.clone());
            let delivery = Delivery::new(tickets, taken_for, move |handled| queue.settle(settled, handled));
            if deliveries.send(delivery).await.is_err() {
                return;
            }
        }
    }

    /// Takes what waits, as far as there are free slots. `first`: the slot for the first.
    fn take_all(&self, streams: &[StreamKey], first: Slots, slots: &Arc<Semaphore>) -> (Vec<Ticket>, Slots) {
        let mut tickets: Vec<Ticket> = self.take(streams).into_iter().collect();
        let mut taken_for = first;
        while !tickets.is_empty()
            && tickets.len() < MOST_TOGETHER
            && let Ok(slot) = Arc::clone(slots).try_acquire_owned()
            && let Some(ticket) = self.take(streams)
        {
            tickets.push(ticket);
            taken_for.merge(slot);
        }
        (tickets, taken_for)
    }

    /// Returns once a ticket waits in one of these. Nobody's slot is held meanwhile: whoever needs one shall have it.
    async fn waiting(&self, keys: &[StreamKey]) {
        loop {
            let added = self.added.notified();
            tokio::pin!(added);
            // Before looking, so that what is added from here on wakes us.
            added.as_mut().enable();
            if self.has_any(keys) {
                return;
            }
            added.await;
        }
    }

    pub(crate) fn has_any(&self, keys: &[StreamKey]) -> bool {
        let streams = self.streams();
        keys.iter().any(|key| streams.get(key).is_some_and(|stream| !stream.waiting.is_empty()))
    }

    fn take(&self, keys: &[StreamKey]) -> Option<Ticket> {
        let mut streams = self.streams();
        keys.iter().find_map(|key| {
            let stream = streams.get_mut(key)?;
            let id = stream.waiting.pop_front()?;
            stream.delivered += 1;
            Some(Ticket { id, stream: key.clone() })
        })
    }

    fn settle(&self, tickets: Vec<Ticket>, handled: Handled) {
        let mut streams = self.streams();
        // The last one first, so that what is returned waits in its order again.
        for Ticket { id, stream: key } in tickets.into_iter().rev() {
            let stream = streams.entry(key.clone()).or_default();
            stream.delivered -= 1;
            if handled == Handled::Returned {
                stream.waiting.push_front(id);
            }
            if stream.len() == 0 {
                streams.remove(&key);
            }
        }
        drop(streams);
        if handled == Handled::Returned {
            self.added.notify_waiters();
        }
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<StreamKey, Stream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
