//! What workers publish: themselves, the versions they serve, and their count of refused completions.

use std::time::Duration;

use prediction::{ModelName, Offer, Version, WorkerId};

use super::{
    Sqlite,
    clock::{self, Stamp},
};
use crate::{
    PublishedModel, StoreError,
    numbers::micros,
    rows::{PublishedRow, secret, spec_json},
};

const SEE_WORKER: &str = "
    INSERT INTO workers (id, host, stale, seen_at)
    VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT (id) DO UPDATE SET host = excluded.host, stale = excluded.stale, seen_at = excluded.seen_at";

/// The first specification of a version stays.
const PUBLISH_SPEC: &str = "
    INSERT INTO versions (model, version, spec, published_at)
    VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT (model, version) DO UPDATE SET spec = excluded.spec, published_at = excluded.published_at
    WHERE versions.spec IS NULL";

const WITHDRAW: &str = "DELETE FROM worker_models WHERE worker_id = ?1";

/// Unless this worker called it the default of its model before.
const BECOME_DEFAULT: &str = "
    UPDATE versions SET default_at = ?4
    WHERE model = ?2 AND version = ?3 AND NOT EXISTS (
        SELECT 1 FROM worker_models WHERE worker_id = ?1 AND version_id = versions.id AND is_default)";

const SERVE: &str = "
    INSERT INTO worker_models (worker_id, version_id, is_default)
    SELECT ?1, id, ?4 FROM versions WHERE model = ?2 AND version = ?3
    ON CONFLICT (worker_id, version_id) DO NOTHING";

const MODELS: &str = "
    SELECT spec, published_at, default_at, count(workers.id) AS workers, COALESCE(sum(is_default AND workers.id IS NOT NULL), 0) AS default_workers
    FROM versions
    LEFT JOIN worker_models ON version_id = versions.id
    LEFT JOIN workers ON workers.id = worker_id AND seen_at > ?1
    WHERE spec IS NOT NULL
    GROUP BY versions.id
    ORDER BY model, published_at DESC, versions.id DESC";

const UNFINISHED: &str = "
    SELECT EXISTS (SELECT 1 FROM predictions WHERE version_id = versions.id AND status = 0)
        OR EXISTS (SELECT 1 FROM predictions WHERE version_id = versions.id AND status = 1)
    FROM versions WHERE model = ?1 AND version = ?2";

const STALE_COMPLETIONS: &str = "
    SELECT stale_completions + (SELECT COALESCE(sum(stale), 0) FROM workers) FROM installation";

impl Sqlite {
    pub(crate) async fn publish(
        &self,
        worker: WorkerId,
        host: &str,
        offers: &[Offer],
        stale: u64,
    ) -> Result<(), StoreError> {
        let mut transaction = self.writer.begin().await?;
        let now = clock::now();
        sqlx::query(SEE_WORKER)
            .bind(worker.0)
            .bind(host)
            .bind(i64::try_from(stale).unwrap_or(i64::MAX))
            .bind(now)
            .execute(&mut *transaction)
            .await?;
        for Offer { spec, is_default } in offers {
            let (model, version) = (spec.name.as_str(), spec.version.as_str());
            sqlx::query(PUBLISH_SPEC)
                .bind(model)
                .bind(version)
                .bind(spec_json(spec)?)
                .bind(now)
                .execute(&mut *transaction)
                .await?;
            if *is_default {
                let query = sqlx::query(BECOME_DEFAULT).bind(worker.0).bind(model).bind(version).bind(now);
                query.execute(&mut *transaction).await?;
            }
        }
        sqlx::query(WITHDRAW).bind(worker.0).execute(&mut *transaction).await?;
        for Offer { spec, is_default } in offers {
            let query = sqlx::query(SERVE).bind(worker.0).bind(spec.name.as_str()).bind(spec.version.as_str());
            query.bind(is_default).execute(&mut *transaction).await?;
        }
        Ok(transaction.commit().await?)
    }

    pub(crate) async fn withdraw(&self, worker: WorkerId) -> Result<(), StoreError> {
        let mut transaction = self.writer.begin().await?;
        sqlx::query(WITHDRAW).bind(worker.0).execute(&mut *transaction).await?;
        Ok(transaction.commit().await?)
    }

    pub(crate) async fn models(&self, alive: Duration) -> Result<Vec<PublishedModel>, StoreError> {
        let mut connection = self.readers.acquire().await?;
        let since = clock::now().plus(-micros(alive));
        let rows: Vec<PublishedRow<Stamp>> = sqlx::query_as(MODELS).bind(since).fetch_all(&mut *connection).await?;
        rows.into_iter().map(PublishedRow::into_model).collect()
    }

    pub(crate) async fn unfinished(
        &self,
        versions: &[(ModelName, Version)],
    ) -> Result<Vec<(ModelName, Version)>, StoreError> {
        let mut found = Vec::new();
        for (model, version) in versions {
            let query = sqlx::query_scalar(UNFINISHED).bind(model.as_str()).bind(version.as_str());
            if query.fetch_optional(&self.readers).await? == Some(true) {
                found.push((model.clone(), version.clone()));
            }
        }
        Ok(found)
    }

    pub(crate) async fn stale_completions(&self) -> Result<u64, StoreError> {
        let stale: i64 = sqlx::query_scalar(STALE_COMPLETIONS).fetch_one(&self.readers).await?;
        Ok(u64::try_from(stale).unwrap_or(0))
    }

    pub(crate) async fn secret(&self) -> Result<[u8; 32], StoreError> {
        secret(sqlx::query_scalar("SELECT secret FROM installation").fetch_one(&self.readers).await?)
    }
}
