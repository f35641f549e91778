//! Deleting what nobody needs any more: records that expired, with all that belongs to them.

use std::time::Duration;

use prediction::PredictionId;
use uuid::Uuid;

use super::{Sqlite, clock, id_list};
use crate::{Purged, StoreError, numbers::micros, rows};

/// What has expired by ?1; `$which` of it.
macro_rules! purge {
    ($which:literal) => {
        concat!(
            "
    DELETE FROM predictions
    WHERE id IN (
        SELECT id FROM predictions
        WHERE status >= 2 AND expires_at <= ?1
          AND NOT (webhook_events <> 0
                   AND EXISTS (SELECT 1 FROM deliveries WHERE prediction_id = predictions.id AND deliveries.status < 2))
          ",
            $which,
            "
    )
    RETURNING id"
        )
    };
}

/// Up to ?2, the longest expired first.
const PURGE_NEXT: &str = purge!("ORDER BY expires_at LIMIT ?2");
/// Of those in ?2, each found by its id.
const PURGE_AMONG: &str = purge!("AND id IN (SELECT unhex(value) FROM json_each(?2))");

/// What the first would purge.
const EXPIRED: &str = "
    SELECT id FROM predictions
    WHERE status >= 2 AND expires_at <= ?1
      AND NOT (webhook_events <> 0
               AND EXISTS (SELECT 1 FROM deliveries WHERE prediction_id = predictions.id AND deliveries.status < 2))
    ORDER BY expires_at
    LIMIT ?2";

/// All that belongs to predictions that are gone.
const PURGE_REST: [&str; 4] = [
    "DELETE FROM inputs WHERE prediction_id IN (SELECT unhex(value) FROM json_each(?1))",
    "DELETE FROM outputs WHERE prediction_id IN (SELECT unhex(value) FROM json_each(?1))",
    "DELETE FROM deliveries WHERE prediction_id IN (SELECT unhex(value) FROM json_each(?1))",
    PURGE_ATTEMPTS,
];

const PURGE_ATTEMPTS: &str =
    "DELETE FROM delivery_attempts WHERE prediction_id IN (SELECT unhex(value) FROM json_each(?1))";

/// Tests belong to no prediction.
const PURGE_TESTS: &str = "
    DELETE FROM deliveries
    WHERE event = 0 AND prediction_id IN (
        SELECT prediction_id FROM deliveries
        WHERE event = 0 AND status >= 2 AND created_at <= ?1
        ORDER BY created_at
        LIMIT ?2
    )
    RETURNING prediction_id";

const PURGE_SECRETS: &str = "
    DELETE FROM webhook_secrets
    WHERE id IN (SELECT id FROM webhook_secrets WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)";

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
    /// `among`: if anything, no others. Returns how many.
    pub(crate) async fn purge_predictions(
        &self,
        among: Option<&[PredictionId]>,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let mut transaction = self.writer.begin().await?;
        let purge = match among {
            None => sqlx::query_scalar(PURGE_NEXT).bind(clock::now()).bind(limit),
            Some(ids) => sqlx::query_scalar(PURGE_AMONG).bind(clock::now()).bind(id_list(ids)),
        };
        let purged = rows::ids(purge.fetch_all(&mut *transaction).await?);
        for rest in PURGE_REST {
            sqlx::query(rest).bind(id_list(&purged)).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(number(&purged))
    }

    pub(crate) async fn expired(&self, limit: u32) -> Result<Vec<PredictionId>, StoreError> {
        let expired = sqlx::query_scalar(EXPIRED).bind(clock::now()).bind(limit);
        Ok(rows::ids(expired.fetch_all(&self.readers).await?))
    }

    /// All but predictions.
    pub(crate) async fn purge_rest(&self, keys_for: Duration, limit: u32) -> Result<Purged, StoreError> {
        let mut transaction = self.writer.begin().await?;
        let now = clock::now();
        let old = now.plus(-micros(keys_for));
        let keys = sqlx::query(PURGE_KEYS).bind(old).bind(limit).execute(&mut *transaction).await?;
        let tests: Vec<Uuid> =
            sqlx::query_scalar(PURGE_TESTS).bind(old).bind(limit).fetch_all(&mut *transaction).await?;
        let tests = rows::ids(tests);
        sqlx::query(PURGE_ATTEMPTS).bind(id_list(&tests)).execute(&mut *transaction).await?;
        sqlx::query(PURGE_SECRETS).bind(now).bind(limit).execute(&mut *transaction).await?;
        let counts: Vec<i64> = sqlx::query_scalar(PURGE_WORKERS)
            .bind(now.plus(-micros(WORKERS_KEPT_FOR)))
            .bind(limit)
            .fetch_all(&mut *transaction)
            .await?;
        sqlx::query(KEEP_COUNT).bind(counts.iter().sum::<i64>()).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(Purged { keys: keys.rows_affected(), tests: number(&tests), ..Purged::default() })
    }
}

fn number(ids: &[PredictionId]) -> u64 {
    u64::try_from(ids.len()).unwrap_or(u64::MAX)
}
