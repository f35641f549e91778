//! Ending runs: outcomes behind the fence, and cancels.

use std::collections::HashSet;

use prediction::{Failure, PredictionId, WorkerId};
use sqlx::{FromRow as _, QueryBuilder, SqliteConnection, types::Json};

use super::{
    Sqlite,
    clock::{self, Stamp},
    id_list,
    outbox::tell,
    push_wanted,
    writer::Script,
};
use crate::{
    CancelResult, Outcome, StoreError, failures,
    numbers::micros,
    outcomes::{Applied, AppliedRow, Item},
};

const CANCEL: &str = "
    UPDATE predictions
    SET status = 4, epoch = epoch + 1, worker = NULL, lease_until = NULL, solo = 0,
        completed_at = ?1, expires_at = ?1 + retention
    WHERE id = ?2 AND tenant = ?3 AND status < 2";

impl Sqlite {
    pub(crate) async fn complete(&self, worker: WorkerId, outcomes: &[Outcome]) -> Result<Applied, StoreError> {
        let mut seen = HashSet::new();
        let items: Vec<Item<'_>> = outcomes.iter().map(Item::from).filter(|item| seen.insert(item.run)).collect();
        let ended: Vec<&Item<'_>> = items.iter().filter(|item| item.status.is_terminal()).collect();
        let turn = self.writer.turn().await?;
        let ends = Ends::of(&items, worker, clock::now());
        // What goes by the runs that hold their predictions comes before the end of those runs.
        let mut script = Script::whole();
        script.push_rows(&ended, |query, rows| ends.store(query, rows));
        ends.tell(script.message());
        ends.end(script.message());
        let applied = turn.finish(script).await?;
        let applied = applied.iter().map(|row| Ok(AppliedRow::<Stamp>::from_row(row)?.into_applied()));
        applied.collect()
    }

    pub(crate) async fn cancel(&self, tenant: &str, id: PredictionId) -> Result<CancelResult, StoreError> {
        let mut transaction = self.writer.begin().await?;
        let now = clock::now();
        let cancel = sqlx::query(CANCEL).bind(now).bind(id.0).bind(tenant);
        let canceled = cancel.execute(&mut *transaction).await?.rows_affected() > 0;
        if canceled {
            fail(&mut transaction, now, &[id], &failures::canceled()).await?;
        }
        transaction.commit().await?;
        let found = self.get(tenant, &[id]).await?.pop().map(Box::new);
        Ok(match found {
            None => CancelResult::NotFound,
            Some(prediction) if canceled => CancelResult::Canceled(prediction),
            Some(prediction) => CancelResult::AlreadyTerminal(prediction),
        })
    }
}

/// The ends of runs, behind the fence: compare-and-set on worker and epoch, for a whole batch.
struct Ends {
    /// [id, epoch, status, pause before a retry] of each.
    list: Vec<(String, i32, i16, Option<i64>)>,
    worker: WorkerId,
    now: Stamp,
}

impl Ends {
    fn of(items: &[Item<'_>], worker: WorkerId, now: Stamp) -> Self {
        let list: Vec<(String, i32, i16, Option<i64>)> = items
            .iter()
            .map(|item| {
                let id = item.run.id.0.simple().to_string();
                (id, item.run.epoch, item.status.code(), item.delay.map(micros))
            })
            .collect();
        Self { list, worker, now }
    }

    /// Them as a table `item`, each with the time as its `now`.
    fn push_items(&self, query: &mut QueryBuilder<sqlx::Sqlite>) {
        query.push(
            "(SELECT unhex(value ->> 0) AS id, value ->> 1 AS epoch, value ->> 2 AS status, value ->> 3 AS delay, ",
        );
        query.push_bind(self.now).push(" AS now FROM json_each(").push_bind(Json(self.list.clone())).push(")) AS item");
    }

    /// Stores these outcomes, those of runs that hold their predictions.
    fn store(&self, query: &mut QueryBuilder<sqlx::Sqlite>, rows: &[Option<&&Item<'_>>]) {
        query.push(
            "INSERT INTO outputs (prediction_id, output, code, message, retryable, predict_seconds, batch_size, tokens)
             SELECT column1, column3, column4, column5, column6, column7, column8, column9 FROM (",
        );
        query.push_values(rows, |mut row, item| {
            let item = item.copied();
            let failure = item.and_then(|item| item.failure);
            row.push_bind(item.map(|item| item.run.id.0))
                .push_bind(item.map(|item| item.run.epoch))
                .push_bind(item.and_then(|item| item.output).map(str::to_owned))
                .push_bind(failure.map(|failure| failure.code.as_str()))
                .push_bind(failure.map(|failure| failure.message.clone()))
                .push_bind(failure.map(|failure| failure.retryable))
                .push_bind(item.and_then(Item::predict_seconds))
                .push_bind(item.and_then(Item::batch_size))
                .push_bind(item.and_then(Item::tokens));
        });
        query.push(") WHERE EXISTS (SELECT 1 FROM predictions WHERE id = column1 AND epoch = column2 AND worker = ");
        query.push_bind(self.worker.0).push("); ");
    }

    /// Tells the callers of those that end. No run has logs, so nobody is told of any.
    fn tell(&self, query: &mut QueryBuilder<sqlx::Sqlite>) {
        tell(query, |query| {
            query.push("SELECT predictions.id, event, tenant, now AS at FROM ");
            self.push_items(query);
            query.push(
                " CROSS JOIN predictions ON predictions.id = item.id AND predictions.epoch = item.epoch
                  CROSS JOIN (SELECT 2 AS event UNION ALL SELECT 4) AS events
                  WHERE item.status >= 2 AND webhook_events >> event & 1 AND (event = 4 OR item.status = 2) AND worker = ",
            );
            query.push_bind(self.worker.0);
        });
    }

    /// Ends them, and returns an [`AppliedRow`] of each that was the holder.
    fn end(&self, query: &mut QueryBuilder<sqlx::Sqlite>) {
        query.push(
            "UPDATE predictions
             SET status = item.status, worker = NULL, lease_until = NULL, solo = 0,
                 -- Back to waiting: after a pause with one retry spent, or at once as a release.
                 queued_at = CASE WHEN item.status <> 0 THEN queued_at END,
                 not_before = CASE WHEN delay IS NULL THEN not_before ELSE now + delay END,
                 retries = retries + (delay IS NOT NULL),
                 releases = releases + (item.status = 0 AND delay IS NULL),
                 completed_at = CASE WHEN item.status >= 2 THEN now END,
                 expires_at = CASE WHEN item.status >= 2 THEN now + retention END
             FROM ",
        );
        self.push_items(query);
        query.push(" WHERE predictions.id = item.id AND predictions.epoch = item.epoch AND worker = ");
        query
            .push_bind(self.worker.0)
            .push(" RETURNING id, epoch, attempts, claimed_at, started_at, completed_at, expires_at; ");
    }
}

/// Writes the same failure for each of these, which have ended, and tells their callers.
pub(super) async fn fail(
    connection: &mut SqliteConnection,
    now: Stamp,
    ended: &[PredictionId],
    failure: &Failure,
) -> sqlx::Result<()> {
    if ended.is_empty() {
        return Ok(());
    }
    let ids = id_list(ended);
    let mut query = QueryBuilder::default();
    tell(&mut query, |query| {
        query.push("SELECT predictions.id, 4 AS event, tenant, now AS at FROM ");
        push_wanted(query, &ids, now);
        query.push(" CROSS JOIN predictions ON predictions.id = wanted.id WHERE webhook_events & 16");
    });
    query.push("INSERT INTO outputs (prediction_id, code, message, retryable) SELECT unhex(value), ");
    query.push_bind(failure.code.as_str()).push(", ").push_bind(failure.message.clone()).push(", ");
    query.push_bind(failure.retryable).push(" FROM json_each(").push_bind(ids).push(")");
    query.build().execute(connection).await.map(drop)
}
