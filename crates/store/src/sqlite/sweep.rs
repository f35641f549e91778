//! Ending what is over: leases that ran out, deadlines that passed, records that expired.

use std::time::Duration;

use prediction::{PredictionId, Status};
use uuid::Uuid;

use super::{Sqlite, clock, complete::fail, id_list};
use crate::{
    Purged, StoreError, Sweep, Swept, failures,
    numbers::{count, micros},
    rows,
};

/// A run whose lease ran out. One that was not alone makes a suspect of its prediction, without blame; one that was alone is
/// a strike, and the last strike is the end.
const SWEEP_LEASES: &str = "
    UPDATE predictions
    SET status = CASE WHEN solo AND crashes + 1 >= ?2 THEN 3 ELSE 0 END, epoch = epoch + 1, worker = NULL,
        lease_until = NULL, crashes = crashes + solo, suspect = 1, solo = 0, queued_at = NULL,
        completed_at = CASE WHEN solo AND crashes + 1 >= ?2 THEN ?1 END,
        expires_at = CASE WHEN solo AND crashes + 1 >= ?2 THEN ?1 + retention END
    WHERE id IN (SELECT id FROM predictions WHERE status = 1 AND lease_until < ?1 ORDER BY lease_until LIMIT ?3)
    RETURNING id, status";

const SWEEP_DEADLINES: &str = "
    UPDATE predictions
    SET status = 4, epoch = epoch + 1, worker = NULL, lease_until = NULL, solo = 0,
        completed_at = ?1, expires_at = ?1 + retention
    WHERE id IN (
        SELECT id FROM predictions
        WHERE status < 2 AND deadline_at IS NOT NULL AND deadline_at <= ?1
        ORDER BY deadline_at
        LIMIT ?2
    )
    RETURNING id";

const PURGE_PREDICTIONS: &str = "
    DELETE FROM predictions
    WHERE id IN (SELECT id FROM predictions WHERE status >= 2 AND expires_at <= ?1 ORDER BY expires_at LIMIT ?2)
    RETURNING id";

const PURGE_INPUTS: &str = "DELETE FROM inputs WHERE prediction_id IN (SELECT unhex(value) FROM json_each(?1))";
const PURGE_OUTPUTS: &str = "DELETE FROM outputs WHERE prediction_id IN (SELECT unhex(value) FROM json_each(?1))";

const PURGE_KEYS: &str = "
    DELETE FROM idempotency_keys
    WHERE (tenant, key) IN (
        SELECT tenant, key FROM idempotency_keys WHERE created_at <= ?1 ORDER BY created_at LIMIT ?2
    )";

const PURGE_WORKERS: &str = "
    DELETE FROM workers
    WHERE id IN (SELECT id FROM workers WHERE seen_at < ?1 LIMIT ?2)
    RETURNING stale";

/// What a worker counted outlives its row.
const KEEP_COUNT: &str = "UPDATE installation SET stale_completions = stale_completions + ?1";

const WORKERS_KEPT_FOR: Duration = Duration::from_secs(86_400);

impl Sqlite {
    pub(crate) async fn sweep(&self, sweep: Sweep) -> Result<Swept, StoreError> {
        let mut swept = Swept::default();
        let mut transaction = self.begin().await?;
        let now = clock::now(&mut transaction).await?;
        if sweep.leases {
            let rows: Vec<(Uuid, i16)> = sqlx::query_as(SWEEP_LEASES)
                .bind(now)
                .bind(count(sweep.max_crashes))
                .bind(sweep.limit)
                .fetch_all(&mut *transaction)
                .await?;
            for (id, status) in rows {
                let kind = if status == Status::Starting.code() { &mut swept.requeued } else { &mut swept.ended };
                kind.push(PredictionId(id));
            }
            fail(&mut transaction, &swept.ended, &failures::poison(sweep.max_crashes)).await?;
        }
        let late: Vec<Uuid> =
            sqlx::query_scalar(SWEEP_DEADLINES).bind(now).bind(sweep.limit).fetch_all(&mut *transaction).await?;
        let late = rows::ids(late);
        fail(&mut transaction, &late, &failures::deadline_exceeded()).await?;
        transaction.commit().await?;
        swept.ended.extend(late);
        Ok(swept)
    }

    pub(crate) async fn purge(&self, keys_for: Duration, limit: u32) -> Result<Purged, StoreError> {
        let mut transaction = self.begin().await?;
        let now = clock::now(&mut transaction).await?;
        let purged: Vec<Uuid> =
            sqlx::query_scalar(PURGE_PREDICTIONS).bind(now).bind(limit).fetch_all(&mut *transaction).await?;
        let purged = rows::ids(purged);
        for payloads in [PURGE_INPUTS, PURGE_OUTPUTS] {
            sqlx::query(payloads).bind(id_list(&purged)).execute(&mut *transaction).await?;
        }
        let keys =
            sqlx::query(PURGE_KEYS).bind(now.plus(-micros(keys_for))).bind(limit).execute(&mut *transaction).await?;
        let counts: Vec<i64> = sqlx::query_scalar(PURGE_WORKERS)
            .bind(now.plus(-micros(WORKERS_KEPT_FOR)))
            .bind(limit)
            .fetch_all(&mut *transaction)
            .await?;
        sqlx::query(KEEP_COUNT).bind(counts.iter().sum::<i64>()).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(Purged { predictions: u64::try_from(purged.len()).unwrap_or(u64::MAX), keys: keys.rows_affected() })
    }
}
