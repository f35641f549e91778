//! Deleting what nobody needs any more: records that expired, with all that belongs to them.

use std::time::Duration;

use prediction::PredictionId;

use super::{Postgres, on_connection};
use crate::{
    Purged, StoreError,
    numbers::micros,
    rows::{self, uuids},
};

/// A delivery that is not over is looked for one by one: asked for EXISTS, the planner may read all deliveries first. They are
/// locked before the last look at them, which sees what was written until then: one that begins again at this moment keeps its
/// prediction. `$which`: which of those that have expired.
macro_rules! purge {
    ($which:literal) => {
        concat!(
            "
    WITH expired AS MATERIALIZED (
        SELECT id, webhook_events FROM predictions
        WHERE status >= 2 AND expires_at <= (SELECT clock_timestamp())
          AND (webhook_events = 0
               OR (SELECT true FROM deliveries WHERE prediction_id = id AND deliveries.status < 2 LIMIT 1) IS NULL)
          ",
            $which,
            "
        FOR UPDATE SKIP LOCKED
    ),
    locked AS MATERIALIZED (
        SELECT prediction_id, event, status
        FROM (SELECT id FROM expired WHERE webhook_events <> 0 ORDER BY id) AS told
        CROSS JOIN LATERAL (
            SELECT prediction_id, event, status FROM deliveries WHERE prediction_id = id ORDER BY event FOR UPDATE
        ) AS delivery
    ),
    gone AS MATERIALIZED (
        SELECT id FROM expired WHERE id NOT IN (SELECT prediction_id FROM locked WHERE status < 2)
    ),
    purged_inputs AS (DELETE FROM inputs USING gone WHERE prediction_id = id),
    told AS MATERIALIZED (
        SELECT prediction_id, event FROM locked
        -- Not a join, which would compare each with each.
        WHERE (prediction_id IN (SELECT id FROM gone)) IS TRUE
    ),
    purged_attempts AS (
        DELETE FROM delivery_attempts AS attempt
        USING told
        WHERE attempt.prediction_id = told.prediction_id AND attempt.event = told.event
    ),
    purged_deliveries AS (
        DELETE FROM deliveries
        USING told
        WHERE deliveries.prediction_id = told.prediction_id AND deliveries.event = told.event
    ),
    purged AS (DELETE FROM predictions USING gone WHERE predictions.id = gone.id RETURNING predictions.id)
    SELECT count(*) FROM purged"
        )
    };
}

/// Up to $1, the longest expired first.
const PURGE_NEXT: &str = purge!("ORDER BY expires_at LIMIT $1");
/// Of those in $1, each found by its id.
const PURGE_AMONG: &str = purge!("AND id = ANY($1)");

/// What the first would purge, but for what is being purged.
const EXPIRED: &str = "
    SELECT id FROM predictions
    WHERE status >= 2 AND expires_at <= (SELECT clock_timestamp())
      AND (webhook_events = 0
           OR (SELECT true FROM deliveries WHERE prediction_id = id AND deliveries.status < 2 LIMIT 1) IS NULL)
    ORDER BY expires_at
    LIMIT $1";

/// Tests belong to no prediction.
const PURGE_TESTS: &str = "
    WITH old AS MATERIALIZED (
        SELECT prediction_id, event FROM deliveries
        WHERE event = 0 AND status >= 2
          AND created_at <= (SELECT clock_timestamp()) - $1::bigint * interval '1 microsecond'
        ORDER BY created_at
        LIMIT $2
        FOR UPDATE SKIP LOCKED
    ),
    purged_attempts AS (
        DELETE FROM delivery_attempts AS attempt
        USING old
        WHERE attempt.prediction_id = old.prediction_id AND attempt.event = old.event
    )
    DELETE FROM deliveries
    USING old
    WHERE deliveries.prediction_id = old.prediction_id AND deliveries.event = old.event";

const PURGE_SECRETS: &str = "
    DELETE FROM webhook_secrets
    WHERE id IN (
        SELECT id FROM webhook_secrets
        WHERE expires_at <= (SELECT clock_timestamp())
        ORDER BY expires_at
        LIMIT $1
        FOR UPDATE SKIP LOCKED
    )";

const PURGE_KEYS: &str = "
    DELETE FROM idempotency_keys
    WHERE (tenant, key) IN (
        SELECT tenant, key FROM idempotency_keys
        WHERE created_at <= (SELECT clock_timestamp()) - $1::bigint * interval '1 microsecond'
        ORDER BY created_at
        LIMIT $2
        FOR UPDATE SKIP LOCKED
    )";

/// What the worker counted outlives its row.
const PURGE_WORKERS: &str = "
    WITH purged AS (
        DELETE FROM workers
        WHERE id IN (
            SELECT id FROM workers
            WHERE seen_at < clock_timestamp() - interval '1 day'
            LIMIT $1
            FOR UPDATE SKIP LOCKED
        )
        RETURNING stale
    )
    UPDATE installation
    SET stale_completions = stale_completions + (SELECT sum(stale) FROM purged)
    WHERE EXISTS (SELECT FROM purged)";

impl Postgres {
    /// `among`: if anything, no others. Returns how many.
    pub(crate) async fn purge_predictions(
        &self,
        among: Option<&[PredictionId]>,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let purged: i64 = on_connection!(self, |connection| {
            let purge = match among {
                None => sqlx::query_scalar(PURGE_NEXT).bind(i64::from(limit)),
                Some(ids) => sqlx::query_scalar(PURGE_AMONG).bind(uuids(ids)),
            };
            purge.fetch_one(connection).await
        })?;
        Ok(u64::try_from(purged).unwrap_or(0))
    }

    pub(crate) async fn expired(&self, limit: u32) -> Result<Vec<PredictionId>, StoreError> {
        let expired = on_connection!(self, |connection| sqlx::query_scalar(EXPIRED)
            .bind(i64::from(limit))
            .fetch_all(connection)
            .await)?;
        Ok(rows::ids(expired))
    }

    /// All but predictions.
    pub(crate) async fn purge_rest(&self, keys_for: Duration, limit: u32) -> Result<Purged, StoreError> {
        let (limit, keys_for) = (i64::from(limit), micros(keys_for));
        let mut old = [0; 2];
        for (statement, count) in [PURGE_KEYS, PURGE_TESTS].into_iter().zip(&mut old) {
            let result = on_connection!(self, |connection| sqlx::query(statement)
                .bind(keys_for)
                .bind(limit)
                .execute(connection)
                .await)?;
            *count = result.rows_affected();
        }
        for statement in [PURGE_SECRETS, PURGE_WORKERS] {
            on_connection!(self, |connection| sqlx::query(statement).bind(limit).execute(connection).await)?;
        }
        let [keys, tests] = old;
        Ok(Purged { keys, tests, ..Purged::default() })
    }
}
