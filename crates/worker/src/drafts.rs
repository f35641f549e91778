//! Sends what runs write to those who read along: what is new of all of them together, a moment after the last time. Who reads
//! what is known from those who ask, for a while after each asking; the texts themselves are their runs'.

use std::{
    collections::{HashMap, hash_map::Entry},
    future,
    sync::Arc,
    time::{Duration, Instant},
};

use prediction::PredictionId;
use queue::{ASKED_FOR, Ask, LONGEST_PIECE, Notice, Piece};
use tokio::{
    sync::broadcast::error::{RecvError, TryRecvError},
    time::sleep,
};
use uuid::Uuid;

use crate::node::Node;

/// How often pieces are sent at most: sooner than a person sees, so seldom that a fast model's are many together.
const EVERY: Duration = Duration::from_millis(20);
/// How often askings that are over are forgotten while nothing is written.
const LOOK: Duration = Duration::from_secs(1);
/// The most bytes of pieces sent at a time; the rest comes with the next.
const MOST_AT_ONCE: usize = 1 << 20;
/// The most readers known; they ask again, and find room when others have gone.
const MOST_READERS: usize = 1 << 16;

/// Who reads which prediction along, and how far each is.
#[derive(Default)]
struct Readings(HashMap<(PredictionId, Uuid), Reading>);

struct Reading {
    /// The run that it has something of, of which draft, and how many bytes.
    epoch: i32,
    draft: u64,
    sent: usize,
    until: Instant,
}

/// Sends until the worker is over.
pub(crate) async fn send_drafts(node: Arc<Node>) {
    let mut notices = node.queue.listen();
    let (mut readings, mut has_sent) = (Readings::default(), false);
    loop {
        let first = tokio::select! {
            biased;
            () = node.over.cancelled() => return,
            // There may be more where that came from; then what is written next wakes us.
            () = future::ready(()), if has_sent => None,
            notice = notices.recv() => Some(notice),
            () = node.audience.grown() => None,
            () = sleep(LOOK), if !readings.0.is_empty() => None,
        };
        match first {
            Some(Err(RecvError::Closed)) => return,
            Some(Ok(Notice::Asked(asks))) => readings.ask(&asks, Instant::now()),
            // Whoever was missed asks again.
            Some(Ok(_) | Err(RecvError::Lagged(_))) | None => {}
        }
        loop {
            match notices.try_recv() {
                Ok(Notice::Asked(asks)) => readings.ask(&asks, Instant::now()),
                Ok(_) | Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        // Before looking, so that what is written from here on wakes us.
        node.audience.attend(!readings.0.is_empty());
        has_sent = readings.send(&node);
        if has_sent {
            sleep(EVERY).await;
        }
    }
}

impl Readings {
    fn ask(&mut self, asks: &[Ask], now: Instant) {
        for ask in asks {
            let known = self.0.len();
            let reading = Reading {
                epoch: ask.epoch,
                draft: ask.draft,
                sent: usize::try_from(ask.from).unwrap_or(usize::MAX),
                until: now + ASKED_FOR,
            };
            match self.0.entry((ask.id, ask.reader)) {
                Entry::Occupied(mut entry) => {
                    entry.insert(reading);
                }
                Entry::Vacant(entry) if known < MOST_READERS => {
                    entry.insert(reading);
                }
                Entry::Vacant(_) => {}
            }
        }
    }

    /// Sends what is new; whether there was anything.
    fn send(&mut self, node: &Node) -> bool {
        let (mut parcels, mut room) = (HashMap::<Uuid, Vec<Piece>>::new(), MOST_AT_ONCE);
        let now = Instant::now();
        self.0.retain(|(id, reader), reading| {
            if let Some((epoch, draft)) = node.held.draft(*id) {
                if (reading.epoch, reading.draft) != (epoch, draft.id()) {
                    (reading.epoch, reading.draft, reading.sent) = (epoch, draft.id(), 0);
                }
                if let Some(text) = draft.after(reading.sent, LONGEST_PIECE.min(room)) {
                    let from = reading.sent as u64;
                    reading.sent += text.len();
                    room -= text.len();
                    parcels.entry(*reader).or_default().push(Piece { id: *id, epoch, draft: draft.id(), from, text });
                }
            }
            reading.until > now
        });
        let is_any = !parcels.is_empty();
        parcels.into_iter().for_each(|(reader, pieces)| node.queue.send(reader, pieces));
        is_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_are_bounded_and_known_ones_ask_again() {
        let (mut readings, now) = (Readings::default(), Instant::now());
        let ask = |number: u128, from| {
            let id = PredictionId(Uuid::from_u128(number));
            Ask { reader: Uuid::nil(), id, epoch: 1, draft: 1, from }
        };
        let all: Vec<_> = (0..MOST_READERS as u128 + 5).map(|number| ask(number, 0)).collect();
        readings.ask(&all, now);
        assert_eq!(readings.0.len(), MOST_READERS);
        readings.ask(&[ask(3, 9)], now);
        assert_eq!(
            (readings.0.len(), readings.0[&(PredictionId(Uuid::from_u128(3)), Uuid::nil())].sent),
            (MOST_READERS, 9)
        );
    }
}
