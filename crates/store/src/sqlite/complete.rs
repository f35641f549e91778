//! Ending runs: outcomes behind the fence, and cancels.

use std::collections::{HashMap, HashSet};

use prediction::{Event, Events, Failure, PredictionId, WorkerId};
use sqlx::{QueryBuilder, SqliteConnection, types::Json};
use uuid::Uuid;

use super::{
    Sqlite,
    clock::{self, Stamp},
    id_list,
    outbox::Outbox,
    writer::first,
};
use crate::{CancelResult, Outcome, Run, StoreError, Written, failures, numbers::micros, outcomes::Item};

/// Compare-and-set on worker and epoch, for a whole batch: [id, epoch, status, pause before a retry].
const COMPLETE: &str = first!(
    "UPDATE predictions
    SET status = item.status, worker = NULL, lease_until = NULL, solo = 0,
        -- Back to waiting: after a pause with one retry spent, or at once as a release.
        queued_at = CASE WHEN item.status <> 0 THEN queued_at END,
        not_before = CASE WHEN delay IS NULL THEN not_before ELSE ?2 + delay END,
        retries = retries + (delay IS NOT NULL),
        releases = releases + (item.status = 0 AND delay IS NULL),
        completed_at = CASE WHEN item.status >= 2 THEN ?2 END,
        expires_at = CASE WHEN item.status >= 2 THEN ?2 + retention END
    FROM (
        SELECT unhex(value ->> 0) AS id, value ->> 1 AS epoch, value ->> 2 AS status, value ->> 3 AS delay
        FROM json_each(?1)
    ) AS item
    WHERE predictions.id = item.id AND predictions.epoch = item.epoch AND predictions.worker = ?3
    RETURNING id, epoch, webhook_events"
);

const CANCEL: &str = "
    UPDATE predictions
    SET status = 4, epoch = epoch + 1, worker = NULL, lease_until = NULL, solo = 0,
        completed_at = ?1, expires_at = ?1 + retention
    WHERE id = ?2 AND tenant = ?3 AND status < 2
    RETURNING webhook_events";

const FAIL: &str = "
    INSERT INTO outputs (prediction_id, code, message, retryable)
    SELECT unhex(value), ?2, ?3, ?4 FROM json_each(?1)";

impl Sqlite {
    pub(crate) async fn complete(&self, worker: WorkerId, outcomes: &[Outcome]) -> Result<Vec<Written>, StoreError> {
        let mut seen = HashSet::new();
        let items: Vec<Item<'_>> = outcomes.iter().map(Item::from).filter(|item| seen.insert(item.run)).collect();
        let list: Vec<(String, i32, i16, Option<i64>)> = items
            .iter()
            .map(|item| {
                let id = item.run.id.0.simple().to_string();
                (id, item.run.epoch, item.status.code(), item.delay.map(micros))
            })
            .collect();
        let mut transaction = self.writer.turn().await?;
        let now = clock::now();
        let applied: Vec<(Uuid, i32, i16)> =
            sqlx::query_as(COMPLETE).bind(Json(list)).bind(now).bind(worker.0).fetch_all(&mut *transaction).await?;
        let applied: HashMap<Run, Events> = applied
            .into_iter()
            .map(|(id, epoch, wanted)| (Run { id: PredictionId(id), epoch }, Events::from_bits(wanted)))
            .collect();
        let ended: Vec<&Item<'_>> =
            items.iter().filter(|item| item.status.is_terminal() && applied.contains_key(&item.run)).collect();
        // No run has logs, so nobody is told of any.
        let mut outbox = Outbox::default();
        for item in &ended {
            let output = item.output.map(|_| Event::Output);
            outbox.add(item.run.id, applied[&item.run], output.into_iter().chain([Event::Completed]));
        }
        outbox.tell(&mut transaction, now).await?;
        transaction.commit_with(&ended, insert).await?;
        Ok(crate::outcomes::written(outcomes, applied.into_keys().collect()))
    }

    pub(crate) async fn cancel(&self, tenant: &str, id: PredictionId) -> Result<CancelResult, StoreError> {
        let mut transaction = self.writer.begin().await?;
        let now = clock::now();
        let cancel = sqlx::query_scalar(CANCEL).bind(now).bind(id.0).bind(tenant);
        let canceled: Option<i16> = cancel.fetch_optional(&mut *transaction).await?;
        if let Some(wanted) = canceled {
            fail(&mut transaction, now, &[(id, wanted)], &failures::canceled()).await?;
        }
        transaction.commit().await?;
        let found = self.get(tenant, &[id]).await?.pop().map(Box::new);
        Ok(match found {
            None => CancelResult::NotFound,
            Some(prediction) if canceled.is_some() => CancelResult::Canceled(prediction),
            Some(prediction) => CancelResult::AlreadyTerminal(prediction),
        })
    }
}

/// What stores these outcomes.
fn insert(rows: &[&Item<'_>]) -> QueryBuilder<sqlx::Sqlite> {
    let mut query = QueryBuilder::new(
        "INSERT INTO outputs (prediction_id, output, code, message, retryable, predict_seconds, batch_size, tokens) ",
    );
    query.push_values(rows, |mut row, item| {
        row.push_bind(item.run.id.0)
            .push_bind(item.output.map(str::to_owned))
            .push_bind(item.failure.map(|failure| failure.code.as_str()))
            .push_bind(item.failure.map(|failure| failure.message.clone()))
            .push_bind(item.failure.map(|failure| failure.retryable))
            .push_bind(item.predict_seconds())
            .push_bind(item.batch_size())
            .push_bind(item.tokens());
    });
    query
}

/// Writes the same failure for each of these, which have ended, and tells their callers; each with its `webhook_events`.
pub(super) async fn fail(
    connection: &mut SqliteConnection,
    now: Stamp,
    ended: &[(PredictionId, i16)],
    failure: &Failure,
) -> sqlx::Result<()> {
    let mut outbox = Outbox::default();
    for (id, wanted) in ended {
        outbox.add(*id, Events::from_bits(*wanted), [Event::Completed]);
    }
    outbox.tell(connection, now).await?;
    sqlx::query(FAIL)
        .bind(id_list(ended.iter().map(|(id, _)| id)))
        .bind(failure.code.as_str())
        .bind(&failure.message)
        .bind(failure.retryable)
        .execute(connection)
        .await
        .map(drop)
}
