//! Topping up the queue: which waiting predictions lack a ticket.

use prediction::{PredictionId, Priority, StreamKey};
use uuid::Uuid;

use super::{
    Sqlite,
    clock::{self, Stamp},
    id_list,
};
use crate::{
    Due, StoreError,
    numbers::micros,
    rows::{self, corrupt, read},
};

const MARK_UNQUEUED: &str = "
    UPDATE predictions SET queued_at = NULL
    WHERE id IN (SELECT unhex(value) FROM json_each(?1)) AND status = 0";

const DUE: &str = "
    SELECT id FROM predictions
    WHERE version_id = (SELECT id FROM versions WHERE model = ?1 AND version = ?2) AND priority = ?3 AND status = 0
      AND not_before <= ?4 AND (queued_at IS NULL OR queued_at < ?5 OR queued_at < ?6)
    ORDER BY not_before, id
    LIMIT ?7";

const MARK_QUEUED: &str = "
    UPDATE predictions SET queued_at = ?2
    WHERE id IN (SELECT unhex(value) FROM json_each(?1))";

/// One look into the index per stream that may exist, instead of a walk along all that waits.
const WAITING_STREAMS: &str = "
    SELECT model, version, stream.priority
    FROM versions CROSS JOIN (SELECT 1 AS priority UNION ALL SELECT 0 UNION ALL SELECT -1) AS stream
    WHERE EXISTS (
        SELECT 1 FROM predictions
        WHERE version_id = versions.id AND priority = stream.priority AND status = 0
    )";

impl Sqlite {
    pub(crate) async fn mark_unqueued(&self, ids: &[PredictionId]) -> Result<(), StoreError> {
        let mut transaction = self.writer.begin().await?;
        sqlx::query(MARK_UNQUEUED).bind(id_list(ids)).execute(&mut *transaction).await?;
        Ok(transaction.commit().await?)
    }

    pub(crate) async fn take_due(
        &self,
        stream: &StreamKey,
        due: Due,
        limit: u32,
    ) -> Result<Vec<PredictionId>, StoreError> {
        let mut transaction = self.writer.begin().await?;
        let now = clock::now();
        let taken: Vec<Uuid> = sqlx::query_scalar(DUE)
            .bind(stream.model.as_str())
            .bind(stream.version.as_str())
            .bind(stream.priority.code())
            .bind(now)
            .bind(due.queued_before.map(Stamp::from))
            .bind(due.queued_for.map(|age| now.plus(-micros(age))))
            .bind(limit)
            .fetch_all(&mut *transaction)
            .await?;
        let taken = rows::ids(taken);
        sqlx::query(MARK_QUEUED).bind(id_list(&taken)).bind(now).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(taken)
    }

    pub(crate) async fn waiting_streams(&self) -> Result<Vec<StreamKey>, StoreError> {
        let streams: Vec<(String, String, i16)> = sqlx::query_as(WAITING_STREAMS).fetch_all(&self.readers).await?;
        let stream = |(model, version, priority)| {
            Ok(StreamKey {
                model: read("a model name", model)?,
                version: read("a version", version)?,
                priority: Priority::from_code(priority).ok_or_else(|| corrupt("a priority", priority))?,
            })
        };
        streams.into_iter().map(stream).collect()
    }
}
