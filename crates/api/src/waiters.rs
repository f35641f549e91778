//! The completion bus: wakes those who wait for a prediction, and nobody else. Notices from the queue wake them at
//! once; because notices may be lost, one batched look into the store for all who wait finds the rest.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prediction::PredictionId;
use queue::Notice;
use tokio::{
    sync::{
        Notify,
        broadcast::error::RecvError::{Closed, Lagged},
    },
    time::MissedTickBehavior,
};

use crate::api::Api;

/// How often the store is asked while notices arrive.
const LOOK: Duration = Duration::from_millis(250);
/// How often it is asked while none do.
const LOOK_WITHOUT_NOTICES: Duration = Duration::from_millis(50);
/// The most ids in one question.
const LOOK_BATCH: usize = 1000;

/// Everyone who waits for a prediction.
#[derive(Clone, Default)]
pub(crate) struct Waiters(Arc<Mutex<HashMap<PredictionId, Vec<Arc<Notify>>>>>);

/// Somebody who waits for one prediction, until dropped.
pub(crate) struct Waiting {
    id: PredictionId,
    woken: Arc<Notify>,
    waiters: Waiters,
}

impl Waiters {
    /// Begins to wait. Look at the prediction after this and before waiting: what happened before is not told.
    pub(crate) fn wait_for(&self, id: PredictionId) -> Waiting {
        let woken = Arc::new(Notify::new());
        self.lock().entry(id).or_default().push(Arc::clone(&woken));
        Waiting { id, woken, waiters: self.clone() }
    }

    fn wake(&self, ids: &[PredictionId]) {
        let waiting = self.lock();
        for woken in ids.iter().filter_map(|id| waiting.get(id)).flatten() {
            woken.notify_one();
        }
    }

    fn ids(&self) -> Vec<PredictionId> {
        self.lock().keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PredictionId, Vec<Arc<Notify>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Returns when the prediction is said to be finished.
    pub(crate) async fn woken(&self) {
        self.woken.notified().await;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut waiting = self.waiters.lock();
        if let Some(same) = waiting.get_mut(&self.id) {
            same.retain(|woken| !Arc::ptr_eq(woken, &self.woken));
            if same.is_empty() {
                waiting.remove(&self.id);
            }
        }
    }
}

/// Wakes waiters for ever.
pub(crate) async fn run(api: Arc<Api>) {
    tokio::join!(hear(&api), watch(&api));
}

async fn hear(api: &Api) {
    let mut notices = api.queue.listen();
    loop {
        match notices.recv().await {
            Ok(Notice::Finished(ids)) => api.waiters.wake(&ids),
            Ok(Notice::Canceled(_) | Notice::DeliveriesDue | Notice::Asked(_)) => {}
            Err(Lagged(_)) => look(api).await,
            Err(Closed) => return,
        }
    }
}

async fn watch(api: &Api) {
    let mut ticks = tokio::time::interval(LOOK_WITHOUT_NOTICES);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let patient = LOOK.as_millis() / LOOK_WITHOUT_NOTICES.as_millis();
    let mut skipped = 0;
    loop {
        ticks.tick().await;
        skipped += 1;
        if skipped >= patient || !api.queue.is_healthy() {
            skipped = 0;
            look(api).await;
        }
    }
}

async fn look(api: &Api) {
    for ids in api.waiters.ids().chunks(LOOK_BATCH) {
        // A store that is away now is asked again at the next look.
        if let Ok(finished) = api.in_time(api.store.finished(ids)).await {
            api.waiters.wake(&finished);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[test]
    fn exactly_those_who_wait_are_woken_and_all_are_forgotten() {
        let waiters = Waiters::default();
        let (one, other) = (PredictionId::generate(), PredictionId::generate());
        let first = waiters.wait_for(one);
        let second = waiters.wait_for(one);
        let third = waiters.wait_for(other);
        waiters.wake(&[one, PredictionId::generate()]);
        assert!(first.woken().now_or_never().is_some() && second.woken().now_or_never().is_some());
        assert!(third.woken().now_or_never().is_none());
        drop(first);
        assert_eq!(waiters.ids().len(), 2);
        drop((second, third));
        assert!(waiters.ids().is_empty());
    }
}
