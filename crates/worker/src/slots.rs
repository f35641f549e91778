//! Slots: what a worker runs or holds next to run, counted for each version by itself, so that predictions of a slow model never
//! take the place of a fast one's.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use futures::future::join_all;
use prediction::{ModelName, Version};
use tokio::sync::{Mutex, Notify, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

/// So many are in use at least, divided among the versions…
const LEAST: u32 = 64;
/// …of which each has so many at least, as far as there are so many.
const LEAST_EACH: u32 = 8;
/// What is held is run within so many of the periods between two fittings: long enough for a claim to be answered meanwhile.
const PERIODS: u32 = 4;

/// The slots of every version that can be run.
pub(crate) struct AllSlots {
    /// For each version.
    most: usize,
    versions: Arc<Mutex<ByVersion>>,
    /// Something ran, or there are other versions: there may be something to fit.
    unfit: Arc<Notify>,
}

type ByVersion = HashMap<(ModelName, Version), Arc<Slots>>;

/// The slots of one version: one permit for each prediction that runs or is next to run.
pub(crate) struct Slots {
    version: (ModelName, Version),
    permits: Arc<Semaphore>,
    all: u32,
    /// Those that are not in use for now. Locked for as long as somebody has all.
    parked: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
    /// How many are to be in use.
    wanted: Arc<AtomicU32>,
    /// Runs since that was last fitted.
    ran: AtomicU32,
    unfit: Arc<Notify>,
}

/// Some slots of one version, free again when dropped.
pub(crate) struct Taken {
    slots: Arc<Slots>,
    permits: queue::Slots,
}

/// Those of one version that are in use, and those that are parked, which stay so.
type AllOfVersion = (OwnedSemaphorePermit, OwnedMutexGuard<Option<OwnedSemaphorePermit>>);

/// All slots of all versions at once.
pub(crate) struct Everything {
    _of_versions: Vec<AllOfVersion>,
    _versions: OwnedMutexGuard<ByVersion>,
}

impl AllSlots {
    /// Each version has so many at most.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, versions: Arc::default(), unfit: Arc::default() }
    }

    /// Those of one version, made when they are first asked for. Waits while somebody has everything.
    pub(crate) async fn of(&self, model: &ModelName, version: &Version) -> Arc<Slots> {
        let mut versions = self.versions.lock().await;
        let version = (model.clone(), version.clone());
        let least = least(versions.len() + 1);
        let slots = versions.entry(version.clone()).or_insert_with(|| {
            self.unfit.notify_one();
            Arc::new(Slots::new(version, self.most, least, Arc::clone(&self.unfit)))
        });
        Arc::clone(slots)
    }

    /// Takes what is free of a version's, up to so many, if any is; nothing while somebody has everything.
    pub(crate) fn free(&self, version: &(ModelName, Version), most: usize) -> Option<Taken> {
        let slots = Arc::clone(self.versions.try_lock().ok()?.get(version)?);
        slots.free(most)
    }

    /// Those of every version.
    pub(crate) async fn each(&self) -> Vec<Arc<Slots>> {
        self.versions.lock().await.values().cloned().collect()
    }

    /// Fits how many of each version are in use to what ran since this was last called.
    pub(crate) async fn fit(&self) {
        let each = self.each().await;
        let least = least(each.len());
        for slots in each {
            if !slots.fit(least).await {
                self.unfit.notify_one();
            }
        }
    }

    /// Waits until something ran, or there may be something to fit without that.
    pub(crate) async fn unfit(&self) {
        self.unfit.notified().await;
    }

    /// Forgets versions that can no longer be run, once nothing of theirs runs.
    pub(crate) async fn retain(&self, runnable: &[(ModelName, Version)]) {
        let mut versions = self.versions.lock().await;
        let before = versions.len();
        versions.retain(|version, slots| runnable.contains(version) || Arc::strong_count(slots) > 1);
        if versions.len() < before {
            self.unfit.notify_one();
        }
    }

    /// Waits for all that runs, and lets nothing else begin.
    pub(crate) async fn everything(&self) -> Everything {
        let versions = Arc::clone(&self.versions).lock_owned().await;
        let of_versions = join_all(versions.values().map(|slots| slots.all())).await;
        Everything { _of_versions: of_versions, _versions: versions }
    }
}

impl Slots {
    fn new(version: (ModelName, Version), all: usize, least: u32, unfit: Arc<Notify>) -> Self {
        let permits = Arc::new(Semaphore::new(all));
        let all = u32::try_from(all).unwrap_or(u32::MAX);
        let parked = Arc::clone(&permits).try_acquire_many_owned(all.saturating_sub(least)).ok();
        let wanted = Arc::new(AtomicU32::new(least.min(all)));
        Self { version, permits, all, parked: Arc::new(Mutex::new(parked)), wanted, ran: AtomicU32::new(0), unfit }
    }

    /// Whose they are.
    pub(crate) fn version(&self) -> &(ModelName, Version) {
        &self.version
    }

    /// What tickets are taken for.
    pub(crate) fn room(&self) -> queue::Room {
        queue::Room { slots: Arc::clone(&self.permits), all: Arc::clone(&self.wanted) }
    }

    /// One permit each. Fair: whoever asks for all of them is not overtaken by those who ask for one.
    pub(crate) fn permits(&self) -> &Arc<Semaphore> {
        &self.permits
    }

    /// Takes what is free, up to so many, if any is.
    pub(crate) fn free(self: Arc<Self>, most: usize) -> Option<Taken> {
        let first = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        let mut taken = Taken { slots: self, permits: first };
        while taken.len() < most
            && let Ok(slot) = Arc::clone(&taken.slots.permits).try_acquire_owned()
        {
            taken.permits.merge(slot);
        }
        Some(taken)
    }

    async fn all(&self) -> AllOfVersion {
        let parked = Arc::clone(&self.parked).lock_owned().await;
        let number = parked.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let rest = self.all - u32::try_from(number).expect("no more than all");
        let rest = Arc::clone(&self.permits).acquire_many_owned(rest).await.expect("it is never closed");
        (rest, parked)
    }

    /// Whether that would change nothing if it were done again.
    async fn fit(&self, least: u32) -> bool {
        let (before, ran) = (self.wanted.load(Ordering::Relaxed), self.ran.swap(0, Ordering::Relaxed));
        let wanted = wanted(self.all, least, before, ran);
        self.wanted.store(wanted, Ordering::Relaxed);
        self.use_only(wanted).await && wanted == before
    }

    /// Parks what is more than `wanted`, as far as it is free, or gives some back. Whether as many are in use now.
    async fn use_only(&self, wanted: u32) -> bool {
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
        parked.as_ref().map_or(0, OwnedSemaphorePermit::num_permits) == surplus
    }
}

impl Taken {
    /// Those that were taken from `slots`.
    pub(crate) fn new(slots: Arc<Slots>, permits: queue::Slots) -> Self {
        Self { slots, permits }
    }

    /// Whose they are.
    pub(crate) fn version(&self) -> &(ModelName, Version) {
        self.slots.version()
    }

    /// How many they are.
    pub(crate) fn len(&self) -> usize {
        self.permits.num_permits()
    }

    /// Adds others of the same version.
    pub(crate) fn merge(&mut self, more: Self) {
        self.permits.merge(more.permits);
    }

    /// So many of them, if there are.
    pub(crate) fn split(&mut self, count: usize) -> Option<Self> {
        let permits = self.permits.split(count)?;
        Some(Self { slots: Arc::clone(&self.slots), permits })
    }

    /// What they were taken for has run: from now on they may be fitted, and are free when dropped.
    pub(crate) fn ran(&self) {
        self.slots.ran.fetch_add(u32::try_from(self.len()).unwrap_or(u32::MAX), Ordering::Relaxed);
        self.slots.unfit.notify_one();
    }
}

/// How many each of so many versions has in use at least.
fn least(versions: usize) -> u32 {
    u32::try_from(versions).map_or(LEAST_EACH, |versions| (LEAST / versions.max(1)).max(LEAST_EACH))
}

/// How many are wanted when so many ran in the last period, and so many were wanted then: more at once, fewer little by
/// little, so that a moment without work costs nothing.
fn wanted(all: u32, least: u32, before: u32, ran: u32) -> u32 {
    let least = least.min(all);
    ran.saturating_mul(PERIODS).max(before - before / 8).clamp(least, all)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn fast_models_have_more_slots_and_slow_ones_the_fewest() {
        assert_eq!(wanted(256, 64, 64, 0), 64);
        assert_eq!(wanted(256, 64, 64, 16), 64);
        assert_eq!(wanted(256, 64, 64, 40), 160);
        assert_eq!(wanted(256, 64, 64, 1000), 256);
        assert_eq!(wanted(256, 64, 256, 0), 224);
        assert_eq!(wanted(16, 64, 16, 1000), 16);
        assert_eq!(wanted(256, 8, 64, 0), 56);
        assert_eq!([0, 1, 2, 7, 8, 1000].map(least), [64, 64, 32, 9, 8, 8]);
    }

    fn version(number: u8) -> (ModelName, Version) {
        let version = format!("{number:064x}");
        ("augur/echo".parse().expect("a name"), version.parse().expect("a version"))
    }

    #[tokio::test]
    async fn everything_is_every_slot_of_every_version_however_many_are_parked() {
        let all = AllSlots::new(100);
        let (model, first) = version(1);
        let slots = all.of(&model, &first).await;
        let other = all.of(&model, &version(2).1).await;
        assert_eq!(slots.permits.available_permits(), 64);
        slots.use_only(90).await;
        assert_eq!(slots.permits.available_permits(), 90);
        let one = other.permits.acquire().await.expect("it is never closed");
        assert!(all.everything().now_or_never().is_none(), "one is in use");
        drop(one);
        let everything = all.everything().now_or_never().expect("none is in use");
        assert_eq!((slots.permits.available_permits(), other.permits.available_permits()), (0, 0));
        assert!(slots.use_only(100).now_or_never().is_none(), "nothing changes meanwhile");
        assert!(all.of(&model, &version(3).1).now_or_never().is_none(), "no other version begins meanwhile");
        drop(everything);
        slots.use_only(64).await;
        assert_eq!(slots.permits.available_permits(), 64);
    }

    #[tokio::test]
    async fn what_is_in_use_is_parked_later() {
        let slots = Slots::new(version(1), 100, 64, Arc::default());
        slots.use_only(100).await;
        let used = slots.permits.acquire_many(80).await.expect("it is never closed");
        assert!(!slots.use_only(64).await, "80 are in use");
        assert_eq!(slots.permits.available_permits(), 0, "20 were free");
        drop(used);
        assert!(slots.use_only(64).await);
        assert_eq!(slots.permits.available_permits(), 64);
    }

    #[tokio::test]
    async fn nothing_is_fitted_while_nothing_runs() {
        let all = AllSlots::new(100);
        let fitted = async || {
            let mut times = 0;
            while all.unfit().now_or_never().is_some() {
                all.fit().await;
                times += 1;
            }
            times
        };
        let (model, version) = version(1);
        let slots = all.of(&model, &version).await;
        assert_eq!(fitted().await, 1, "there is a version");
        assert_eq!(fitted().await, 0);
        let taken = Arc::clone(&slots).free(25).expect("some are free");
        assert_eq!(fitted().await, 0, "nothing of it has run");
        taken.ran();
        // To 100 at once, and back to 64 little by little.
        assert_eq!(fitted().await, 6);
        assert_eq!(slots.permits.available_permits(), 64 - taken.len());
        drop((taken, slots));
        all.retain(&[]).await;
        assert_eq!(fitted().await, 1, "there is one version less");
    }

    #[tokio::test]
    async fn a_version_is_forgotten_once_nothing_of_it_runs() {
        let all = AllSlots::new(100);
        let (model, gone) = version(1);
        let taken = all.of(&model, &gone).await.free(100).expect("some are free");
        assert_eq!(taken.len(), 64);
        all.retain(&[]).await;
        assert_eq!(all.each().await.len(), 1, "it has slots in use");
        drop(taken);
        all.retain(&[]).await;
        assert!(all.each().await.is_empty());
    }
}
