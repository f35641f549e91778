//! What becomes of rows and indices on a card that is full.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use super::*;

/// A card that can only be filled.
#[derive(Clone, Default)]
struct Room {
    is_full: Arc<AtomicBool>,
    /// What was asked for: bytes, and of what they are to be a multiple.
    asked: Arc<Mutex<Vec<(usize, usize)>>>,
}

impl Room {
    fn left(&self) -> Result<()> {
        let error = CardError { is_out_of_memory: true, reason: "full".into() };
        if self.is_full.load(Ordering::Relaxed) { Err(error) } else { Ok(()) }
    }
}

impl Steps for Room {
    fn has_bf16(&self) -> bool {
        true
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn reserve(&self, _: &mut memory::Memory, bytes: usize, multiple: usize) -> Result<()> {
        self.asked.lock().expect("a lock").push((bytes, multiple));
        self.left()
    }

    fn write(&self, _: &[f32], _: &mut CardRows) -> Result<()> {
        Ok(())
    }

    fn write_indices(&self, _: &mut CardIndices) -> Result<()> {
        self.left()
    }

    fn read(&self, _: &CardRows) -> Result<Vec<f32>> {
        unreachable!()
    }

    fn multiply(&self, _: &CardRows, _: &CardRows, _: &mut CardRows) -> Result<()> {
        unreachable!()
    }

    fn finish(&self, _: &mut CardRows, _: &CardRows, _: Finish) -> Result<()> {
        unreachable!()
    }

    fn norm(&self, _: [Option<Term<'_>>; 3], _: &CardNorm, _: &mut CardRows) -> Result<()> {
        unreachable!()
    }

    fn means(&self, _: &CardRows, _: Means<'_>, _: &mut CardRows) -> Result<()> {
        unreachable!()
    }

    fn attention(&self, _: Attend<'_>, _: &mut CardRows) -> Result<()> {
        unreachable!()
    }

    fn repeat(&self, _: &mut dyn FnMut() -> Result<bool>) -> Result<bool> {
        unreachable!()
    }
}

fn card() -> (Card, Room) {
    let room = Room::default();
    (Card { steps: Box::new(room.clone()) }, room)
}

#[test]
fn rows_that_there_is_no_room_for_are_none() {
    let (card, room) = card();
    let mut rows = card.empty(Precision::F32);
    card.make(&mut rows, 3, 5).expect("room");
    assert_eq!((rows.count(), rows.columns()), (3, 5));
    room.is_full.store(true, Ordering::Relaxed);
    assert!(card.make(&mut rows, 4, 6).is_err());
    assert_eq!(rows.count(), 0);
    assert!(card.rows(Precision::F32, &[1.0], 1).is_err());
}

#[test]
fn lists_that_could_not_be_written_are_none() {
    let (card, room) = card();
    let mut indices = CardIndices::default();
    card.write_indices(&[&[0, 2], &[1]], &mut indices).expect("room");
    assert_eq!(indices.part(1).numbers(), [1]);
    room.is_full.store(true, Ordering::Relaxed);
    assert!(card.write_indices(&[&[0, 9], &[1]], &mut indices).is_err());
    assert!(catch_unwind(AssertUnwindSafe(|| indices.part(0))).is_err());
}

#[test]
fn what_stays_takes_no_more_than_it_needs() {
    let (card, room) = card();
    card.rows(Precision::Bf16, &[0.0; 30], 10).expect("room");
    card.make(&mut card.empty(Precision::Bf16), 3, 10).expect("room");
    assert_eq!(*room.asked.lock().expect("a lock"), [(60, ALIGNED), (60, PAGE)]);
}
