//! Reads tickets for a consumer: woken by Redis, never more than there is room for.

use super::{
    STREAM_KEPT,
    connection::{Backoff, Client, Connection},
    consumer::{Consumer, Entry, MOST_BUNDLED, Settled, Shared},
    names::{GROUP, ID},
    scripts,
};
use crate::{Handled, MOST_TOGETHER, Room, Slots, delivery::Delivery};
use prediction::{PredictionId, Ticket};
use redis::RedisResult;
use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long Redis holds a read that finds nothing, in milliseconds: well below the time-out of a call, and how soon
/// at the latest an idle consumer sees that it shall stop, or that there are tickets to take over.
const BLOCK: u64 = 500;

/// The longest between two looks for tickets of silent consumers; a look also keeps the streams from expiring.
const LONGEST_UNTIL_LOOK: Duration = Duration::from_secs(1);

/// While nearly all slots are in use, tickets wait for several to become free, so long for each: taken one by one, each would be a
/// claim of its own, and what is in hand lasts longer than this.
const GATHER: Duration = Duration::from_millis(12);
/// So many, or an eighth of all if that is less, are taken without waiting for more; as many as an entry may have.
const ENOUGH: u32 = MOST_BUNDLED;

type Fields = Vec<Vec<u8>>;

/// An entry that was taken, and its tickets; none, if it is something else.
type Taken = (Entry, Vec<PredictionId>);

pub(crate) struct Reader {
    consumer: Arc<Consumer>,
    deliveries: mpsc::Sender<Delivery>,
    settled: mpsc::UnboundedSender<Settled>,
    stop: CancellationToken,
    /// When to look for tickets of silent consumers.
    look_at: Instant,
    /// Whether a reply may have been lost with the last connection, and tickets with it.
    may_have_lost: bool,
    /// Whether the last read took all there was: what comes next finds room enough, so that it does not matter who is first.
    is_drained: bool,
}

impl Reader {
    pub(crate) fn new(
        consumer: Arc<Consumer>,
        deliveries: mpsc::Sender<Delivery>,
        settled: mpsc::UnboundedSender<Settled>,
        stop: CancellationToken,
    ) -> Self {
        let look_at = Instant::now();
        Self { consumer, deliveries, settled, stop, look_at, may_have_lost: false, is_drained: false }
    }

    /// Reads until it shall stop, on connections of its own.
    pub(crate) async fn run(mut self, client: Client) {
        let mut backoff = Backoff::new();
        let mut is_first_failure = true;
        while !self.stop.is_cancelled() {
            let failure = match client.connect().await {
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

    /// Takes what there is, or waits for it. While the streams are drained it waits at once: a script that finds what has come
    /// since costs Redis more than the wait that is ended by it.
    async fn read(&mut self, connection: &mut Connection) -> RedisResult<()> {
        let Room { slots, all } = &self.consumer.room;
        if slots.available_permits() == 0 {
            // Meanwhile tickets gather, and then it matters which are first.
            self.is_drained = false;
        }
        tokio::select! {
            () = self.stop.cancelled() => return Ok(()),
            // Only until there is one: a read may wait long, and whoever needs a slot meanwhile shall have it.
            _ = slots.acquire() => {}
        }
        let enough = (all.load(Ordering::Relaxed) / 8).min(ENOUGH);
        if !self.is_drained && slots.available_permits() < enough as usize {
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                // As above.
                _ = slots.acquire_many(enough) => {}
                () = tokio::time::sleep(GATHER * enough) => {}
            }
        }
        let room = slots.available_permits().min(MOST_TOGETHER);
        if room == 0 {
            return Ok(());
        }
        // Each stream may give as many.
        let share = room / self.consumer.streams.len() / self.consumer.bundle() as usize;
        let waits_at_once = self.is_drained && share > 0 && !self.may_have_lost && Instant::now() < self.look_at;
        let taken = if waits_at_once { Vec::new() } else { self.take(connection, room).await? };
        let taken = if taken.is_empty() { self.wait(connection, share.max(1)).await? } else { taken };
        self.deliver(taken).await;
        Ok(())
    }

    async fn take(&mut self, connection: &mut Connection, room: usize) -> RedisResult<Vec<Taken>> {
        let silent = if self.look_at <= Instant::now() {
            self.look_at = Instant::now() + LONGEST_UNTIL_LOOK.min(self.consumer.lease / 3);
            // Zero would mean not to look.
            u64::try_from(self.consumer.lease.as_millis()).unwrap_or(u64::MAX).max(1)
        } else {
            0
        };
        // Those in our hands come first; then those of one reply, to a call that takes or to one that waits.
        let own = match self.may_have_lost {
            true => self.consumer.held().len() + MOST_TOGETHER.max(self.consumer.streams.len()),
            false => 0,
        };
        let keys: Vec<&str> = self.consumer.streams.iter().flat_map(|(_, names)| names.keys()).collect();
        let mut pipeline = redis::pipe();
        scripts::run(&mut pipeline, &scripts::TAKE, keys.into_iter())
            .arg(GROUP)
            .arg(&self.consumer.name)
            .arg(room)
            .arg(crate::new_generation())
            .arg(silent)
            .arg(own)
            .arg(STREAM_KEPT)
            .arg(MOST_BUNDLED);
        let (taken,): (Vec<(usize, String, Vec<u8>)>,) = connection.query(&pipeline).await?;
        self.may_have_lost = false;
        let entry =
            |(number, id, tickets): (usize, String, Vec<u8>)| (Entry { stream: number - 1, id }, decode(&tickets));
        let taken: Vec<Taken> = taken.into_iter().map(entry).collect();
        self.is_drained = taken.iter().map(|(_, tickets)| tickets.len().max(1)).sum::<usize>() < room;
        Ok(taken)
    }

    /// Waits for the next tickets that come to any stream, up to `share` entries of each. (There may be more of them than slots when
    /// `share` is the least, or when slots have gone to others; those for which there is none wait here.)
    async fn wait(&mut self, connection: &mut Connection, share: usize) -> RedisResult<Vec<Taken>> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("XREADGROUP").arg("GROUP").arg(GROUP).arg(&self.consumer.name);
        pipeline.arg("COUNT").arg(share).arg("BLOCK").arg(BLOCK).arg("STREAMS");
        for stream in self.consumer.tickets() {
            pipeline.arg(stream);
        }
        for _ in self.consumer.tickets() {
            pipeline.arg(">");
        }
        type Read = Option<Vec<(String, Vec<(String, Fields)>)>>;
        let (read,): (Read,) = connection.query(&pipeline).await?;
        let mut entries = Vec::new();
        self.is_drained = true;
        for (key, of_stream) in read.unwrap_or_default() {
            self.is_drained &= of_stream.len() < share;
            if let Some(stream) = self.consumer.tickets().position(|stream| stream == key) {
                let tickets = |fields: Fields| match fields.as_slice() {
                    [name, tickets] if name == ID => decode(tickets),
                    _ => Vec::new(),
                };
                entries.extend(of_stream.into_iter().map(|(id, fields)| (Entry { stream, id }, tickets(fields))));
            }
        }
        Ok(entries)
    }

    async fn deliver(&self, taken: Vec<Taken>) {
        let mut tickets = VecDeque::with_capacity(taken.len());
        for (entry, ids) in taken {
            if !self.consumer.held().insert(entry.clone()) {
                // It is being handled: we asked for our own, or its lease passed while Redis was away.
                continue;
            }
            if ids.is_empty() {
                tracing::warn!(entry = entry.id, "an entry that is no ticket was dropped");
                settle(&self.settled, Shared::among(entry, 1), Handled::Done);
                continue;
            }
            let stream = &self.consumer.streams[entry.stream].0;
            let shared = Shared::among(entry.clone(), ids.len());
            tickets.extend(ids.into_iter().map(|id| Ticket { id, stream: stream.clone() }).zip(shared));
        }
        while !tickets.is_empty() {
            let Some(slots) = self.slots(tickets.len()).await else {
                settle(&self.settled, tickets.into_iter().map(|(_, entry)| entry), Handled::Returned);
                return;
            };
            let (tickets, entries): (Vec<_>, Vec<_>) = tickets.drain(..slots.num_permits()).unzip();
            let settled = self.settled.clone();
            let delivery = Delivery::new(tickets, slots, move |handled| settle(&settled, entries, handled));
            // Without a receiver it is dropped, and thereby returned.
            let _ = self.deliveries.send(delivery).await;
        }
    }

    /// One slot or more, but no more than are wanted or go together; none when it shall stop.
    async fn slots(&self, wanted: usize) -> Option<Slots> {
        let slots = &self.consumer.room.slots;
        let mut taken = tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            slot = Arc::clone(slots).acquire_owned() => slot.ok(),
        }?;
        let more = u32::try_from(slots.available_permits().min(wanted.min(MOST_TOGETHER) - 1)).unwrap_or(u32::MAX);
        if let Ok(more) = Arc::clone(slots).try_acquire_many_owned(more) {
            taken.merge(more);
        }
        Some(taken)
    }
}

/// Says what became of tickets, of which these were the entries.
fn settle(settled: &mpsc::UnboundedSender<Settled>, entries: impl IntoIterator<Item = Shared>, handled: Handled) {
    let whole = entries.into_iter().filter_map(|entry| entry.settle(handled));
    let (done, returned): (Vec<_>, Vec<_>) = whole.partition(|(_, handled)| *handled == Handled::Done);
    for (entries, handled) in [(done, Handled::Done), (returned, Handled::Returned)] {
        if !entries.is_empty() {
            let entries = entries.into_iter().map(|(entry, _)| entry).collect();
            // The acker outlives us; and without it nothing is settled anyway.
            let _ = settled.send(Settled { entries, handled });
        }
    }
}

/// The ids of an entry's predictions, which are all there is in it; none, if they are not that.
fn decode(tickets: &[u8]) -> Vec<PredictionId> {
    let (ids, rest) = tickets.as_chunks();
    if rest.is_empty() && ids.len() <= MOST_BUNDLED as usize {
        ids.iter().map(|id| PredictionId(Uuid::from_bytes(*id))).collect()
    } else {
        Vec::new()
    }
}
