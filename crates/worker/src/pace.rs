//! How many slots are in use: as many as the models are fast, so that a worker with slow ones does not hold what others could
//! run, and one with fast ones claims many at a time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Mutex, OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    time::{MissedTickBehavior, interval},
};

use crate::node::Node;

/// Never fewer, as far as there are so many.
const LEAST: u32 = 64;
/// How often the number is fitted to what has run since.
const EVERY: Duration = Duration::from_millis(50);
/// What is held is run within so many of these periods: long enough for a claim to be answered meanwhile.
const PERIODS: u32 = 4;

/// One permit for each prediction that runs or is next to run.
pub(crate) struct Slots {
    permits: Arc<Semaphore>,
    all: u32,
    /// Those that are not in use for now. Locked for as long as somebody has all.
    parked: Mutex<Option<OwnedSemaphorePermit>>,
    /// Runs since the number was last fitted.
    ran: AtomicU32,
}

/// All slots at once.
pub(crate) struct All<'a> {
    _rest: SemaphorePermit<'a>,
    _parked: tokio::sync::MutexGuard<'a, Option<OwnedSemaphorePermit>>,
}

impl Slots {
    /// So many at most.
    pub(crate) fn new(all: usize) -> Self {
        let permits = Arc::new(Semaphore::new(all));
        let all = u32::try_from(all).unwrap_or(u32::MAX);
        let parked = Arc::clone(&permits).try_acquire_many_owned(all.saturating_sub(LEAST)).ok();
        Self { permits, all, parked: Mutex::new(parked), ran: AtomicU32::new(0) }
    }

    /// One permit each. Fair: whoever asks for all of them is not overtaken by those who ask for one.
    pub(crate) fn permits(&self) -> &Arc<Semaphore> {
        &self.permits
    }

    /// So many have run.
    pub(crate) fn ran(&self, count: usize) {
        self.ran.fetch_add(u32::try_from(count).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// Waits for all that runs, and lets nothing else begin.
    pub(crate) async fn all(&self) -> All<'_> {
        let parked = self.parked.lock().await;
        let number = parked.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let rest = self.all - u32::try_from(number).expect("no more than all");
        let rest = self.permits.acquire_many(rest).await.expect("it is never closed");
        All { _rest: rest, _parked: parked }
    }

    /// Parks what is more than `wanted`, as far as it is free, or gives some back.
    async fn fit(&self, wanted: u32) {
        let mut parked = self.parked.lock().await;
        let number = parked.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let surplus = (self.all - wanted) as usize;
        if number > surplus {
            drop(parked.as_mut().and_then(|parked| parked.split(number - surplus)));
        } else {
            let more = (surplus - number).min(self.permits.available_permits());
            let more = u32::try_from(more).unwrap_or(u32::MAX);
            if let Ok(more) = Arc::clone(&self.permits).try_acquire_many_owned(more) {
                match parked.as_mut() {
                    Some(parked) => parked.merge(more),
                    None => *parked = Some(more),
                }
            }
        }
    }
}

/// How many are wanted when so many ran in the last period, and so many were wanted then: more at once, fewer little by
/// little, so that a moment without work costs nothing.
fn wanted(all: u32, before: u32, ran: u32) -> u32 {
    let least = LEAST.min(all);
    ran.saturating_mul(PERIODS).max(before - before / 8).clamp(least, all)
}

/// Fits the number of slots to the pace of the models, until the worker is over.
pub(crate) async fn keep(node: Arc<Node>) {
    let slots = &node.slots;
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut number = LEAST.min(slots.all);
    while node.over.run_until_cancelled(ticks.tick()).await.is_some() {
        number = wanted(slots.all, number, slots.ran.swap(0, Ordering::Relaxed));
        slots.fit(number).await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn fast_models_have_more_slots_and_slow_ones_the_fewest() {
        assert_eq!(wanted(256, 64, 0), 64);
        assert_eq!(wanted(256, 64, 16), 64);
        assert_eq!(wanted(256, 64, 40), 160);
        assert_eq!(wanted(256, 64, 1000), 256);
        assert_eq!(wanted(256, 256, 0), 224);
        assert_eq!(wanted(16, 16, 1000), 16);
    }

    #[tokio::test]
    async fn all_slots_are_all_however_many_are_parked() {
        let slots = Slots::new(100);
        assert_eq!(slots.permits.available_permits(), 64);
        slots.fit(90).await;
        assert_eq!(slots.permits.available_permits(), 90);
        let one = slots.permits.acquire().await.expect("it is never closed");
        assert!(slots.all().now_or_never().is_none(), "one is in use");
        drop(one);
        let all = slots.all().now_or_never().expect("none is in use");
        assert_eq!(slots.permits.available_permits(), 0);
        assert!(slots.fit(100).now_or_never().is_none(), "nothing changes meanwhile");
        drop(all);
        slots.fit(64).await;
        assert_eq!(slots.permits.available_permits(), 64);
    }

    #[tokio::test]
    async fn what_is_in_use_is_parked_later() {
        let slots = Slots::new(100);
        slots.fit(100).await;
        let used = slots.permits.acquire_many(80).await.expect("it is never closed");
        slots.fit(64).await;
        assert_eq!(slots.permits.available_permits(), 0, "20 were free");
        drop(used);
        slots.fit(64).await;
        assert_eq!(slots.permits.available_permits(), 64);
    }
}
