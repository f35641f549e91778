//! Ending what is over: leases that ran out, deadlines that passed.

use prediction::{PredictionId, Status};
use sqlx::{query::QueryScalar, sqlite::SqliteArguments};
use uuid::Uuid;

use super::{Sqlite, clock, complete::fail, id_list};
use crate::{StoreError, Sweep, Swept, failures, numbers::count, rows};

/// A run whose lease ran out. One that was not alone makes a suspect of its prediction, without blame; one that was alone is
/// a strike, and the last strike is the end. Where ?4 is something, only what it names is swept.
const SWEEP_LEASES: &str = "
    UPDATE predictions
    SET status = CASE WHEN solo AND crashes + 1 >= ?2 THEN 3 ELSE 0 END, epoch = epoch + 1, worker = NULL,
        lease_until = NULL, crashes = crashes + solo, suspect = 1, solo = 0, queued_at = NULL,
        completed_at = CASE WHEN solo AND crashes + 1 >= ?2 THEN ?1 END,
        expires_at = CASE WHEN solo AND crashes + 1 >= ?2 THEN ?1 + retention END
    WHERE id IN (
        SELECT id FROM predictions
        WHERE status = 1 AND lease_until < ?1 AND (?4 IS NULL OR id IN (SELECT unhex(value) FROM json_each(?4)))
        ORDER BY lease_until
        LIMIT ?3
    )
    RETURNING id, status";

/// Where ?3 is something, only what it names is swept.
const SWEEP_DEADLINES: &str = "
    UPDATE predictions
    SET status = 4, epoch = epoch + 1, worker = NULL, lease_until = NULL, solo = 0,
        completed_at = ?1, expires_at = ?1 + retention
    WHERE id IN (
        SELECT id FROM predictions
        WHERE status < 2 AND deadline_at IS NOT NULL AND deadline_at <= ?1
          AND (?3 IS NULL OR id IN (SELECT unhex(value) FROM json_each(?3)))
        ORDER BY deadline_at
        LIMIT ?2
    )
    RETURNING id";

/// What sweeps may find: ?2 of each kind, leases if ?3.
const OVER: &str = "
    SELECT id FROM (SELECT id FROM predictions WHERE ?3 AND status = 1 AND lease_until < ?1 ORDER BY lease_until LIMIT ?2)
    UNION
    SELECT id FROM (
        SELECT id FROM predictions
        WHERE status < 2 AND deadline_at IS NOT NULL AND deadline_at <= ?1
        ORDER BY deadline_at
        LIMIT ?2
    )";

impl Sqlite {
    pub(crate) async fn over(&self, sweep: Sweep) -> Result<Vec<PredictionId>, StoreError> {
        Ok(rows::ids(over(sweep).fetch_all(&self.readers).await?))
    }

    /// `among`: if anything, no others.
    pub(crate) async fn sweep(&self, sweep: Sweep, among: Option<&[PredictionId]>) -> Result<Swept, StoreError> {
        let (mut swept, among) = (Swept::default(), among.map(id_list));
        let mut transaction = self.writer.begin().await?;
        // Mostly there is nothing, and to look is quicker.
        if among.is_none() && over(Sweep { limit: 1, ..sweep }).fetch_optional(&mut *transaction).await?.is_none() {
            transaction.commit().await?;
            return Ok(swept);
        }
        let now = clock::now();
        if sweep.leases {
            let rows: Vec<(Uuid, i16)> = sqlx::query_as(SWEEP_LEASES)
                .bind(now)
                .bind(count(sweep.max_crashes))
                .bind(sweep.limit)
                .bind(&among)
                .fetch_all(&mut *transaction)
                .await?;
            for (id, status) in rows {
                let swept = if status == Status::Starting.code() { &mut swept.requeued } else { &mut swept.ended };
                swept.push(PredictionId(id));
            }
            fail(&mut transaction, now, &swept.ended, &failures::poison(sweep.max_crashes)).await?;
        }
        let late = sqlx::query_scalar(SWEEP_DEADLINES).bind(now).bind(sweep.limit).bind(&among);
        let late = rows::ids(late.fetch_all(&mut *transaction).await?);
        fail(&mut transaction, now, &late, &failures::deadline_exceeded()).await?;
        transaction.commit().await?;
        swept.ended.extend(late);
        Ok(swept)
    }
}

fn over<'a>(sweep: Sweep) -> QueryScalar<'a, sqlx::Sqlite, Uuid, SqliteArguments> {
    sqlx::query_scalar(OVER).bind(clock::now()).bind(sweep.limit).bind(sweep.leases)
}
