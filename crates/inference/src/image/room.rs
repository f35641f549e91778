//! Room for decoded images, bounded for the whole process: few bytes may become very many, and there are many cores to read them.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Pixels of all images that are decoded or resized at once: two of the largest, or many small ones.
const PIXELS: u64 = 1 << 25;

/// What has no more needs no room: as many are read at once as there are threads, and those that are short must not wait for it.
const SMALL: u64 = 1 << 20;

/// Held by whoever is next to have room: large images are not overtaken for ever by smaller ones.
static TURN: Mutex<()> = Mutex::new(());
static FREE: Mutex<u64> = Mutex::new(PIXELS);
static FREED: Condvar = Condvar::new();

/// Room for the pixels of an image, until it is dropped.
pub(crate) struct Room(u64);

impl Room {
    /// Waits until there is room for so many pixels, in turn; more than there ever is wait for all of it.
    pub(super) fn take(pixels: u64) -> Self {
        if pixels <= SMALL {
            return Self(0);
        }
        let pixels = pixels.min(PIXELS);
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = FREED.wait_while(free(), |free| *free < pixels).unwrap_or_else(PoisonError::into_inner);
        *free -= pixels;
        Self(pixels)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        *free() += self.0;
        FREED.notify_all();
    }
}

fn free() -> MutexGuard<'static, u64> {
    // A number is never half changed.
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use super::*;

    #[test]
    fn who_finds_no_room_waits_for_it() {
        let (is_free, all) = (AtomicBool::new(false), Room::take(u64::MAX));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let _room = Room::take(PIXELS / 2);
                    assert!(is_free.load(Ordering::SeqCst), "there was room for more than all");
                });
            }
            // Those that do not wait are seen by the assertion above.
            thread::yield_now();
            is_free.store(true, Ordering::SeqCst);
            drop(all);
        });
        drop(Room::take(u64::MAX));
    }
}
