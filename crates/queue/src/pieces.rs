//! Pieces of texts on their way from the worker that writes them to those who read along. Nobody sends what nobody has asked
//! for, and nothing is kept on the way: who misses a piece asks again, from where it stands.

use crate::{Notice, Queue};
use prediction::PredictionId;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};
use uuid::Uuid;

/// How long a worker sends pieces for one [`Ask`].
pub const ASKED_FOR: Duration = Duration::from_secs(6);
/// The most bytes of one piece.
pub const LONGEST_PIECE: usize = 8 << 10;

/// How often a reader asks again, also in case that its last asking was lost.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// How soon after its last asking a reader that missed something asks again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// Pieces that wait for a slow reader; what does not fit is dropped and asked for again.
const WAITING: usize = 16;

/// Somebody reads along: whoever runs this prediction shall send what comes after what the reader has, for [`ASKED_FOR`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The process that reads.
    pub reader: Uuid,
    /// The prediction.
    pub id: PredictionId,
    /// Of which run it has something; 0 when of none.
    pub epoch: i32,
    /// Of which draft.
    pub draft: u64,
    /// How many bytes of that draft it has.
    pub from: u64,
}

/// A part of the text that a run writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The prediction.
    pub id: PredictionId,
    /// The run: later ones have higher numbers, and their texts begin again.
    pub epoch: i32,
    /// Names the run's text. When the database crashes and forgets a claim, two runs come to have one epoch; whoever mixed their
    /// texts would read what none has written.
    pub draft: u64,
    /// How many bytes of the text come before it.
    pub from: u64,
    /// At most [`LONGEST_PIECE`].
    pub text: Arc<str>,
}

/// Who reads along in this process.
#[derive(Debug)]
pub(crate) struct Readers {
    /// Names this process to workers.
    pub(crate) name: Uuid,
    inboxes: Mutex<HashMap<PredictionId, Vec<mpsc::Sender<Piece>>>>,
}

impl Readers {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { name: Uuid::new_v4(), inboxes: Mutex::default() })
    }

    /// Hands pieces to those who read them.
    pub(crate) fn hand_out(&self, pieces: impl IntoIterator<Item = Piece>) {
        let inboxes = self.lock();
        for piece in pieces {
            for inbox in inboxes.get(&piece.id).into_iter().flatten() {
                // A full one belongs to a slow reader, who will ask again.
                let _ = inbox.try_send(piece.clone());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PredictionId, Vec<mpsc::Sender<Piece>>>> {
        self.inboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who reads along with one prediction, until dropped.
#[derive(Debug)]
pub struct Reader {
    queue: Queue,
    id: PredictionId,
    inbox: mpsc::Receiver<Piece>,
    /// The latest run seen, its draft, and how many bytes of that were read.
    epoch: i32,
    draft: u64,
    have: u64,
    asked_at: Option<Instant>,
    has_missed: bool,
}

impl Reader {
    pub(crate) fn new(queue: Queue, id: PredictionId) -> Self {
        let (sender, inbox) = mpsc::channel(WAITING);
        queue.readers.lock().entry(id).or_default().push(sender);
        Self { queue, id, inbox, epoch: 0, draft: 0, have: 0, asked_at: None, has_missed: false }
    }

    /// The next piece. Those of one draft come in order, without gaps and from its beginning; once a piece of a later run has come,
    /// none of an earlier one does. Which of two drafts of one epoch is the later nobody can tell: each takes the other's place when
    /// its beginning comes. What a lost queue or worker leaves out is for the reader to find in the store. Dropping the future
    /// loses nothing.
    pub async fn next(&mut self) -> Piece {
        loop {
            let pause = if self.has_missed { ASK_AGAIN_AFTER } else { ASK_EVERY };
            let ask_at = self.asked_at.map_or_else(Instant::now, |asked_at| asked_at + pause);
            tokio::select! {
                piece = self.inbox.recv() => {
                    // Its sender is among the readers until this one is dropped.
                    if let Some(piece) = piece.and_then(|piece| self.take(piece)) {
                        return piece;
                    }
                }
                () = tokio::time::sleep_until(ask_at) => {
                    (self.asked_at, self.has_missed) = (Some(Instant::now()), false);
                    let Self { id, epoch, draft, have: from, .. } = *self;
                    let ask = Ask { reader: self.queue.readers.name, id, epoch, draft, from };
                    self.queue.tell(Notice::Asked([ask].into())).await;
                }
            }
        }
    }

    /// What is new in a piece.
    fn take(&mut self, piece: Piece) -> Option<Piece> {
        let is_another = piece.draft != self.draft;
        if piece.epoch > self.epoch || piece.epoch == self.epoch && is_another && piece.from == 0 {
            (self.epoch, self.draft, self.have) = (piece.epoch, piece.draft, 0);
        } else if piece.epoch < self.epoch || is_another {
            // Whoever writes the latter hears with the next asking that its beginning is missing.
            return None;
        }
        let Some(known) = self.have.checked_sub(piece.from) else {
            self.has_missed = true;
            return None;
        };
        let text = piece.text.get(usize::try_from(known).ok()?..).filter(|text| !text.is_empty())?;
        let (from, text) = (self.have, if known == 0 { Arc::clone(&piece.text) } else { text.into() });
        self.have += text.len() as u64;
        Some(Piece { from, text, ..piece })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.inbox.close();
        let mut inboxes = self.queue.readers.lock();
        if let Some(same) = inboxes.get_mut(&self.id) {
            same.retain(|inbox| !inbox.is_closed());
            if same.is_empty() {
                inboxes.remove(&self.id);
            }
        }
    }
}
