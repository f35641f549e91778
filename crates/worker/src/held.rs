//! The set of runs that this worker holds, each until its lease is known to be somebody else's or its outcome is written.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use inference::Abandon;
use prediction::PredictionId;
use store::Run;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// All runs held. Times are this machine's monotonic ones and lie before the database's: each is counted from before the call
/// that took or renewed the lease was sent.
#[derive(Default)]
pub(crate) struct Held {
    runs: Mutex<HashMap<PredictionId, Entry>>,
    renewed: Notify,
}

struct Entry {
    epoch: i32,
    until: Instant,
    abandon: Abandon,
    gone: CancellationToken,
}

/// One run held; dropping it takes it out of the set.
pub(crate) struct Hold {
    held: Arc<Held>,
    run: Run,
    abandon: Abandon,
    gone: CancellationToken,
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, HashMap<PredictionId, Entry>> {
        self.runs.lock().expect("no panic while locked")
    }

    /// Holds a run whose lease lasts until `until`. An earlier run of the same prediction has lost its lease, else this one could not be.
    pub(crate) fn hold(self: &Arc<Self>, run: Run, until: Instant) -> Hold {
        let (abandon, gone) = (Abandon::default(), CancellationToken::new());
        let entry = Entry { epoch: run.epoch, until, abandon: abandon.clone(), gone: gone.clone() };
        if let Some(earlier) = self.lock().insert(run.id, entry) {
            earlier.give_up();
        }
        Hold { held: Arc::clone(self), run, abandon, gone }
    }

    /// Every run held.
    pub(crate) fn runs(&self) -> Vec<Run> {
        self.lock().iter().map(|(id, entry)| Run { id: *id, epoch: entry.epoch }).collect()
    }

    /// Whether nothing is held.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// The leases of `runs` last until `until`, except those of `lost`.
    pub(crate) fn renew(&self, runs: &[Run], lost: &[PredictionId], until: Instant) {
        let mut held = self.lock();
        for run in runs {
            let Some(entry) = held.get_mut(&run.id).filter(|entry| entry.epoch == run.epoch) else { continue };
            if lost.contains(&run.id) {
                entry.give_up();
            } else {
                entry.until = until;
            }
        }
        drop(held);
        self.renewed.notify_waiters();
    }

    /// These are no longer this worker's, whatever their epoch.
    pub(crate) fn give_up(&self, ids: &[PredictionId]) {
        let held = self.lock();
        ids.iter().filter_map(|id| held.get(id)).for_each(Entry::give_up);
    }
}

impl Entry {
    fn give_up(&self) {
        self.abandon.abandon();
        self.gone.cancel();
    }
}

impl Hold {
    /// Which run it is.
    pub(crate) fn run(&self) -> Run {
        self.run
    }

    /// The handle by which the model learns that the run was taken back.
    pub(crate) fn abandon(&self) -> &Abandon {
        &self.abandon
    }

    /// Waits until the run is no longer this worker's.
    pub(crate) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Waits until it is known whether the lease is still held: at once within its time, else after the store has answered
    /// a renewal. A lease that ran out while the store was away is not lost: nobody could take it.
    pub(crate) async fn settled(&self) {
        loop {
            let renewed = self.held.renewed.notified();
            tokio::pin!(renewed);
            renewed.as_mut().enable();
            if self.gone.is_cancelled() || self.lasts() {
                return;
            }
            tokio::select! {
                () = self.gone.cancelled() => return,
                () = renewed => {}
            }
        }
    }

    fn lasts(&self) -> bool {
        let held = self.held.lock();
        held.get(&self.run.id).is_some_and(|entry| entry.epoch == self.run.epoch && entry.until > Instant::now())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.abandon.abandon();
        let mut held = self.held.lock();
        if held.get(&self.run.id).is_some_and(|entry| entry.epoch == self.run.epoch) {
            held.remove(&self.run.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;

    fn run(epoch: i32) -> Run {
        Run { id: PredictionId(uuid::Uuid::nil()), epoch }
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(3600)
    }

    #[test]
    fn a_later_run_of_the_same_prediction_ends_the_earlier() {
        let held = Arc::new(Held::default());
        let first = held.hold(run(1), later());
        let second = held.hold(run(2), later());
        assert!(first.abandon().is_abandoned() && !second.abandon().is_abandoned());
        drop(first);
        assert_eq!(held.runs(), [run(2)]);
        drop(second);
        assert!(held.is_empty());
    }

    #[test]
    fn an_answer_about_an_earlier_epoch_does_not_touch_the_later() {
        let held = Arc::new(Held::default());
        let second = held.hold(run(2), later());
        held.renew(&[run(1)], &[run(1).id], later());
        assert!(!second.abandon().is_abandoned());
        held.renew(&[run(2)], &[run(2).id], later());
        assert!(second.abandon().is_abandoned() && second.gone().now_or_never().is_some());
    }

    #[test]
    fn a_lease_past_its_time_is_settled_by_the_next_renewal() {
        let held = Arc::new(Held::default());
        let hold = held.hold(run(1), Instant::now());
        let mut settled = Box::pin(hold.settled());
        assert!(settled.as_mut().now_or_never().is_none());
        held.renew(&[run(1)], &[], later());
        assert!(settled.now_or_never().is_some() && !hold.abandon().is_abandoned());
    }
}
