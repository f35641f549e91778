//! What workers do on the store: predictions claimed under leases, leases renewed, outcomes written, what is over swept and purged.

use std::time::Duration;

use prediction::{ModelName, PredictionId, Version, WorkerId};

use crate::{
    Backend, Claim, Claimed, Outcome, Purged, Renewed, Run, Store, StoreError, Sweep, Swept, Written,
    apart::{among, apart},
    outcomes,
};

/// How long a lease of this length lasts at least once it has been renewed. It is not written anew each time that a worker asks: most
/// runs are over before.
#[must_use]
pub fn renewed_for(lease: Duration) -> Duration {
    lease * 9 / 10
}

/// # Errors
/// As with every call on the store.
impl Store {
    /// Takes waiting, due, unsuspected predictions among `ids` under a lease. What is missing from the answer is
    /// finished, taken, not due or unknown: its ticket was stale. Suspects are named, not taken.
    pub async fn claim(&self, worker: WorkerId, ids: &[PredictionId], lease: Duration) -> Result<Claim, StoreError> {
        if ids.is_empty() {
            return Ok(Claim::default());
        }
        on_backend!(self, backend => backend.claim(worker, ids, lease).await)
    }

    /// Takes the next waiting, due predictions of these versions without tickets, in fair order, at most `limit`, and none of
    /// `passed_over`. Those that the database refuses to give are named, and the others taken.
    pub async fn claim_next(
        &self,
        worker: WorkerId,
        serves: &[(ModelName, Version)],
        passed_over: &[PredictionId],
        limit: u32,
        lease: Duration,
    ) -> Result<Claim, StoreError> {
        if serves.is_empty() {
            return Ok(Claim::default());
        }
        let claim = async |ids: Option<Vec<PredictionId>>| match ids {
            None => on_backend!(self, backend => backend.claim_next(worker, serves, passed_over, limit, lease).await),
            Some(ids) => self.claim(worker, &ids, lease).await,
        };
        let next = async { on_backend!(self, backend => backend.next_waiting(serves, passed_over, limit).await) };
        let (claims, refused) = among(claim, next, "predictions cannot be claimed").await?;
        Ok(Claim::of(claims, refused))
    }

    /// Takes one suspect of these versions to be run alone: the worker must hold nothing else while it runs.
    pub async fn claim_suspect(
        &self,
        worker: WorkerId,
        serves: &[(ModelName, Version)],
        lease: Duration,
    ) -> Result<Option<Claimed>, StoreError> {
        on_backend!(self, backend => backend.claim_suspect(worker, serves, lease).await)
    }

    /// Sees to it that these runs are held for [`renewed_for`] at least: a lease that has less left is extended to `lease`, the others
    /// are only looked at. One whose lease the database refuses to extend keeps the one that it has: the fence decides what becomes
    /// of its outcome, and it is found to be no longer held once another has it.
    pub async fn renew(&self, worker: WorkerId, runs: &[Run], lease: Duration) -> Result<Renewed, StoreError> {
        if runs.is_empty() {
            return Ok(Renewed::default());
        }
        let renew = async |runs: &[Run]| on_backend!(self, backend => backend.renew(worker, runs, lease).await);
        let renewed = apart(runs, renew).await?;
        renewed.report("leases cannot be renewed");
        Ok(Renewed { lost: renewed.done.concat(), not_tried: renewed.left.iter().map(|run| run.id).collect() })
    }

    /// Writes outcomes of this worker's runs; one answer per item, in order: [`Written::Stale`] when the fence refused it. Those who
    /// wait for what ended are told, if this handle [tells](Store::telling) them.
    pub async fn complete(
        &self,
        worker: WorkerId,
        outcomes: impl AsRef<[Outcome]>,
    ) -> Result<Vec<Written>, StoreError> {
        let outcomes = outcomes.as_ref();
        if outcomes.is_empty() {
            return Ok(Vec::new());
        }
        let applied = on_backend!(self, backend => backend.complete(worker, outcomes).await)?;
        let written = outcomes::written(outcomes, &applied);
        self.waiters.tell(outcomes, applied);
        Ok(written)
    }

    /// Ends what is over: expired leases go back to waiting (or fail as poison), passed deadlines are canceled. What the database
    /// refuses to change stays as it is.
    pub async fn sweep(&self, sweep: Sweep) -> Result<Swept, StoreError> {
        let call = async |ids: Option<Vec<PredictionId>>| on_backend!(self, backend => backend.sweep(sweep, ids.as_deref()).await);
        let over = async { on_backend!(self, backend => backend.over(sweep).await) };
        let (swept, _) = among(call, over, "predictions are over, but cannot be ended").await?;
        Ok(Swept::of(swept))
    }

    /// Deletes predictions that expired (`expires_at`) and all of whose deliveries are over, with these; idempotency keys and
    /// tests of webhooks that are older than `keys_for`; secrets whose grace has ended; workers not seen for a day. At most
    /// `limit` of each. Predictions that the database refuses to delete stay.
    pub async fn purge(&self, keys_for: Duration, limit: u32) -> Result<Purged, StoreError> {
        let call = async |ids: Option<Vec<PredictionId>>| on_backend!(self, backend => backend.purge_predictions(ids.as_deref(), limit).await);
        let expired = async { on_backend!(self, backend => backend.expired(limit).await) };
        let (purged, refused) = among(call, expired, "predictions have expired, but cannot be deleted").await?;
        let (predictions, refused) = (purged.into_iter().sum(), refused.len() as u64);
        let rest = on_backend!(self, backend => backend.purge_rest(keys_for, limit).await)?;
        Ok(Purged { predictions, refused, ..rest })
    }
}
