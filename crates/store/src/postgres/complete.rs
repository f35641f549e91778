//! Ending runs: outcomes behind the fence, and cancels.

use std::cmp::Reverse;

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

/// Where the run of the row stands among those of the statement: $1 has their ids, each once and in order.
macro_rules! place {
    () => {
        "width_bucket(id, $1::uuid[])"
    };
}

/// What the statement has of the row's run in this array: a value for each run, in the order of their ids.
macro_rules! of_run {
    ($values:literal) => {
        concat!("(", $values, ")[", place!(), "]")
    };
}

/// The condition on `predictions` that one of the runs holds the row: compare-and-set on worker and epoch, for a whole batch.
macro_rules! held {
    () => {
        concat!("id = ANY($1) AND worker = $2 AND epoch = ", of_run!("$3::integer[]"))
    };
}

/// The ends of runs. An outcome is stored, and its caller is told, only for a row that was changed. No run has logs, so nobody
/// is told of any.
const FINISH: &str = concat!(
    "WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS at),
    applied AS (
        UPDATE predictions
        SET status = CASE WHEN ",
    of_run!("$4::text[]"),
    " IS NULL THEN 3 ELSE 2 END,
            worker = NULL, lease_until = NULL, solo = false,
            completed_at = (SELECT at FROM clock), expires_at = (SELECT at FROM clock) + retention,
            output = ",
    of_run!("$4::text[]"),
    ", code = ",
    of_run!("$5::text[]"),
    ", message = ",
    of_run!("$6::text[]"),
    ", retryable = ",
    of_run!("$7::boolean[]"),
    ", predict_seconds = ",
    of_run!("$8::double precision[]"),
    ", batch_size = ",
    of_run!("$9::integer[]"),
    ", tokens = ",
    of_run!("$10::integer[]"),
    "
        WHERE ",
    held!(),
    "
        RETURNING id, epoch, status, tenant, webhook_events, attempts, claimed_at, started_at, completed_at, expires_at
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

/// Runs whose predictions wait again: after a pause with one retry spent, or at once as a release, which has none.
const RETURN: &str = concat!(
    "UPDATE predictions
    SET status = 0, worker = NULL, lease_until = NULL, solo = false, queued_at = NULL,
        not_before = COALESCE((SELECT clock_timestamp()) + ",
    of_run!("$4::bigint[]"),
    " * interval '1 microsecond', not_before),
        retries = retries + (",
    of_run!("$4::bigint[]"),
    " IS NOT NULL)::integer,
        releases = releases + (",
    of_run!("$4::bigint[]"),
    " IS NULL)::integer
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
            completed_at = clock_timestamp(), expires_at = clock_timestamp() + retention,
            code = $3, message = $4, retryable = $5
        WHERE id = $1 AND tenant = $2 AND status < 2
        RETURNING id, tenant, webhook_events, completed_at
    ),
    told AS (",
    tell!("SELECT id, 4::smallint AS event, tenant, completed_at AS at FROM canceled WHERE webhook_events & 16 <> 0"),
    ")
    SELECT id FROM canceled"
);

impl Postgres {
    pub(crate) async fn complete(&self, worker: WorkerId, outcomes: &[Outcome]) -> Result<Applied, StoreError> {
        let (finished, returned): (Vec<_>, Vec<_>) =
            latest_runs(outcomes).into_iter().partition(|item| item.status.is_terminal());
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

/// Of the latest run of each prediction the first outcome, in the order of ids: earlier runs have lost theirs. (But where the database has
/// forgotten the latest one, after a failover that lost commits: what an earlier one gave is then stale, and runs again.)
fn latest_runs(outcomes: &[Outcome]) -> Vec<Item<'_>> {
    let mut items: Vec<_> = outcomes.iter().map(Item::from).collect();
    // It keeps the order of outcomes of one run.
    items.sort_by_key(|item| (item.run.id, Reverse(item.run.epoch)));
    items.dedup_by_key(|item| item.run.id);
    items
}

/// `items`: in the order of their ids, each once.
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

/// `items`: in the order of their ids, each once.
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
