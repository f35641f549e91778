//! Who waits in this process for predictions to end. Whoever ends one on a handle that [tells](Store::telling) them says how it ended,
//! so that they need not ask; of all others they only hear that it ended.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prediction::{Failure, Metrics, Prediction, PredictionId, Status};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use tokio::sync::Notify;

use crate::{
    Outcome, RunMetrics, Store,
    numbers::{count, stored_count},
    outcomes::{Applied, Item, Moments},
};

/// Everyone who waits for a prediction.
#[derive(Clone, Default)]
pub struct Waiters(Arc<Mutex<HashMap<PredictionId, Vec<Arc<Waiter>>>>>);

#[derive(Default)]
struct Waiter {
    woken: Notify,
    /// How it ended, if that was told.
    end: Mutex<Option<Arc<Ended>>>,
}

/// Somebody who waits for one prediction, until dropped.
pub struct Waiting {
    id: PredictionId,
    waiter: Arc<Waiter>,
    waiters: Waiters,
}

/// How a run ended its prediction, as it is stored.
pub struct Ended {
    status: Status,
    output: Option<Box<RawValue>>,
    failure: Option<Failure>,
    metrics: RunMetrics,
    moments: Moments,
}

impl Store {
    /// A handle whose [`Store::complete`] tells these waiters how predictions ended.
    #[must_use]
    pub fn telling(&self, waiters: &Waiters) -> Self {
        Self { waiters: waiters.clone(), ..self.clone() }
    }
}

impl Waiters {
    /// Begins to wait. Look at the prediction after this and before waiting: what happened before is not told.
    #[must_use]
    pub fn wait_for(&self, id: PredictionId) -> Waiting {
        let waiter = Arc::<Waiter>::default();
        self.lock().entry(id).or_default().push(Arc::clone(&waiter));
        Waiting { id, waiter, waiters: self.clone() }
    }

    /// Wakes those who wait for one of these, which are said to be finished.
    pub fn wake(&self, ids: &[PredictionId]) {
        let waiting = self.lock();
        for waiter in ids.iter().filter_map(|id| waiting.get(id)).flatten() {
            waiter.woken.notify_one();
        }
    }

    /// What is waited for.
    #[must_use]
    pub fn ids(&self) -> Vec<PredictionId> {
        self.lock().keys().copied().collect()
    }

    /// Tells those who wait for one of these how it ended.
    pub(crate) fn tell(&self, outcomes: &[Outcome], mut applied: Applied) {
        for outcome in outcomes {
            let run = Item::from(outcome).run;
            // Outputs may be large: nobody else is kept waiting while one is copied.
            let Some(waiters) = self.lock().get(&run.id).cloned() else { continue };
            let moments = applied.remove(&run).flatten();
            let Some(end) = moments.and_then(|moments| Ended::from(outcome, moments)) else { continue };
            let end = Arc::new(end);
            for waiter in waiters {
                *waiter.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&end));
                waiter.woken.notify_one();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PredictionId, Vec<Arc<Waiter>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Returns when the prediction is said to be finished, with how it ended if that was told as well.
    pub async fn woken(&self) -> Option<Arc<Ended>> {
        self.waiter.woken.notified().await;
        self.waiter.end.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut waiting = self.waiters.lock();
        if let Some(same) = waiting.get_mut(&self.id) {
            same.retain(|waiter| !Arc::ptr_eq(waiter, &self.waiter));
            if same.is_empty() {
                waiting.remove(&self.id);
            }
        }
    }
}

impl Ended {
    fn from(outcome: &Outcome, moments: Moments) -> Option<Self> {
        let (status, output, failure, metrics) = match outcome {
            Outcome::Succeeded { output, metrics, .. } => (Status::Succeeded, Some(output.clone()), None, *metrics),
            Outcome::Failed { failure, metrics, .. } => (Status::Failed, None, Some(failure.clone()), *metrics),
            Outcome::Retry { .. } | Outcome::Released { .. } => return None,
        };
        Some(Self { status, output, failure, metrics, moments })
    }

    /// The prediction, of which this was known before it ended, as [`Store::get`] shows it now.
    #[must_use]
    pub fn of(&self, known: Prediction) -> Prediction {
        let Moments { claimed_at, started_at, completed_at, expires_at, attempts } = self.moments;
        let since_acceptance = |moment: OffsetDateTime| (moment - known.created_at).as_seconds_f64();
        Prediction {
            status: self.status,
            output: self.output.clone(),
            error: self.failure.as_ref().map(|failure| failure.message.clone()),
            failure: self.failure.clone(),
            metrics: Metrics {
                queue_time: claimed_at.map(since_acceptance),
                predict_time: Some(self.metrics.predict_seconds),
                total_time: Some(since_acceptance(completed_at)),
                batch_size: Some(stored_count(count(self.metrics.batch_size))),
                tokens: self.metrics.tokens.map(|tokens| stored_count(count(tokens))),
            },
            started_at,
            completed_at: Some(completed_at),
            expires_at,
            attempt: attempts,
            queue: None,
            ..known
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
