//! Claiming and renewing: leases by the database's clock, each under a new epoch.

use std::{collections::HashSet, time::Duration};

use prediction::{Event, Events, ModelName, PredictionId, Version, WorkerId};
use sqlx::SqliteConnection;
use uuid::Uuid;

use super::{
    Sqlite,
    clock::{self, Stamp},
    id_list,
    outbox::Outbox,
    writer::{Turn, commit, first_unsynced},
};
use crate::{
    Claim, Claimed, Run, StoreError,
    numbers::micros,
    rows::{self, ClaimedRow},
};

/// Those among the ids that wait. The claim does not wait for the disk: a suspect is named by it, not taken.
const WAITING_AMONG: &str = first_unsynced!(
    "SELECT predictions.id, suspect, priority, not_before, attempts, webhook_events
    FROM json_each(?1) AS wanted
    CROSS JOIN predictions ON predictions.id = unhex(wanted.value)
    WHERE status = 0 AND not_before <= ?2 AND (deadline_at IS NULL OR deadline_at > ?2)"
);

/// The front of one version's line.
const WAITING_NEXT: &str = "
    SELECT id, suspect, priority, not_before, attempts, webhook_events FROM predictions
    WHERE version_id = (SELECT id FROM versions WHERE model = ?1 AND version = ?2) AND status = 0 AND NOT suspect
      AND not_before <= ?3 AND (deadline_at IS NULL OR deadline_at > ?3)
    ORDER BY priority DESC, not_before, id
    LIMIT ?4";

const WAITING_SUSPECTS: &str = "
    SELECT id, suspect, priority, not_before, attempts, webhook_events FROM predictions
    WHERE version_id = (SELECT id FROM versions WHERE model = ?1 AND version = ?2) AND status = 0 AND suspect = 1
      AND not_before <= ?3 AND (deadline_at IS NULL OR deadline_at > ?3)
    ORDER BY priority DESC, not_before, id
    LIMIT ?4";

/// Takes predictions, reads what was taken, and commits.
const TAKE: &str = concat!(
    "UPDATE predictions
    SET status = 1, epoch = epoch + 1, attempts = attempts + 1, worker = ?2, lease_until = ?3, solo = suspect,
        claimed_at = ?4, started_at = COALESCE(started_at, ?4)
    WHERE id IN (SELECT unhex(value) FROM json_each(?1));
    SELECT predictions.id, epoch, model, version, input, retries, max_retries, deadline_at - ?4 AS deadline_micros,
           webhook_events, attempts
    FROM json_each(?1) AS wanted
    CROSS JOIN predictions ON predictions.id = unhex(wanted.value)
    JOIN versions ON versions.id = version_id
    JOIN inputs ON prediction_id = predictions.id
    ORDER BY priority DESC, not_before, predictions.id; ",
    commit!()
);

const RENEW: &str = "
    UPDATE predictions SET lease_until = ?1
    WHERE status = 1 AND worker = ?2
      AND (id, epoch) IN (SELECT unhex(value ->> 0), value ->> 1 FROM json_each(?3))
    RETURNING id";

/// A prediction that waits, as it is before it is taken.
#[derive(sqlx::FromRow)]
struct Waiting {
    id: Uuid,
    suspect: bool,
    priority: i16,
    not_before: Stamp,
    attempts: i32,
    webhook_events: i16,
}

impl Sqlite {
    pub(crate) async fn claim(
        &self,
        worker: WorkerId,
        ids: &[PredictionId],
        lease: Duration,
    ) -> Result<Claim, StoreError> {
        let mut transaction = self.writer.turn().await?;
        let now = clock::now();
        let waiting: Vec<Waiting> =
            sqlx::query_as(WAITING_AMONG).bind(id_list(ids)).bind(now).fetch_all(&mut *transaction).await?;
        let (suspects, free): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|waiting| waiting.suspect);
        let claimed = take(transaction, now, worker, &free, lease).await?;
        Ok(Claim { claimed, suspects: named(&suspects) })
    }

    pub(crate) async fn claim_next(
        &self,
        worker: WorkerId,
        serves: &[(ModelName, Version)],
        limit: u32,
        lease: Duration,
    ) -> Result<Claim, StoreError> {
        let mut transaction = self.writer.begin().await?;
        let now = clock::now();
        let next = front(&mut transaction, WAITING_NEXT, serves, now, limit).await?;
        let suspects = front(&mut transaction, WAITING_SUSPECTS, serves, now, limit).await?;
        let claimed = take(transaction, now, worker, &next, lease).await?;
        Ok(Claim { claimed, suspects: named(&suspects) })
    }

    pub(crate) async fn claim_suspect(
        &self,
        worker: WorkerId,
        serves: &[(ModelName, Version)],
        lease: Duration,
    ) -> Result<Option<Claimed>, StoreError> {
        let mut transaction = self.writer.begin().await?;
        let now = clock::now();
        let suspect = front(&mut transaction, WAITING_SUSPECTS, serves, now, 1).await?;
        Ok(take(transaction, now, worker, &suspect, lease).await?.pop())
    }

    pub(crate) async fn renew(
        &self,
        worker: WorkerId,
        runs: &[Run],
        lease: Duration,
    ) -> Result<Vec<PredictionId>, StoreError> {
        let mut transaction = self.writer.begin().await?;
        let now = clock::now();
        let wanted: Vec<(String, i32)> = runs.iter().map(|run| (run.id.0.simple().to_string(), run.epoch)).collect();
        let held: Vec<Uuid> = sqlx::query_scalar(RENEW)
            .bind(now.plus(micros(lease)))
            .bind(worker.0)
            .bind(sqlx::types::Json(wanted))
            .fetch_all(&mut *transaction)
            .await?;
        transaction.commit().await?;
        let held: HashSet<PredictionId> = rows::ids(held).into_iter().collect();
        Ok(runs.iter().map(|run| run.id).filter(|id| !held.contains(id)).collect())
    }
}

/// The first `limit` of several versions' lines, in fair order.
async fn front(
    connection: &mut SqliteConnection,
    line: &'static str,
    serves: &[(ModelName, Version)],
    now: Stamp,
    limit: u32,
) -> sqlx::Result<Vec<Waiting>> {
    let mut front = Vec::new();
    for (model, version) in serves {
        let waiting: Vec<Waiting> = sqlx::query_as(line)
            .bind(model.as_str())
            .bind(version.as_str())
            .bind(now)
            .bind(limit)
            .fetch_all(&mut *connection)
            .await?;
        front.extend(waiting);
    }
    front.sort_unstable_by_key(|waiting| (-waiting.priority, waiting.not_before, waiting.id));
    front.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(front)
}

fn named(waiting: &[Waiting]) -> Vec<PredictionId> {
    waiting.iter().map(|waiting| PredictionId(waiting.id)).collect()
}

/// Takes these, and commits. The first claim is the prediction's start.
async fn take(
    mut transaction: Turn,
    now: Stamp,
    worker: WorkerId,
    waiting: &[Waiting],
    lease: Duration,
) -> Result<Vec<Claimed>, StoreError> {
    if waiting.is_empty() {
        transaction.commit().await?;
        return Ok(Vec::new());
    }
    let mut outbox = Outbox::default();
    for waiting in waiting.iter().filter(|waiting| waiting.attempts == 0) {
        outbox.add(PredictionId(waiting.id), Events::from_bits(waiting.webhook_events), [Event::Start]);
    }
    outbox.tell(&mut transaction, now).await?;
    let rows: Vec<ClaimedRow<Vec<u8>>> = sqlx::query_as(TAKE)
        .bind(id_list(&named(waiting)))
        .bind(worker.0)
        .bind(now.plus(micros(lease)))
        .bind(now)
        .fetch_all(&mut *transaction)
        .await?;
    transaction.committed();
    rows.into_iter().map(ClaimedRow::into_claimed).collect()
}
