//! Reading: single predictions, lists, places in line, and the state of the lines.

use prediction::{Prediction, PredictionId};
use sqlx::QueryBuilder;

use super::{
    Sqlite,
    clock::{self, Stamp},
    id_list,
};
use crate::{
    Cursor, ListFilter, ModelQueue, Page, StoreError, page,
    rows::{self, QueueRow, Record},
};

/// A prediction with all that belongs to it; `$from` brings in the table `predictions`.
macro_rules! select_predictions {
    ($from:literal, $rest:literal) => {
        concat!(
            "SELECT predictions.id, model, version, status, priority, attempts, created_at, claimed_at, started_at,
                    completed_at, deadline_at, expires_at, input, metadata, output, code, message,
                    retryable, logs, predict_seconds, batch_size, tokens, webhook_url, webhook_events
             FROM ",
            $from,
            " JOIN versions ON versions.id = version_id
             LEFT JOIN inputs ON inputs.prediction_id = predictions.id
             LEFT JOIN outputs ON outputs.prediction_id = predictions.id ",
            $rest
        )
    };
}

const GET: &str = select_predictions!(
    "json_each(?1) AS wanted CROSS JOIN predictions ON predictions.id = unhex(wanted.value)",
    "WHERE tenant = ?2"
);

const GET_ANY: &str =
    select_predictions!("json_each(?1) AS wanted CROSS JOIN predictions ON predictions.id = unhex(wanted.value)", "");

const TENANT_OF: &str = "SELECT tenant FROM predictions WHERE id = ?1";

const FINISHED: &str = "
    SELECT predictions.id
    FROM json_each(?1) AS wanted CROSS JOIN predictions ON predictions.id = unhex(wanted.value)
    WHERE status >= 2";

const POSITION: &str = "
    SELECT (
        SELECT count(*) FROM (
            SELECT 1 FROM predictions
            WHERE version_id = this.version_id AND priority = this.priority AND status = 0
              AND (not_before, id) < (this.not_before, this.id)
            LIMIT ?2
        )
    )
    FROM predictions AS this
    WHERE id = ?1 AND status = 0";

const QUEUES: &str = "
    WITH waiting AS (
        SELECT version_id, count(*) AS waiting, min(created_at) AS oldest
        FROM predictions WHERE status = 0 GROUP BY version_id
    ),
    processing AS (
        SELECT version_id, count(*) AS processing
        FROM predictions WHERE status = 1 GROUP BY version_id
    )
    SELECT model, version, COALESCE(waiting, 0) AS waiting, COALESCE(processing, 0) AS processing,
           COALESCE((?1 - oldest) / 1000000.0, 0.0) AS oldest_seconds
    FROM versions
    LEFT JOIN waiting ON waiting.version_id = id
    LEFT JOIN processing ON processing.version_id = id
    ORDER BY model, version";

impl Sqlite {
    pub(crate) async fn get(&self, tenant: &str, ids: &[PredictionId]) -> Result<Vec<Prediction>, StoreError> {
        let records: Vec<Record<Stamp, Vec<u8>>> =
            sqlx::query_as(GET).bind(id_list(ids)).bind(tenant).fetch_all(&self.readers).await?;
        records.into_iter().map(Record::into_prediction).collect()
    }

    pub(crate) async fn predictions(&self, ids: &[PredictionId]) -> Result<Vec<Prediction>, StoreError> {
        let records: Vec<Record<Stamp, Vec<u8>>> =
            sqlx::query_as(GET_ANY).bind(id_list(ids)).fetch_all(&self.readers).await?;
        records.into_iter().map(Record::into_prediction).collect()
    }

    pub(crate) async fn tenant_of(&self, id: PredictionId) -> Result<Option<String>, StoreError> {
        Ok(sqlx::query_scalar(TENANT_OF).bind(id.0).fetch_optional(&self.readers).await?)
    }

    pub(crate) async fn finished(&self, ids: &[PredictionId]) -> Result<Vec<PredictionId>, StoreError> {
        Ok(rows::ids(sqlx::query_scalar(FINISHED).bind(id_list(ids)).fetch_all(&self.readers).await?))
    }

    pub(crate) async fn position(&self, id: PredictionId, bound: u32) -> Result<Option<u64>, StoreError> {
        let position: Option<i64> =
            sqlx::query_scalar(POSITION).bind(id.0).bind(bound).fetch_optional(&self.readers).await?;
        Ok(position.map(|position| u64::try_from(position).unwrap_or(0)))
    }

    pub(crate) async fn list(
        &self,
        tenant: &str,
        filter: &ListFilter,
        cursor: Option<Cursor>,
        limit: u32,
    ) -> Result<Page, StoreError> {
        let records: Vec<Record<Stamp, Vec<u8>>> =
            list_query(tenant, filter, cursor, limit).build_query_as().fetch_all(&self.readers).await?;
        let found = records.into_iter().map(Record::into_prediction).collect::<Result<_, _>>()?;
        Ok(page::page(found, cursor, limit))
    }

    pub(crate) async fn queues(&self) -> Result<Vec<ModelQueue>, StoreError> {
        let mut connection = self.readers.acquire().await?;
        let now = clock::now();
        let rows: Vec<QueueRow> = sqlx::query_as(QUEUES).bind(now).fetch_all(&mut *connection).await?;
        rows.into_iter().map(QueueRow::into_queue).collect()
    }
}

/// The statement for one page, one row longer than asked for.
fn list_query(tenant: &str, filter: &ListFilter, cursor: Option<Cursor>, limit: u32) -> QueryBuilder<sqlx::Sqlite> {
    let mut query = QueryBuilder::new(select_predictions!("predictions", "WHERE tenant = "));
    query.push_bind(tenant.to_owned());
    if let Some(status) = filter.status {
        query.push(" AND status = ").push_bind(status.code());
    }
    if let Some(model) = &filter.model {
        query.push(" AND model = ").push_bind(model.as_str().to_owned());
    }
    if let Some(after) = filter.created_after {
        query.push(" AND created_at > ").push_bind(Stamp::from(after));
    }
    if let Some(before) = filter.created_before {
        query.push(" AND created_at < ").push_bind(Stamp::from(before));
    }
    for (key, value) in &filter.metadata {
        // SQLite has no booleans: their words come from the type.
        query.push(" AND EXISTS (SELECT 1 FROM json_each(metadata) AS member WHERE member.key = ");
        query.push_bind(key.clone());
        query.push(
            " AND CASE WHEN member.type IN ('true', 'false') THEN member.type
                       WHEN member.type IN ('text', 'integer', 'real') THEN CAST(member.value AS TEXT) END = ",
        );
        query.push_bind(value.clone()).push(")");
    }
    let newer = cursor.is_some_and(|cursor| cursor.newer);
    if let Some(cursor) = cursor {
        query.push(if newer {
            " AND (created_at, predictions.id) > ("
        } else {
            " AND (created_at, predictions.id) < ("
        });
        query.push_bind(Stamp::from(cursor.created_at)).push(", ").push_bind(cursor.id.0).push(")");
    }
    let order = if newer { "created_at, predictions.id" } else { "created_at DESC, predictions.id DESC" };
    query.push(" ORDER BY ").push(order).push(" LIMIT ").push_bind(i64::from(limit) + 1);
    query
}
