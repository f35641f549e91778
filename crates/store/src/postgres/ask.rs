//! Reading: single predictions, lists, places in line, and the state of the lines.

use prediction::{Prediction, PredictionId};
use sqlx::QueryBuilder;
use time::OffsetDateTime;

use super::{Postgres, on_connection};
use crate::{
    Cursor, ListFilter, ModelQueue, Page, StoreError, page,
    rows::{self, QueueRow, Record, uuids},
};

/// A prediction with all that belongs to it.
macro_rules! select_predictions {
    ($rest:literal) => {
        concat!(
            "SELECT predictions.id, model, version, status, priority, attempts, predictions.created_at, claimed_at, started_at,
                    completed_at, deadline_at, expires_at, input, metadata::text AS metadata, output, code, message,
                    retryable, logs, predict_seconds, batch_size, tokens, webhook_url, webhook_events
             FROM predictions
             JOIN versions ON versions.id = version_id
             LEFT JOIN inputs ON inputs.prediction_id = predictions.id
             ",
            $rest
        )
    };
}

const GET: &str = select_predictions!("WHERE predictions.id = ANY($1) AND predictions.tenant = $2");

const GET_ANY: &str = select_predictions!("WHERE predictions.id = ANY($1)");

const TENANT_OF: &str = "SELECT tenant FROM predictions WHERE id = $1";

const FINISHED: &str = "SELECT id FROM predictions WHERE id = ANY($1) AND completed_at IS NOT NULL";

const POSITION: &str = "
    SELECT (
        SELECT count(*) FROM (
            SELECT FROM predictions
            WHERE version_id = this.version_id AND priority = this.priority AND status = 0
              AND (not_before, id) < (this.not_before, this.id)
            ORDER BY not_before, id -- from the index, up to the bound
            LIMIT $2
        ) AS before
    )
    FROM predictions AS this
    WHERE id = $1 AND worker IS NULL AND completed_at IS NULL";

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
           COALESCE(EXTRACT(EPOCH FROM clock_timestamp() - oldest), 0)::double precision AS oldest_seconds
    FROM versions
    LEFT JOIN waiting ON waiting.version_id = id
    LEFT JOIN processing ON processing.version_id = id
    ORDER BY model, version";

impl Postgres {
    pub(crate) async fn get(&self, tenant: &str, ids: &[PredictionId]) -> Result<Vec<Prediction>, StoreError> {
        let ids = uuids(ids);
        let records: Vec<Record<OffsetDateTime, String>> =
            on_connection!(self, |connection| sqlx::query_as(GET).bind(&ids).bind(tenant).fetch_all(connection).await)?;
        records.into_iter().map(Record::into_prediction).collect()
    }

    pub(crate) async fn predictions(&self, ids: &[PredictionId]) -> Result<Vec<Prediction>, StoreError> {
        let ids = uuids(ids);
        let records: Vec<Record<OffsetDateTime, String>> =
            on_connection!(self, |connection| sqlx::query_as(GET_ANY).bind(&ids).fetch_all(connection).await)?;
        records.into_iter().map(Record::into_prediction).collect()
    }

    pub(crate) async fn tenant_of(&self, id: PredictionId) -> Result<Option<String>, StoreError> {
        on_connection!(self, |connection| sqlx::query_scalar(TENANT_OF).bind(id.0).fetch_optional(connection).await)
    }

    pub(crate) async fn finished(&self, ids: &[PredictionId]) -> Result<Vec<PredictionId>, StoreError> {
        let ids = uuids(ids);
        let finished =
            on_connection!(self, |connection| sqlx::query_scalar(FINISHED).bind(&ids).fetch_all(connection).await)?;
        Ok(rows::ids(finished))
    }

    pub(crate) async fn position(&self, id: PredictionId, bound: u32) -> Result<Option<u64>, StoreError> {
        let position: Option<i64> = on_connection!(self, |connection| sqlx::query_scalar(POSITION)
            .bind(id.0)
            .bind(i64::from(bound))
            .fetch_optional(connection)
            .await)?;
        Ok(position.map(|position| u64::try_from(position).unwrap_or(0)))
    }

    pub(crate) async fn list(
        &self,
        tenant: &str,
        filter: &ListFilter,
        cursor: Option<Cursor>,
        limit: u32,
    ) -> Result<Page, StoreError> {
        let records: Vec<Record<OffsetDateTime, String>> = on_connection!(self, |connection| {
            list_query(tenant, filter, cursor, limit).build_query_as().fetch_all(connection).await
        })?;
        let found = records.into_iter().map(Record::into_prediction).collect::<Result<_, _>>()?;
        Ok(page::page(found, cursor, limit))
    }

    pub(crate) async fn queues(&self) -> Result<Vec<ModelQueue>, StoreError> {
        let rows: Vec<QueueRow> =
            on_connection!(self, |connection| sqlx::query_as(QUEUES).fetch_all(connection).await)?;
        rows.into_iter().map(QueueRow::into_queue).collect()
    }
}

/// The statement for one page, one row longer than asked for: the payloads in order, which are what the index is on, each with its
/// prediction.
fn list_query(tenant: &str, filter: &ListFilter, cursor: Option<Cursor>, limit: u32) -> QueryBuilder<sqlx::Postgres> {
    let mut query = QueryBuilder::new(select_predictions!("WHERE inputs.tenant = "));
    query.push_bind(tenant.to_owned());
    if let Some(status) = filter.status {
        query.push(" AND status = ").push_bind(status.code());
    }
    if let Some(model) = &filter.model {
        query.push(" AND model = ").push_bind(model.as_str().to_owned());
    }
    if let Some(after) = filter.created_after {
        query.push(" AND inputs.created_at > ").push_bind(after);
    }
    if let Some(before) = filter.created_before {
        query.push(" AND inputs.created_at < ").push_bind(before);
    }
    for (key, value) in &filter.metadata {
        query.push(" AND jsonb_typeof(metadata -> ").push_bind(key.clone());
        query.push(") IN ('string', 'number', 'boolean') AND metadata ->> ").push_bind(key.clone());
        query.push(" = ").push_bind(value.clone());
    }
    let newer = cursor.is_some_and(|cursor| cursor.newer);
    if let Some(cursor) = cursor {
        query.push(if newer {
            " AND (inputs.created_at, inputs.prediction_id) > ("
        } else {
            " AND (inputs.created_at, inputs.prediction_id) < ("
        });
        query.push_bind(cursor.created_at).push(", ").push_bind(cursor.id.0).push(")");
    }
    let order = if newer {
        "inputs.created_at, inputs.prediction_id"
    } else {
        "inputs.created_at DESC, inputs.prediction_id DESC"
    };
    query.push(" ORDER BY ").push(order).push(" LIMIT ").push_bind(i64::from(limit) + 1);
    query
}
