//! Claiming and renewing: leases by the database's clock, each under a new epoch.

use std::{collections::HashSet, time::Duration};

use prediction::{Event, ModelName, PredictionId, Version, WorkerId};
use sqlx::SqliteConnection;
use uuid::Uuid;

use super::{
    Sqlite,
    clock::{self, Stamp},
    id_list,
    outbox::Outbox,
    writer::first,
};
use crate::{
    Claim, Claimed, Run, StoreError,
    numbers::micros,
    rows::{self, ClaimedRow},
};

/// Those among the ids that wait, and whether each must run alone.
const WAITING_AMONG: &str = first!(
    "SELECT predictions.id, suspect
    FROM json_each(?1) AS wanted
    CROSS JOIN predictions ON predictions.id = unhex(wanted.value)
    WHERE status = 0 AND not_before <= ?2 AND (deadline_at IS NULL OR deadline_at > ?2)"
);

/// The front of one version's line.
const WAITING_NEXT: &str = "
    SELECT priority, not_before, id FROM predictions
    WHERE version_id = (SELECT id FROM versions WHERE model = ?1 AND version = ?2) AND status = 0 AND NOT suspect
      AND not_before <= ?3 AND (deadline_at IS NULL OR deadline_at > ?3)
    ORDER BY priority DESC, not_before, id
    LIMIT ?4";

const WAITING_SUSPECTS: &str = "
    SELECT priority, not_before, id FROM predictions
    WHERE version_id = (SELECT id FROM versions WHERE model = ?1 AND version = ?2) AND status = 0 AND suspect = 1
      AND not_before <= ?3 AND (deadline_at IS NULL OR deadline_at > ?3)
    ORDER BY priority DESC, not_before, id
    LIMIT ?4";

/// Takes predictions, and reads what was taken.
const TAKE: &str = "
    UPDATE predictions
    SET status = 1, epoch = epoch + 1, attempts = attempts + 1, worker = ?2, lease_until = ?3, solo = suspect,
        claimed_at = ?4, started_at = COALESCE(started_at, ?4)
    WHERE id IN (SELECT unhex(value) FROM json_each(?1));
    SELECT predictions.id, epoch, model, version, input, retries, max_retries, deadline_at - ?4 AS deadline_micros,
           webhook_events, attempts
    FROM json_each(?1) AS wanted
    CROSS JOIN predictions ON predictions.id = unhex(wanted.value)
    JOIN versions ON versions.id = version_id
    JOIN inputs ON prediction_id = predictions.id
    ORDER BY priority DESC, not_before, predictions.id";

const RENEW: &str = "
    UPDATE predictions SET lease_until = ?1
    WHERE status = 1 AND worker = ?2
      AND (id, epoch) IN (SELECT unhex(value ->> 0), value ->> 1 FROM json_each(?3))
    RETURNING id";

impl Sqlite {
    pub(crate) async fn claim(
        &self,
        worker: WorkerId,
        ids: &[PredictionId],
        lease: Duration,
    ) -> Result<Claim, StoreError> {
        let mut transaction = self.writer.turn().await?;
        let now = clock::now();
        let waiting: Vec<(Uuid, bool)> =
            sqlx::query_as(WAITING_AMONG).bind(id_list(ids)).bind(now).fetch_all(&mut *transaction).await?;
        let (suspects, free): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(_, suspect)| *suspect);
        let ids = |rows: Vec<(Uuid, bool)>| rows.into_iter().map(|(id, _)| PredictionId(id)).collect::<Vec<_>>();
        let claimed = take(&mut transaction, now, worker, &ids(free), lease).await?;
        transaction.commit().await?;
        Ok(Claim { claimed, suspects: ids(suspects) })
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
        let claimed = take(&mut transaction, now, worker, &next, lease).await?;
        transaction.commit().await?;
        Ok(Claim { claimed, suspects })
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
        let mut claimed = take(&mut transaction, now, worker, &suspect, lease).await?;
        transaction.commit().await?;
        Ok(claimed.pop())
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
) -> sqlx::Result<Vec<PredictionId>> {
    let mut front: Vec<(i16, Stamp, Uuid)> = Vec::new();
    for (model, version) in serves {
        let waiting: Vec<(i16, Stamp, Uuid)> = sqlx::query_as(line)
            .bind(model.as_str())
            .bind(version.as_str())
            .bind(now)
            .bind(limit)
            .fetch_all(&mut *connection)
            .await?;
        front.extend(waiting);
    }
    front.sort_unstable_by_key(|(priority, not_before, id)| (-priority, *not_before, *id));
    front.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(front.into_iter().map(|(_, _, id)| PredictionId(id)).collect())
}

async fn take(
    connection: &mut SqliteConnection,
    now: Stamp,
    worker: WorkerId,
    ids: &[PredictionId],
    lease: Duration,
) -> Result<Vec<Claimed>, StoreError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<ClaimedRow> = sqlx::query_as(TAKE)
        .bind(id_list(ids))
        .bind(worker.0)
        .bind(now.plus(micros(lease)))
        .bind(now)
        .fetch_all(&mut *connection)
        .await?;
    let claimed = rows.into_iter().map(ClaimedRow::into_claimed).collect::<Result<Vec<_>, _>>()?;
    let mut outbox = Outbox::default();
    for claimed in claimed.iter().filter(|claimed| claimed.is_first) {
        outbox.add(claimed.run.id, claimed.webhook_events, [Event::Start]);
    }
    outbox.tell(connection, now).await?;
    Ok(claimed)
}
