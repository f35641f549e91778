//! Ending runs: outcomes behind the fence, and cancels.

use std::collections::HashSet;

use prediction::PredictionId;
use uuid::Uuid;

use super::{Postgres, on_connection, outbox::tell};
use crate::{CancelResult, Outcome, Run, StoreError, Written, failures, numbers::micros, outcomes::Item};

/// Compare-and-set on the epoch, for a whole batch. Rows are locked in the order of ids, each found by its id, as LATERAL makes
/// sure (and `worker` instead of the status, see claim.rs); an outcome is stored, and its caller is told, only for a row
/// that was changed. No run has logs, so nobody is told of any.
const COMPLETE: &str = concat!(
    "WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS at),
    item AS MATERIALIZED (
        SELECT * FROM UNNEST(
            $1::uuid[], $2::integer[], $3::smallint[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::boolean[],
            $9::double precision[], $10::integer[], $11::integer[]
        ) AS item (
            id, epoch, becomes, delay, output, code, message, retryable,
            predict_seconds, batch_size, tokens
        )
        ORDER BY id
    ),
    held AS MATERIALIZED (
        SELECT item.*
        FROM item
        CROSS JOIN LATERAL (
            SELECT FROM predictions WHERE id = item.id AND epoch = item.epoch AND worker IS NOT NULL FOR UPDATE
        ) AS locked
    ),
    applied AS (
        UPDATE predictions
        SET status = becomes, worker = NULL, lease_until = NULL, solo = false,
            -- Back to waiting: after a pause with one retry spent, or at once as a release.
            queued_at = CASE WHEN becomes <> 0 THEN queued_at END,
            not_before = CASE WHEN delay IS NULL THEN not_before ELSE at + delay * interval '1 microsecond' END,
            retries = retries + CASE WHEN delay IS NULL THEN 0 ELSE 1 END,
            releases = releases + CASE WHEN becomes = 0 AND delay IS NULL THEN 1 ELSE 0 END,
            completed_at = CASE WHEN becomes >= 2 THEN at END,
            expires_at = CASE WHEN becomes >= 2 THEN at + retention END
        FROM held CROSS JOIN clock
        WHERE predictions.id = held.id
        RETURNING held.*, tenant, webhook_events, completed_at
    ),
    written AS (
        INSERT INTO outputs
            (prediction_id, output, code, message, retryable, predict_seconds, batch_size, tokens)
        SELECT id, output, code, message, retryable, predict_seconds, batch_size, tokens
        FROM applied
        WHERE becomes >= 2
    ),
    told AS (",
    tell!(
        "SELECT id, event, tenant, completed_at AS at
         FROM applied
         CROSS JOIN (VALUES (2::smallint), (4::smallint)) AS events (event)
         WHERE webhook_events <> 0 AND (webhook_events >> event) & 1 = 1
           AND becomes >= 2 AND (event = 4 OR output IS NOT NULL)"
    ),
    ")
    SELECT id, epoch FROM applied"
);

/// Ends a prediction that is not over yet, whoever holds it: the epoch moves on, so a run's result comes too late.
/// Waits for a run's outcome that is being written, and then finds the prediction terminal.
const CANCEL: &str = concat!(
    "WITH canceled AS (
        UPDATE predictions
        SET status = 4, epoch = epoch + 1, worker = NULL, lease_until = NULL, solo = false,
            completed_at = clock_timestamp(), expires_at = clock_timestamp() + retention
        WHERE id = $1 AND tenant = $2 AND status < 2
        RETURNING id, tenant, webhook_events, completed_at
    ),
    told AS (",
    tell!("SELECT id, 4::smallint AS event, tenant, completed_at AS at FROM canceled WHERE webhook_events & 16 <> 0"),
    ")
    INSERT INTO outputs (prediction_id, code, message, retryable)
    SELECT id, $3, $4, $5 FROM canceled
    RETURNING prediction_id"
);

impl Postgres {
    pub(crate) async fn complete(&self, outcomes: &[Outcome]) -> Result<Vec<Written>, StoreError> {
        let mut seen = HashSet::new();
        let items: Vec<Item<'_>> = outcomes.iter().map(Item::from).filter(|item| seen.insert(item.run)).collect();
        let applied: Vec<(Uuid, i32)> = on_connection!(self, |connection| sqlx::query_as(COMPLETE)
            .bind(items.iter().map(|item| item.run.id.0).collect::<Vec<_>>())
            .bind(items.iter().map(|item| item.run.epoch).collect::<Vec<_>>())
            .bind(items.iter().map(|item| item.status.code()).collect::<Vec<_>>())
            .bind(items.iter().map(|item| item.delay.map(micros)).collect::<Vec<_>>())
            .bind(items.iter().map(|item| item.output).collect::<Vec<_>>())
            .bind(items.iter().map(|item| item.failure.map(|failure| failure.code.as_str())).collect::<Vec<_>>())
            .bind(items.iter().map(|item| item.failure.map(|failure| failure.message.as_str())).collect::<Vec<_>>())
            .bind(items.iter().map(|item| item.failure.map(|failure| failure.retryable)).collect::<Vec<_>>())
            .bind(items.iter().map(Item::predict_seconds).collect::<Vec<_>>())
            .bind(items.iter().map(Item::batch_size).collect::<Vec<_>>())
            .bind(items.iter().map(Item::tokens).collect::<Vec<_>>())
            .fetch_all(connection)
            .await)?;
        let applied = applied.into_iter().map(|(id, epoch)| Run { id: PredictionId(id), epoch });
        Ok(crate::outcomes::written(outcomes, applied.collect()))
    }

    pub(crate) async fn cancel(&self, tenant: &str, id: PredictionId) -> Result<CancelResult, StoreError> {
        let failure = failures::canceled();
        let canceled: Option<Uuid> = on_connection!(self, |connection| sqlx::query_scalar(CANCEL)
            .bind(id.0)
            .bind(tenant)
            .bind(failure.code.as_str())
            .bind(&failure.message)
            .bind(failure.retryable)
            .fetch_optional(connection)
            .await)?;
        let found = self.get(tenant, &[id]).await?.pop().map(Box::new);
        Ok(match found {
            None => CancelResult::NotFound,
            Some(prediction) if canceled.is_some() => CancelResult::Canceled(prediction),
            Some(prediction) => CancelResult::AlreadyTerminal(prediction),
        })
    }
}
