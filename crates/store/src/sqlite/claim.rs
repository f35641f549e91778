//! Claiming and renewing: leases by the database's clock, each under a new epoch.

use std::{cmp::Reverse, collections::HashSet, time::Duration};

use prediction::{ModelName, PredictionId, Version, WorkerId};
use sqlx::{FromRow, QueryBuilder, Row, SqliteConnection, sqlite::SqliteRow};
use uuid::Uuid;

use super::{
    Sqlite,
    clock::{self, Stamp},
    id_list,
    outbox::tell,
    push_wanted,
    writer::{Script, Turn},
};
use crate::{
    Claim, Claimed, Run, StoreError,
    numbers::micros,
    renewed_for,
    rows::{self, ClaimedRow},
};

/// That a prediction waits and is due: none is claimed before, and none whose deadline has passed.
const WAITS: &str = "status = 0 AND not_before <= now AND (deadline_at IS NULL OR deadline_at > now)";

/// The front of one version's line.
const WAITING_NEXT: &str = "
    SELECT id, priority, not_before FROM predictions
    WHERE version_id = (SELECT id FROM versions WHERE model = ?1 AND version = ?2) AND status = 0 AND NOT suspect
      AND not_before <= ?3 AND (deadline_at IS NULL OR deadline_at > ?3)
      AND id NOT IN (SELECT unhex(value) FROM json_each(?5))
    ORDER BY priority DESC, not_before, id
    LIMIT ?4";

const WAITING_SUSPECTS: &str = "
    SELECT id, priority, not_before FROM predictions
    WHERE version_id = (SELECT id FROM versions WHERE model = ?1 AND version = ?2) AND status = 0 AND suspect = 1
      AND not_before <= ?3 AND (deadline_at IS NULL OR deadline_at > ?3)
      AND id NOT IN (SELECT unhex(value) FROM json_each(?5))
    ORDER BY priority DESC, not_before, id
    LIMIT ?4";

/// Of the runs in ?2.
macro_rules! held {
    () => {
        "status = 1 AND worker = ?1 AND (id, epoch) IN (SELECT unhex(value ->> 0), value ->> 1 FROM json_each(?2))"
    };
}

/// Those whose lease ends before ?4 or, once the clock has been set back, after ?3.
const EXTEND: &str =
    concat!("UPDATE predictions SET lease_until = ?3 WHERE lease_until NOT BETWEEN ?4 AND ?3 AND ", held!());

const HELD: &str = concat!("SELECT id FROM predictions WHERE ", held!());

/// A prediction that waits, and its place in line.
#[derive(sqlx::FromRow)]
struct Waiting {
    id: Uuid,
    priority: i16,
    not_before: Stamp,
}

impl Waiting {
    fn place(&self) -> (Reverse<i16>, Stamp, Uuid) {
        (Reverse(self.priority), self.not_before, self.id)
    }
}

/// A claim of predictions by their ids, within one transaction.
struct Taking {
    ids: String,
    worker: WorkerId,
    now: Stamp,
    lease: Duration,
}

impl Sqlite {
    pub(crate) async fn claim(
        &self,
        worker: WorkerId,
        ids: &[PredictionId],
        lease: Duration,
    ) -> Result<Claim, StoreError> {
        let turn = self.writer.turn().await?;
        let taking = Taking { ids: id_list(ids), worker, now: clock::now(), lease };
        let mut script = Script::whole_unsynced();
        taking.take(script.message(), "NOT suspect");
        taking.name_suspects(script.message());
        let (suspects, claimed): (Vec<_>, Vec<_>) =
            turn.finish(script).await?.into_iter().partition(|row| row.len() == 1);
        let suspects = suspects.iter().map(|row| row.try_get("id")).collect::<sqlx::Result<_>>()?;
        Ok(Claim { claimed: in_order(claimed)?, suspects: rows::ids(suspects), ..Claim::default() })
    }

    pub(crate) async fn claim_next(
        &self,
        worker: WorkerId,
        serves: &[(ModelName, Version)],
        passed_over: &[PredictionId],
        limit: u32,
        lease: Duration,
    ) -> Result<Claim, StoreError> {
        let mut turn = self.writer.begin().await?;
        let now = clock::now();
        let next = front(&mut turn, WAITING_NEXT, serves, passed_over, now, limit).await?;
        let suspects = front(&mut turn, WAITING_SUSPECTS, serves, &[], now, limit).await?;
        let taking = Taking { ids: id_list(&next), worker, now, lease };
        let claimed = taking.take_those(turn, "NOT suspect").await?;
        Ok(Claim { claimed, suspects, ..Claim::default() })
    }

    pub(crate) async fn next_waiting(
        &self,
        serves: &[(ModelName, Version)],
        passed_over: &[PredictionId],
        limit: u32,
    ) -> Result<Vec<PredictionId>, StoreError> {
        let mut connection = self.readers.acquire().await?;
        Ok(front(&mut connection, WAITING_NEXT, serves, passed_over, clock::now(), limit).await?)
    }

    pub(crate) async fn claim_suspect(
        &self,
        worker: WorkerId,
        serves: &[(ModelName, Version)],
        lease: Duration,
    ) -> Result<Option<Claimed>, StoreError> {
        let mut turn = self.writer.begin().await?;
        let now = clock::now();
        let suspect = front(&mut turn, WAITING_SUSPECTS, serves, &[], now, 1).await?;
        let taking = Taking { ids: id_list(&suspect), worker, now, lease };
        Ok(taking.take_those(turn, "suspect").await?.pop())
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
        let wanted = sqlx::types::Json(wanted);
        sqlx::query(EXTEND)
            .bind(worker.0)
            .bind(&wanted)
            .bind(now.plus(micros(lease)))
            .bind(now.plus(micros(renewed_for(lease))))
            .execute(&mut *transaction)
            .await?;
        let held: Vec<Uuid> =
            sqlx::query_scalar(HELD).bind(worker.0).bind(&wanted).fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        let held: HashSet<PredictionId> = rows::ids(held).into_iter().collect();
        Ok(runs.iter().map(|run| run.id).filter(|id| !held.contains(id)).collect())
    }
}

/// The first `limit` of several versions' lines but for some, in fair order.
async fn front(
    connection: &mut SqliteConnection,
    line: &'static str,
    serves: &[(ModelName, Version)],
    passed_over: &[PredictionId],
    now: Stamp,
    limit: u32,
) -> sqlx::Result<Vec<PredictionId>> {
    let (mut front, passed_over) = (Vec::new(), id_list(passed_over));
    for (model, version) in serves {
        let waiting: Vec<Waiting> = sqlx::query_as(line)
            .bind(model.as_str())
            .bind(version.as_str())
            .bind(now)
            .bind(limit)
            .bind(&passed_over)
            .fetch_all(&mut *connection)
            .await?;
        front.extend(waiting);
    }
    front.sort_unstable_by_key(Waiting::place);
    front.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(front.into_iter().map(|waiting| PredictionId(waiting.id)).collect())
}

impl Taking {
    /// Takes those that wait and are `of_kind`, and returns them; the first claim of a prediction is its start.
    fn take(&self, query: &mut QueryBuilder<sqlx::Sqlite>, of_kind: &str) {
        tell(query, |query| {
            query.push("SELECT predictions.id, 1 AS event, tenant, now AS at FROM ");
            push_wanted(query, &self.ids, self.now);
            query.push(
                " CROSS JOIN predictions ON predictions.id = wanted.id WHERE attempts = 0 AND webhook_events & 2 AND ",
            );
            query.push(of_kind).push(" AND ").push(WAITS);
        });
        query.push("UPDATE predictions SET status = 1, epoch = epoch + 1, attempts = attempts + 1, worker = ");
        query.push_bind(self.worker.0).push(", lease_until = now + ").push_bind(micros(self.lease));
        query.push(", solo = suspect, claimed_at = now, started_at = COALESCE(started_at, now) FROM ");
        push_wanted(query, &self.ids, self.now);
        query.push(" WHERE predictions.id = wanted.id AND ").push(of_kind).push(" AND ").push(WAITS);
        query.push(
            " RETURNING predictions.id, epoch, retries, max_retries, deadline_at - claimed_at AS deadline_micros,
                 webhook_events, attempts, priority, not_before,
                 (SELECT model FROM versions WHERE versions.id = version_id) AS model,
                 (SELECT version FROM versions WHERE versions.id = version_id) AS version,
                 COALESCE((SELECT input FROM inputs WHERE prediction_id = predictions.id), '') AS input; ",
        );
    }

    /// Returns the ids of those that wait and must run alone.
    fn name_suspects(&self, query: &mut QueryBuilder<sqlx::Sqlite>) {
        query.push("SELECT predictions.id FROM ");
        push_wanted(query, &self.ids, self.now);
        query.push(" CROSS JOIN predictions ON predictions.id = wanted.id WHERE suspect AND ").push(WAITS).push("; ");
    }

    /// Takes them at the end of a transaction.
    async fn take_those(&self, turn: Turn, of_kind: &str) -> Result<Vec<Claimed>, StoreError> {
        let mut script = Script::rest();
        self.take(script.message(), of_kind);
        in_order(turn.finish(script).await?)
    }
}

/// What was claimed, in the order in which it is served.
fn in_order(rows: Vec<SqliteRow>) -> Result<Vec<Claimed>, StoreError> {
    let mut claimed = Vec::with_capacity(rows.len());
    for row in rows {
        let waited = Waiting::from_row(&row)?;
        claimed.push((waited.place(), ClaimedRow::<Vec<u8>>::from_row(&row)?.into_claimed()?));
    }
    claimed.sort_unstable_by_key(|(place, _)| *place);
    Ok(claimed.into_iter().map(|(_, claimed)| claimed).collect())
}
