//! How much of requests' bodies one process holds: beyond a bound requests are refused, rather than kept waiting in memory.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::problem::{Kind, Problem};

/// Each body counts as at least so many bytes: about what a request costs besides, so that the bound is one on requests too.
const LEAST: usize = 4096;
/// Seconds after which to come back: bodies are held for as long as storing takes, far less than this.
const RETRY_AFTER: u32 = 1;

/// Room for bodies.
pub(crate) struct Bodies(Arc<Semaphore>);

/// Room for one body, until the last of its holders is gone.
pub(crate) struct Room(OwnedSemaphorePermit);

impl Bodies {
    /// Room for so many bytes in all.
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes.clamp(LEAST, Semaphore::MAX_PERMITS))))
    }

    /// Room for a body of so many bytes.
    pub(crate) fn room(&self, bytes: usize) -> Result<Room, Problem> {
        let bytes = u32::try_from(bytes.max(LEAST)).map_err(|_| busy())?;
        Arc::clone(&self.0).try_acquire_many_owned(bytes).map(Room).map_err(|_| busy())
    }
}

impl Room {
    /// Sees to it that there is room for so many bytes.
    pub(crate) fn grow_to(&mut self, bytes: usize) -> Result<(), Problem> {
        let lacking = bytes.saturating_sub(self.0.num_permits());
        if lacking > 0 {
            let lacking = u32::try_from(lacking).map_err(|_| busy())?;
            let semaphore = Arc::clone(self.0.semaphore());
            self.0.merge(semaphore.try_acquire_many_owned(lacking).map_err(|_| busy())?);
        }
        Ok(())
    }
}

fn busy() -> Problem {
    Problem::new(Kind::Busy, "This server has as many requests under way as it takes at once. Nothing was stored.")
        .retry_after(RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_bounded_and_given_back() {
        let bodies = Bodies::new(3 * LEAST);
        let small = bodies.room(0).expect("there is room");
        let mut large = bodies.room(LEAST + 1).expect("there is room");
        assert_eq!(bodies.room(1).err().map(|problem| problem.kind), Some(Kind::Busy));
        assert!(large.grow_to(LEAST).is_ok() && large.grow_to(2 * LEAST).is_ok());
        assert!(large.grow_to(2 * LEAST + 1).is_err());
        drop(small);
        assert!(large.grow_to(2 * LEAST + 1).is_ok());
        drop(large);
        assert!(bodies.room(3 * LEAST).is_ok() && bodies.room(3 * LEAST + 1).is_err());
    }
}
