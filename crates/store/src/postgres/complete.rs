//! Ending runs: outcomes behind the fence, and cancels.

use std::collections::HashSet;

use prediction::{PredictionId, WorkerId};
use sqlx::{Connection, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Postgres, on_connection, outbox::tell};
use crate::{
    CancelResult, Outcome, StoreError, failures,
    numbers::micros,
    outcomes::{Applied, AppliedRow, Item},
};

/// The condition on `predictions` that the run of one `item` holds the row: compare-and-set on worker and epoch, for a whole batch.
/// Each row is found by its id and each item by a hash (`IS TRUE` keeps the planner from making joins of the tests; see claim.rs).
macro_rules! held {
    () => {
        "id = ANY($1) AND worker = $2 AND ((id, epoch) IN (SELECT id, epoch FROM item)) IS TRUE"
    };
}

/// The ends of runs. An outcome is stored, and its caller is told, only for a row that was changed. No run has logs, so nobody
/// is told of any.
const FINISH: &str = concat!(
    "WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS at),
    item AS MATERIALIZED (
        SELECT * FROM UNNEST(
            $1::uuid[], $3::integer[], $4::text[], $5::text[], $6::text[], $7::boolean[], $8::double precision[],
            $9::integer[], $10::integer[]
        ) AS item (id, epoch, output, code, message, retryable, predict_seconds, batch_size, tokens)
    ),
    applied AS (
        UPDATE predictions
        SET status = CASE WHEN ((id, epoch) IN (SELECT id, epoch FROM item WHERE output IS NULL)) IS TRUE THEN 3 ELSE 2 END,
            worker = NULL, lease_until = NULL, solo = false,
            completed_at = (SELECT at FROM clock), expires_at = (SELECT at FROM clock) + retention
        WHERE ",
    held!(),
    "
        RETURNING id, epoch, status, tenant, webhook_events, attempts, claimed_at, started_at, completed_at, expires_at
    ),
    written AS (
        INSERT INTO outputs
            (prediction_id, output, code, message, retryable, predict_seconds, batch_size, tokens)
        SELECT id, output, code, message, retryable, predict_seconds, batch_size, tokens
        FROM item
        WHERE ((id, epoch) IN (SELECT id, epoch FROM applied)) IS TRUE
    ),
    told AS (",
    tell!(
        "SELECT id, event, tenant, completed_at AS at
         FROM applied
         CROSS JOIN (VALUES (2::smallint), (4::smallint)) AS events (event)
         WHERE webhook_events <> 0 AND (webhook_events >> event) & 1 = 1 AND (event = 4 OR status = 2)"
    ),
    ")
    SELECT id, epoch, attempts, claimed_at, started_at, completed_at, expires_at FROM applied"
);

/// Runs whose predictions wait again: after a pause with one retry spent, or at once as a release.
const RETURN: &str = concat!(
    "WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS at),
    item AS MATERIALIZED (
        SELECT * FROM UNNEST($1::uuid[], $3::integer[], $4::bigint[]) AS item (id, epoch, delay)
    )
    UPDATE predictions
    SET status = 0, worker = NULL, lease_until = NULL, solo = false, queued_at = NULL,
        not_before = COALESCE(
            (SELECT at + delay * interval '1 microsecond' FROM item, clock WHERE (item.id, item.epoch) = (predictions.id, predictions.epoch)),
            not_before
        ),
        retries = retries + (((id, epoch) IN (SELECT id, epoch FROM item WHERE delay IS NOT NULL)) IS TRUE)::integer,
        releases = releases + (((id, epoch) IN (SELECT id, epoch FROM item WHERE delay IS NULL)) IS TRUE)::integer
    WHERE ",
    held!(),
    "
    RETURNING id, epoch, attempts, claimed_at, started_at, completed_at, expires_at"
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
    pub(crate) async fn complete(&self, worker: WorkerId, outcomes: &[Outcome]) -> Result<Applied, StoreError> {
        let mut seen = HashSet::new();
        let items = outcomes.iter().map(Item::from).filter(|item| seen.insert(item.run));
        let (finished, returned): (Vec<_>, Vec<_>) = items.partition(|item| item.status.is_terminal());
        let applied = on_connection!(self, |connection| {
            if returned.is_empty() {
                // A single statement is a transaction by itself.
                return finish(connection, worker, &finished).await;
            }
            let mut transaction = connection.begin().await?;
            let mut applied = finish(&mut transaction, worker, &finished).await?;
            applied.extend(wait_again(&mut transaction, worker, &returned).await?);
            transaction.commit().await?;
            Ok(applied)
        })?;
        Ok(applied.into_iter().map(AppliedRow::into_applied).collect())
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

async fn finish(
    connection: &mut PgConnection,
    worker: WorkerId,
    items: &[Item<'_>],
) -> sqlx::Result<Vec<AppliedRow<OffsetDateTime>>> {
    if items.is_empty() {
        return Ok(Vec::new());
    }
    let failures = || items.iter().map(|item| item.failure);
    sqlx::query_as(FINISH)
        .bind(items.iter().map(|item| item.run.id.0).collect::<Vec<_>>())
        .bind(worker.0)
        .bind(items.iter().map(|item| item.run.epoch).collect::<Vec<_>>())
        .bind(items.iter().map(|item| item.output).collect::<Vec<_>>())
        .bind(failures().map(|failure| failure.map(|failure| failure.code.as_str())).collect::<Vec<_>>())
        .bind(failures().map(|failure| failure.map(|failure| failure.message.as_str())).collect::<Vec<_>>())
        .bind(failures().map(|failure| failure.map(|failure| failure.retryable)).collect::<Vec<_>>())
        .bind(items.iter().map(Item::predict_seconds).collect::<Vec<_>>())
        .bind(items.iter().map(Item::batch_size).collect::<Vec<_>>())
        .bind(items.iter().map(Item::tokens).collect::<Vec<_>>())
        .fetch_all(connection)
        .await
}

async fn wait_again(
    connection: &mut PgConnection,
    worker: WorkerId,
    items: &[Item<'_>],
) -> sqlx::Result<Vec<AppliedRow<OffsetDateTime>>> {
    sqlx::query_as(RETURN)
        .bind(items.iter().map(|item| item.run.id.0).collect::<Vec<_>>())
        .bind(worker.0)
        .bind(items.iter().map(|item| item.run.epoch).collect::<Vec<_>>())
        .bind(items.iter().map(|item| item.delay.map(micros)).collect::<Vec<_>>())
        .fetch_all(connection)
        .await
}
