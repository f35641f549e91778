//! Memory for the bodies of large predictions, divided so that no receiver keeps another waiting for it: an attempt holds its
//! body for as long as its receiver takes, fifteen seconds at worst.
//!
//! It is divided by size into places that are alike, so that nobody waits longer because somebody wants more or less, and
//! among those of one size as fairness divides slots: one origin has a quarter of them, or one, and origins not found well of
//! late have half of them together. Each of these bounds is a queue of its own, asked for in this order, the longest waiting
//! first. So an origin at its bound keeps nobody waiting but itself, and nobody is passed by, however large its body is.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Predictions being read, of which bodies are made, in KiB. That takes no receiver's time.
const MAKING: u32 = 16 * 1024;

/// Places for bodies of so many bytes, and how many: 48 MiB in all. A larger body has one of the largest, which fit the most
/// that a worker lets an output be, however much its input adds to it.
const SIZES: [(u64, usize); 3] = [(256 * KIB, 32), (MIB, 8), (16 * MIB, 2)];

/// All of it.
pub(super) struct Memory {
    making: Arc<Semaphore>,
    sizes: [Places; SIZES.len()],
}

/// Places of one size.
struct Places {
    bytes: u64,
    all: Arc<Semaphore>,
    /// For origins that were not found well of late.
    others: Arc<Semaphore>,
    of_each_origin: usize,
    /// Those of origins that hold or want any.
    origins: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// Memory for one delivery.
pub(super) struct Place {
    making: Option<OwnedSemaphorePermit>,
    _one_of: [Option<OwnedSemaphorePermit>; 3],
}

impl Default for Memory {
    fn default() -> Self {
        let sizes = SIZES.map(|(bytes, number)| Places::new(bytes, number));
        Self { making: Arc::new(Semaphore::new(MAKING as usize)), sizes }
    }
}

impl Memory {
    /// Memory for one delivery to this origin: its prediction, and its body, of which both are there while the one is made of
    /// the other. `is_other`: the origin was not found well of late. None when there is not enough in time.
    pub(super) async fn take(
        &self,
        origin: &str,
        is_other: bool,
        payload_bytes: u64,
        patience: Duration,
    ) -> Option<Place> {
        let fits = self.sizes.iter().find(|places| payload_bytes <= places.bytes);
        let places = fits.or(self.sizes.last())?;
        // One that is larger than this has it alone.
        let kib = u32::try_from(payload_bytes.div_ceil(KIB)).unwrap_or(u32::MAX).min(MAKING);
        let taking = async {
            let one_of = places.take(origin, is_other).await?;
            let making = Arc::clone(&self.making).acquire_many_owned(kib).await?;
            Ok::<_, AcquireError>(Place { making: Some(making), _one_of: one_of })
        };
        timeout(patience, taking).await.ok()?.ok()
    }
}

impl Places {
    fn new(bytes: u64, number: usize) -> Self {
        Self {
            bytes,
            all: Arc::new(Semaphore::new(number)),
            others: Arc::new(Semaphore::new(number / 2)),
            of_each_origin: (number / 4).max(1),
            origins: Mutex::default(),
        }
    }

    async fn take(&self, origin: &str, is_other: bool) -> Result<[Option<OwnedSemaphorePermit>; 3], AcquireError> {
        let of_origin = self.of_origin(origin).acquire_owned().await?;
        let of_others = match is_other {
            true => Some(Arc::clone(&self.others).acquire_owned().await?),
            false => None,
        };
        let of_all = Arc::clone(&self.all).acquire_owned().await?;
        Ok([Some(of_all), of_others, Some(of_origin)])
    }

    fn of_origin(&self, origin: &str) -> Arc<Semaphore> {
        let mut origins = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = origins.get(origin).and_then(Weak::upgrade) {
            return places;
        }
        origins.retain(|_, places| places.strong_count() > 0);
        let places = Arc::new(Semaphore::new(self.of_each_origin));
        origins.insert(origin.to_owned(), Arc::downgrade(&places));
        places
    }
}

impl Place {
    /// The body is made; of the two, only it is left.
    pub(super) fn is_made(&mut self) {
        self.making = None;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::task::unconstrained;

    use super::*;

    /// What is there at once.
    async fn take(memory: &Memory, origin: &str, is_other: bool, bytes: u64) -> Option<Place> {
        // Unconstrained, or many in a row would have to wait for what is there.
        let mut place = unconstrained(memory.take(origin, is_other, bytes, Duration::ZERO)).await?;
        place.is_made();
        Some(place)
    }

    async fn as_many_as_there_are(memory: &Memory, origin: &str, is_other: bool, bytes: u64) -> Vec<Place> {
        let mut places = Vec::new();
        while let Some(place) = take(memory, origin, is_other, bytes).await {
            places.push(place);
        }
        places
    }

    #[tokio::test]
    async fn one_origin_has_a_quarter_and_those_not_found_well_of_late_have_half() {
        let memory = Memory::default();
        for (bytes, of_origin, of_others, of_all) in
            [(100 * KIB, 8, 16, 32), (MIB, 2, 4, 8), (16 * MIB, 1, 1, 2), (900 * MIB, 1, 1, 2)]
        {
            let mut held = Vec::new();
            let tarpits = ["a", "b", "c", "d", "e"];
            for tarpit in tarpits {
                let places = as_many_as_there_are(&memory, tarpit, true, bytes).await;
                assert!(places.len() <= of_origin, "{tarpit} has {} places for {bytes}", places.len());
                held.extend(places);
            }
            assert_eq!(held.len(), of_others);
            for known in ["x", "y", "z"] {
                held.extend(as_many_as_there_are(&memory, known, false, bytes).await);
            }
            assert_eq!(held.len(), of_all.min(of_others + 3 * of_origin));
        }
    }

    #[tokio::test]
    async fn sizes_do_not_wait_for_each_other() {
        let memory = Memory::default();
        let mut held = Vec::new();
        for origin in 0..4 {
            held.extend(as_many_as_there_are(&memory, &origin.to_string(), false, 16 * MIB).await);
        }
        assert!(take(&memory, "known", false, 16 * MIB).await.is_none());
        for origin in 0..4 {
            held.extend(as_many_as_there_are(&memory, &origin.to_string(), false, 100 * KIB).await);
        }
        assert!(take(&memory, "known", false, 100 * KIB).await.is_none());
        assert!(take(&memory, "known", false, 300 * KIB).await.is_some());
    }

    #[tokio::test]
    async fn whoever_waits_for_a_bound_of_its_own_keeps_nobody_waiting() {
        let memory = Memory::default();
        let mut held = as_many_as_there_are(&memory, "tarpit", false, MIB).await;
        let mut waiting: Vec<_> = (0..9).map(|_| memory.take("tarpit", false, MIB, Duration::MAX).boxed()).collect();
        assert!(waiting.iter_mut().all(|one| one.now_or_never().is_none()), "it has its part");
        held.extend(as_many_as_there_are(&memory, "another", true, MIB).await);
        held.extend(as_many_as_there_are(&memory, "a third", true, MIB).await);
        let mut stranger = memory.take("stranger", true, MIB, Duration::MAX).boxed();
        assert!((&mut stranger).now_or_never().is_none(), "they have half");
        assert_eq!(as_many_as_there_are(&memory, "known", false, MIB).await.len(), 2);
        assert_eq!(held.len(), 6);
    }

    #[tokio::test]
    async fn the_longest_waiting_is_next_however_large_it_is() {
        let memory = Memory::default();
        let mut held = Vec::new();
        for origin in ["a", "b"] {
            held.extend(take(&memory, origin, false, 2 * MIB).await);
        }
        let mut large = memory.take("large", false, 900 * MIB, Duration::MAX).boxed();
        assert!((&mut large).now_or_never().is_none());
        let mut small = memory.take("small", false, 2 * MIB, Duration::MAX).boxed();
        assert!((&mut small).now_or_never().is_none());
        held.pop();
        assert!((&mut small).now_or_never().is_none(), "not its turn");
        let mut large = large.now_or_never().flatten().expect("as soon as one has ended");
        large.is_made();
        assert!((&mut small).now_or_never().is_none());
        held.pop();
        assert!(small.now_or_never().is_some_and(|place| place.is_some()));
    }

    #[tokio::test]
    async fn predictions_take_turns_while_bodies_are_made() {
        let memory = Memory::default();
        let mut first = memory.take("a", false, 16 * MIB, Duration::ZERO).await.expect("the first");
        assert!(memory.take("b", false, 100 * KIB, Duration::ZERO).await.is_none(), "16 MiB are being made");
        first.is_made();
        let mut second = memory.take("b", false, 900 * MIB, Duration::ZERO).await.expect("alone");
        assert!(memory.take("c", false, 100 * KIB, Duration::ZERO).await.is_none());
        second.is_made();
        drop((first, second));
        assert!(memory.take("c", false, 100 * KIB, Duration::ZERO).await.is_some());
        let origins = memory.sizes.iter().map(|places| places.origins.lock().expect("whole").len());
        assert!(origins.sum::<usize>() <= 3, "those that are gone are forgotten");
    }
}
