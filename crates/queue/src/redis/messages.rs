//! Notices and pieces as bytes. A message is its kind, the process that tells (16 bytes), and what it tells; numbers are
//! big-endian.

use crate::{Ask, LONGEST_PIECE, Notice, Piece};
use prediction::PredictionId;
use std::sync::Arc;
use uuid::Uuid;

/// The most ids or askings in one message.
const MOST_TOGETHER: usize = 1000;

const FINISHED: u8 = b'f';
const CANCELED: u8 = b'c';
const DELIVERIES_DUE: u8 = b'd';
const ASKED: u8 = b'A';
const PIECES: u8 = b'P';

/// An id, an epoch, a draft, and a number of bytes.
const PLACE_BYTES: usize = 16 + 4 + 8 + 8;

/// A place in the text of a run.
struct Place {
    id: PredictionId,
    epoch: i32,
    draft: u64,
    /// How many bytes come before.
    from: u64,
}

/// What another process tells.
#[derive(Debug, PartialEq)]
pub(crate) enum Message {
    Notice(Notice),
    Pieces(Vec<Piece>),
}

/// As few messages as say all that these notices do.
pub(crate) fn of_notices(origin: Uuid, notices: Vec<Notice>) -> Vec<Vec<u8>> {
    let (mut finished, mut canceled, mut asks, mut is_due) = (Vec::new(), Vec::new(), Vec::new(), false);
    for notice in notices {
        match notice {
            Notice::Finished(ids) => finished.extend_from_slice(&ids),
            Notice::Canceled(ids) => canceled.extend_from_slice(&ids),
            Notice::Asked(asked) => asks.extend_from_slice(&asked),
            Notice::DeliveriesDue => is_due = true,
        }
    }
    let mut messages = Vec::new();
    for (kind, ids) in [(FINISHED, finished), (CANCELED, canceled)] {
        for ids in ids.chunks(MOST_TOGETHER) {
            let mut message = begun(kind, origin);
            ids.iter().for_each(|id| message.extend_from_slice(id.0.as_bytes()));
            messages.push(message);
        }
    }
    for asks in asks.chunks(MOST_TOGETHER) {
        let mut message = begun(ASKED, origin);
        for Ask { id, epoch, draft, from, .. } in asks.iter().copied() {
            message.extend_from_slice(&Place { id, epoch, draft, from }.bytes());
        }
        messages.push(message);
    }
    messages.extend(is_due.then(|| begun(DELIVERIES_DUE, origin)));
    messages
}

/// Each piece as its place, the bytes of its text (4 bytes), and these.
pub(crate) fn of_pieces(origin: Uuid, pieces: &[Piece]) -> Vec<u8> {
    let mut message = begun(PIECES, origin);
    for piece in pieces {
        let Piece { id, epoch, draft, from, .. } = *piece;
        message.extend_from_slice(&Place { id, epoch, draft, from }.bytes());
        message.extend_from_slice(&u32::try_from(piece.text.len()).unwrap_or(u32::MAX).to_be_bytes());
        message.extend_from_slice(piece.text.as_bytes());
    }
    message
}

/// Reads what others tell; anything else, and what `own` told, is none of ours.
pub(crate) fn read(message: &[u8], own: Uuid) -> Option<Message> {
    let (kind, message) = message.split_first()?;
    let (origin, rest) = message.split_first_chunk::<16>()?;
    if origin == own.as_bytes() {
        return None;
    }
    let ids = || {
        let (ids, rest) = rest.as_chunks::<16>();
        let are_whole = !ids.is_empty() && rest.is_empty();
        are_whole.then(|| ids.iter().map(|id| PredictionId(Uuid::from_bytes(*id))).collect::<Arc<[_]>>())
    };
    match *kind {
        FINISHED => ids().map(|ids| Message::Notice(Notice::Finished(ids))),
        CANCELED => ids().map(|ids| Message::Notice(Notice::Canceled(ids))),
        DELIVERIES_DUE if rest.is_empty() => Some(Message::Notice(Notice::DeliveriesDue)),
        ASKED => asks(Uuid::from_bytes(*origin), rest).map(|asks| Message::Notice(Notice::Asked(asks))),
        PIECES => pieces(rest).map(Message::Pieces),
        _ => None,
    }
}

fn begun(kind: u8, origin: Uuid) -> Vec<u8> {
    [&[kind], origin.as_bytes().as_slice()].concat()
}

impl Place {
    fn bytes(&self) -> [u8; PLACE_BYTES] {
        let mut bytes = [0; PLACE_BYTES];
        bytes[..16].copy_from_slice(self.id.0.as_bytes());
        bytes[16..20].copy_from_slice(&self.epoch.to_be_bytes());
        bytes[20..28].copy_from_slice(&self.draft.to_be_bytes());
        bytes[28..].copy_from_slice(&self.from.to_be_bytes());
        bytes
    }

    /// The place that these begin with, and what follows.
    fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (id, bytes) = bytes.split_first_chunk::<16>()?;
        let (epoch, bytes) = bytes.split_first_chunk::<4>()?;
        let (draft, bytes) = bytes.split_first_chunk::<8>()?;
        let (from, bytes) = bytes.split_first_chunk::<8>()?;
        let place = Self {
            id: PredictionId(Uuid::from_bytes(*id)),
            epoch: i32::from_be_bytes(*epoch),
            draft: u64::from_be_bytes(*draft),
            from: u64::from_be_bytes(*from),
        };
        Some((place, bytes))
    }
}

fn asks(reader: Uuid, mut bytes: &[u8]) -> Option<Arc<[Ask]>> {
    let mut asks = Vec::new();
    while !bytes.is_empty() {
        let (Place { id, epoch, draft, from }, rest) = Place::read(bytes)?;
        asks.push(Ask { reader, id, epoch, draft, from });
        bytes = rest;
    }
    (!asks.is_empty()).then(|| asks.into())
}

fn pieces(mut bytes: &[u8]) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let (Place { id, epoch, draft, from }, rest) = Place::read(bytes)?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok().filter(|length| *length <= LONGEST_PIECE)?;
        let (text, rest) = rest.split_at_checked(length)?;
        pieces.push(Piece { id, epoch, draft, from, text: std::str::from_utf8(text).ok()?.into() });
        bytes = rest;
    }
    (!pieces.is_empty()).then_some(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(reader: Uuid) -> Ask {
        Ask { reader, id: PredictionId::generate(), epoch: 7, draft: u64::MAX - 1, from: 1 << 40 }
    }

    fn piece(text: &str) -> Piece {
        Piece { id: PredictionId::generate(), epoch: i32::MAX, draft: 1 << 50, from: 3, text: text.into() }
    }

    #[test]
    fn a_message_is_read_back_by_others_only() {
        let (here, there) = (Uuid::new_v4(), Uuid::new_v4());
        let ids: Arc<[_]> = [PredictionId::generate(), PredictionId::generate()].into();
        for notice in [
            Notice::Finished(Arc::clone(&ids)),
            Notice::Canceled(ids),
            Notice::DeliveriesDue,
            Notice::Asked([ask(here), ask(here)].into()),
        ] {
            let messages = of_notices(here, vec![notice.clone()]);
            assert_eq!(messages.len(), 1);
            assert_eq!((read(&messages[0], there), read(&messages[0], here)), (Some(Message::Notice(notice)), None));
        }
        let pieces = vec![piece("a"), piece(""), piece("\u{1F6A2}")];
        let message = of_pieces(here, &pieces);
        assert_eq!((read(&message, there), read(&message, here)), (Some(Message::Pieces(pieces)), None));
    }

    #[test]
    fn equal_kinds_are_told_together() {
        let here = Uuid::new_v4();
        let finished = || Notice::Finished([PredictionId::generate()].into());
        let asked = || Notice::Asked([ask(here)].into());
        let notices = vec![finished(), asked(), Notice::DeliveriesDue, finished(), asked(), Notice::DeliveriesDue];
        assert_eq!(of_notices(here, notices).len(), 3);
    }

    #[test]
    fn other_messages_are_ignored() {
        let (here, there) = (Uuid::new_v4(), Uuid::new_v4());
        let finished = of_notices(here, vec![Notice::Finished([PredictionId::generate()].into())]).remove(0);
        let asked = of_notices(here, vec![Notice::Asked([ask(here)].into())]).remove(0);
        for message in [finished, asked, of_pieces(here, &[piece("abc")])] {
            for length in 0..message.len() {
                assert_eq!(read(&message[..length], there), None, "{length}");
            }
            assert_eq!(read(&[message.as_slice(), b"x"].concat(), there), None);
        }
        for (kind, rest) in [(b'x', vec![0; 16]), (DELIVERIES_DUE, vec![0; 16]), (FINISHED, vec![]), (PIECES, vec![])] {
            assert_eq!(read(&[begun(kind, here), rest].concat(), there), None, "{kind}");
        }
        let too_long = of_pieces(here, &[piece(&"x".repeat(LONGEST_PIECE + 1))]);
        assert_eq!(read(&too_long, there), None);
        let mut broken = of_pieces(here, &[piece("abc")]);
        *broken.last_mut().expect("a byte") = 0xFF;
        assert_eq!(read(&broken, there), None);
    }
}
