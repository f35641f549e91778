//! Reads tickets for a consumer: woken by Redis, never more than there is room for.

use super::{
    STREAM_KEPT,
    connection::{self, Backoff},
    consumer::{Consumer, Entry, Settled},
    names::{GROUP, ID},
    scripts,
};
use crate::{Handled, delivery::Delivery, turns::Turns};
use prediction::{PredictionId, Ticket};
use redis::{Client, RedisResult, aio::MultiplexedConnection};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long Redis holds a read that finds nothing, in milliseconds: well below the time-out of a call, and how soon
/// at the latest an idle consumer sees that it shall stop, or that there are tickets to take over.
const BLOCK: u64 = 500;

/// The most tickets taken by one call.
pub(crate) const MOST_TAKEN: usize = 256;

/// The longest between two looks for tickets of silent consumers; a look also keeps the streams from expiring.
const LONGEST_UNTIL_LOOK: Duration = Duration::from_secs(1);

type Fields = Vec<Vec<u8>>;

pub(crate) struct Reader {
    consumer: Arc<Consumer>,
    deliveries: mpsc::Sender<Delivery>,
    settled: mpsc::UnboundedSender<Settled>,
    stop: CancellationToken,
    turns: Turns,
    /// When to look for tickets of silent consumers.
    look_at: Instant,
    /// Whether a reply may have been lost with the last connection, and tickets with it.
    may_have_lost: bool,
}

impl Reader {
    pub(crate) fn new(
        consumer: Arc<Consumer>,
        deliveries: mpsc::Sender<Delivery>,
        settled: mpsc::UnboundedSender<Settled>,
        stop: CancellationToken,
    ) -> Self {
        let turns = Turns::new(consumer.streams.iter().map(|(key, _)| key.priority));
        Self { consumer, deliveries, settled, stop, turns, look_at: Instant::now(), may_have_lost: false }
    }

    /// Reads until it shall stop, on connections of its own.
    pub(crate) async fn run(mut self, client: Client) {
        let mut backoff = Backoff::new();
        let mut is_first_failure = true;
        while !self.stop.is_cancelled() {
            let failure = match connection::connect(&client).await {
                Ok(mut connection) => loop {
                    match self.read(&mut connection).await {
                        Ok(()) if self.stop.is_cancelled() => return,
                        Ok(()) => {
                            backoff.reset();
                            is_first_failure = true;
                        }
                        Err(failure) => break failure,
                    }
                },
                Err(failure) => failure,
            };
            self.may_have_lost = true;
            if is_first_failure {
                tracing::warn!(error = %failure, worker = self.consumer.name, "tickets cannot be read; trying again");
                is_first_failure = false;
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = backoff.wait() => {}
            }
        }
    }

    /// Takes what there is, or waits for it.
    async fn read(&mut self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        tokio::select! {
            () = self.stop.cancelled() => return Ok(()),
            // Only until there is one: a read may wait long, and whoever needs a slot meanwhile shall have it.
            _ = self.consumer.slots.acquire() => {}
        }
        let taken = self.take(connection).await?;
        if taken.is_empty() {
            let first = self.wait(connection).await?;
            self.deliver(first).await;
        } else {
            self.deliver(taken).await;
        }
        Ok(())
    }

    async fn take(&mut self, connection: &mut MultiplexedConnection) -> RedisResult<Vec<(Entry, Fields)>> {
        let silent = if self.look_at <= Instant::now() {
            self.look_at = Instant::now() + LONGEST_UNTIL_LOOK.min(self.consumer.lease / 3);
            // Zero would mean not to look.
            u64::try_from(self.consumer.lease.as_millis()).unwrap_or(u64::MAX).max(1)
        } else {
            0
        };
        // Those in our hands come first; then those of one reply, to a call that takes or to one that waits.
        let own = match self.may_have_lost {
            true => self.consumer.held().len() + MOST_TAKEN.max(self.consumer.streams.len()),
            false => 0,
        };
        let room = self.consumer.slots.available_permits().min(MOST_TAKEN);
        let order: Vec<usize> = self.turns.order().collect();
        let keys: Vec<&str> = order.iter().flat_map(|&stream| self.consumer.streams[stream].1.keys()).collect();
        let mut pipeline = redis::pipe();
        scripts::run(&mut pipeline, &scripts::TAKE, keys.into_iter())
            .arg(GROUP)
            .arg(&self.consumer.name)
            .arg(room)
            .arg(crate::new_generation())
            .arg(silent)
            .arg(own)
            .arg(STREAM_KEPT)
            .arg(self.turns.lengths().collect::<Vec<_>>());
        let (taken,): (Vec<(usize, String, Fields)>,) = connection::query(connection, &pipeline).await?;
        self.may_have_lost = false;
        let taken: Vec<_> =
            taken.into_iter().map(|(number, id, fields)| (Entry { stream: order[number - 1], id }, fields)).collect();
        taken.iter().for_each(|(entry, _)| self.turns.served(entry.stream));
        Ok(taken)
    }

    /// Waits for the first ticket that comes to any stream. (It may be one of several streams each, if they come
    /// between the last look and this one; those for which there is no slot wait here.)
    async fn wait(&self, connection: &mut MultiplexedConnection) -> RedisResult<Vec<(Entry, Fields)>> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("XREADGROUP").arg("GROUP").arg(GROUP).arg(&self.consumer.name);
        pipeline.arg("COUNT").arg(1).arg("BLOCK").arg(BLOCK).arg("STREAMS");
        for stream in self.consumer.tickets() {
            pipeline.arg(stream);
        }
        for _ in self.consumer.tickets() {
            pipeline.arg(">");
        }
        type Read = Option<Vec<(String, Vec<(String, Fields)>)>>;
        let (read,): (Read,) = connection::query(connection, &pipeline).await?;
        let mut entries = Vec::new();
        for (key, of_stream) in read.unwrap_or_default() {
            if let Some(stream) = self.consumer.tickets().position(|stream| stream == key) {
                entries.extend(of_stream.into_iter().map(|(id, fields)| (Entry { stream, id }, fields)));
            }
        }
        Ok(entries)
    }

    async fn deliver(&self, taken: Vec<(Entry, Fields)>) {
        for (entry, fields) in taken {
            if !self.consumer.held().insert(entry.clone()) {
                // It is being handled: we asked for our own, or its lease passed while Redis was away.
                continue;
            }
            let settled = self.settled.clone();
            // The acker outlives us; and without it nothing is settled anyway.
            let settle = move |settled_as: Settled| drop(settled.send(settled_as));
            let Some(id) = decode(&fields) else {
                tracing::warn!(entry = entry.id, "an entry that is no ticket was dropped");
                settle(Settled { entry, handled: Handled::Done });
                continue;
            };
            let slot = tokio::select! {
                biased;
                () = self.stop.cancelled() => None,
                slot = Arc::clone(&self.consumer.slots).acquire_owned() => slot.ok(),
            };
            let Some(slot) = slot else {
                settle(Settled { entry, handled: Handled::Returned });
                continue;
            };
            let ticket = Ticket { id, stream: self.consumer.streams[entry.stream].0.clone() };
            let delivery = Delivery::new(ticket, slot, move |handled| settle(Settled { entry, handled }));
            // Without a receiver it is dropped, and thereby returned.
            let _ = self.deliveries.send(delivery).await;
        }
    }
}

fn decode(fields: &Fields) -> Option<PredictionId> {
    match fields.as_slice() {
        [name, id] if name == ID => Uuid::from_slice(id).ok().map(PredictionId),
        _ => None,
    }
}
