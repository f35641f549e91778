//! The set of runs that this worker holds, each until its lease is known to be somebody else's or its outcome is written.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use inference::{Abandon, Audience, Draft};
use prediction::PredictionId;
use store::Run;
use tokio::sync::Notify;

/// All runs held. Times are this machine's monotonic ones and lie before the database's: each is counted from before the call
/// that took or renewed the lease was sent.
#[derive(Default)]
pub(crate) struct Held {
    runs: Mutex<HashMap<PredictionId, Entry>>,
    /// Leases were renewed, or runs given up.
    changed: Notify,
}

struct Entry {
    epoch: i32,
    since: Instant,
    until: Instant,
    abandon: Abandon,
    draft: Draft,
}

/// One run held; dropping it takes it out of the set.
pub(crate) struct Hold {
    held: Arc<Held>,
    run: Run,
    abandon: Abandon,
    draft: Draft,
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, HashMap<PredictionId, Entry>> {
        self.runs.lock().expect("no panic while locked")
    }

    /// Holds runs whose leases last until `until`, and whose drafts have this audience. An earlier run of the same prediction has lost
    /// its lease or its claim, else this one could not be.
    pub(crate) fn hold(
        self: &Arc<Self>,
        runs: impl IntoIterator<Item = Run>,
        until: Instant,
        audience: &Audience,
    ) -> Vec<Hold> {
        let mut held = self.lock();
        let hold = |run: Run| {
            let (abandon, draft) = (Abandon::default(), Draft::new(seed(run.id), audience.clone()));
            let entry = Entry {
                epoch: run.epoch,
                since: Instant::now(),
                until,
                abandon: abandon.clone(),
                draft: draft.clone(),
            };
            if let Some(earlier) = held.insert(run.id, entry) {
                earlier.abandon.abandon();
            }
            Hold { held: Arc::clone(self), run, abandon, draft }
        };
        let holds = runs.into_iter().map(hold).collect();
        drop(held);
        self.changed.notify_waiters();
        holds
    }

    /// Every run held.
    pub(crate) fn runs(&self) -> Vec<Run> {
        self.lock().iter().map(|(id, entry)| Run { id: *id, epoch: entry.epoch }).collect()
    }

    /// What the run of this prediction has written, and its epoch, if it is held and still wanted.
    pub(crate) fn draft(&self, id: PredictionId) -> Option<(i32, Draft)> {
        let held = self.lock();
        let entry = held.get(&id).filter(|entry| !entry.abandon.is_abandoned())?;
        Some((entry.epoch, entry.draft.clone()))
    }

    /// Whether a run of this prediction is held.
    pub(crate) fn holds(&self, id: PredictionId) -> bool {
        self.lock().contains_key(&id)
    }

    /// Whether nothing is held.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// The leases of `runs` last until `until`, except those of `lost`, as was asked at `asked_at`: what has been held since then is
    /// another run, even under the same epoch.
    pub(crate) fn renew(&self, runs: &[Run], lost: &[PredictionId], asked_at: Instant, until: Instant) {
        let mut held = self.lock();
        for run in runs {
            let Some(entry) = held.get_mut(&run.id).filter(|entry| entry.epoch == run.epoch && entry.since <= asked_at)
            else {
                continue;
            };
            if lost.contains(&run.id) {
                entry.abandon.abandon();
            } else {
                entry.until = until;
            }
        }
        drop(held);
        self.changed.notify_waiters();
    }

    /// These are no longer this worker's, whatever their epoch.
    pub(crate) fn give_up(&self, ids: &[PredictionId]) {
        let held = self.lock();
        ids.iter().filter_map(|id| held.get(id)).for_each(|entry| entry.abandon.abandon());
        drop(held);
        self.changed.notify_waiters();
    }

    /// Waits until it is known of each whether its lease is still held: at once within its time, else after the store has
    /// answered a renewal. A lease that ran out while the store was away is not lost: nobody could take it.
    pub(crate) async fn settled(&self, holds: impl Iterator<Item = &Hold> + Clone) {
        while !self.are_settled(holds.clone()) {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Before looking again, so that no change in between is missed.
            changed.as_mut().enable();
            if self.are_settled(holds.clone()) {
                return;
            }
            changed.await;
        }
    }

    fn are_settled<'a>(&self, mut holds: impl Iterator<Item = &'a Hold>) -> bool {
        let (held, now) = (self.lock(), Instant::now());
        let lasts = |hold: &Hold| {
            held.get(&hold.run.id).is_some_and(|entry| entry.epoch == hold.run.epoch && entry.until > now)
        };
        holds.all(|hold| hold.is_gone() || lasts(hold))
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

    /// Where its text grows, if the model writes one.
    pub(crate) fn draft(&self) -> &Draft {
        &self.draft
    }

    /// Whether the run is no longer this worker's.
    pub(crate) fn is_gone(&self) -> bool {
        self.abandon.is_abandoned()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.held.lock();
        // Not by its epoch: a claim that a crash of the database took back is made again under the same one.
        if held.get(&self.run.id).is_some_and(|entry| entry.abandon.is_same(&self.abandon)) {
            held.remove(&self.run.id);
        }
    }
}

/// The seed of every run of a prediction, so that another one writes the same text.
fn seed(id: PredictionId) -> u64 {
    let (first, second) = id.0.as_u64_pair();
    first ^ second
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;

    fn run(epoch: i32) -> Run {
        Run { id: PredictionId(uuid::Uuid::nil()), epoch }
    }

    fn hold(held: &Arc<Held>, run: Run, until: Instant) -> Hold {
        held.hold([run], until, &Audience::default()).pop().expect("one")
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(3600)
    }

    #[test]
    fn a_later_run_of_the_same_prediction_ends_the_earlier() {
        let held = Arc::new(Held::default());
        let first = hold(&held, run(1), later());
        let second = hold(&held, run(2), later());
        assert!(first.is_gone() && !second.is_gone());
        drop(first);
        assert_eq!(held.runs(), [run(2)]);
        drop(second);
        assert!(held.is_empty());
    }

    #[test]
    fn a_claim_made_again_under_the_same_epoch_ends_the_one_that_was_lost() {
        let held = Arc::new(Held::default());
        let lost = hold(&held, run(1), later());
        let before = Instant::now();
        let again = hold(&held, run(1), later());
        assert!(lost.is_gone() && !again.is_gone());
        // As was asked before it was made again.
        held.renew(&[run(1)], &[run(1).id], before, later());
        assert!(!again.is_gone());
        drop(lost);
        assert_eq!(held.runs(), [run(1)]);
    }

    #[test]
    fn an_answer_about_an_earlier_epoch_does_not_touch_the_later() {
        let held = Arc::new(Held::default());
        let second = hold(&held, run(2), later());
        held.renew(&[run(1)], &[run(1).id], Instant::now(), later());
        assert!(!second.is_gone());
        held.renew(&[run(2)], &[run(2).id], Instant::now(), later());
        assert!(second.is_gone());
    }

    #[test]
    fn a_lease_past_its_time_is_settled_by_the_next_renewal() {
        let held = Arc::new(Held::default());
        let lease = hold(&held, run(1), Instant::now());
        let other = hold(&held, Run { id: PredictionId(uuid::Uuid::max()), epoch: 1 }, later());
        let mut settled = Box::pin(held.settled([&lease, &other].into_iter()));
        assert!(settled.as_mut().now_or_never().is_none());
        held.renew(&[run(1)], &[], Instant::now(), later());
        assert!(settled.now_or_never().is_some() && !lease.is_gone());
    }

    #[test]
    fn a_run_that_is_given_up_is_settled_whatever_its_lease() {
        let held = Arc::new(Held::default());
        let lease = hold(&held, run(1), Instant::now());
        let mut settled = Box::pin(held.settled([&lease].into_iter()));
        assert!(settled.as_mut().now_or_never().is_none());
        held.give_up(&[run(1).id]);
        assert!(settled.now_or_never().is_some() && lease.is_gone());
    }

    #[test]
    fn every_run_of_a_prediction_has_its_seed() {
        let (one, other) = (PredictionId::generate(), PredictionId::generate());
        assert_eq!(seed(one), seed(one));
        assert_ne!(seed(one), seed(other));
        assert_ne!(seed(PredictionId(uuid::Uuid::from_u128(1))), seed(PredictionId(uuid::Uuid::from_u128(2))));
    }
}
