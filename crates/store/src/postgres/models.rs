//! What workers publish: themselves, the versions they serve, and their count of refused completions.

use std::time::Duration;

use prediction::{ModelName, Offer, Version, WorkerId};
use sqlx::{Connection, PgConnection};
use time::OffsetDateTime;

use super::{Postgres, on_connection};
use crate::{
    PublishedModel, StoreError,
    numbers::micros,
    rows::{PublishedRow, read, secret, spec_json},
};

const SEE_WORKER: &str = "
    INSERT INTO workers (id, host, stale, seen_at)
    VALUES ($1, $2, $3, clock_timestamp())
    ON CONFLICT (id) DO UPDATE SET host = excluded.host, stale = excluded.stale, seen_at = excluded.seen_at";

/// Which of these versions, by place in the array counted from one, have no specification yet: mostly none.
const UNPUBLISHED: &str = "
    SELECT place
    FROM UNNEST($1::text[], $2::text[]) WITH ORDINALITY AS served (model, version, place)
    LEFT JOIN versions USING (model, version)
    WHERE spec IS NULL";

/// The first specification of a version stays. In the order of names, as every transaction that takes them.
const PUBLISH_SPECS: &str = "
    INSERT INTO versions (model, version, spec, published_at)
    SELECT DISTINCT ON (model, version) model, version, spec, clock_timestamp()
    FROM UNNEST($1::text[], $2::text[], $3::text[]) AS served (model, version, spec)
    ORDER BY model, version
    ON CONFLICT (model, version) DO UPDATE SET spec = excluded.spec, published_at = excluded.published_at
    WHERE versions.spec IS NULL";

/// Those that this worker did not call the default of their models before. In the order of names, as above; without the lock that
/// would make predictions for them wait.
const BECOME_DEFAULTS: &str = "
    WITH become AS MATERIALIZED (
        SELECT id
        FROM UNNEST($2::text[], $3::text[], $4::boolean[]) AS served (model, version, is_default)
        JOIN versions USING (model, version)
        WHERE served.is_default AND NOT EXISTS (
            SELECT FROM worker_models WHERE worker_id = $1 AND version_id = versions.id AND worker_models.is_default)
        ORDER BY model, version
        FOR NO KEY UPDATE OF versions
    )
    UPDATE versions SET default_at = clock_timestamp() FROM become WHERE versions.id = become.id";

const SERVE: &str = "
    WITH served AS MATERIALIZED (
        SELECT id, is_default
        FROM UNNEST($2::text[], $3::text[], $4::boolean[]) AS served (model, version, is_default)
        JOIN versions USING (model, version)
    ),
    dropped AS (
        DELETE FROM worker_models WHERE worker_id = $1 AND version_id NOT IN (SELECT id FROM served)
    )
    INSERT INTO worker_models (worker_id, version_id, is_default)
    SELECT $1, id, is_default FROM served
    WHERE NOT EXISTS (
        SELECT FROM worker_models
        WHERE worker_id = $1 AND version_id = id AND worker_models.is_default = served.is_default)
    ON CONFLICT (worker_id, version_id) DO UPDATE SET is_default = excluded.is_default";

const WITHDRAW: &str = "DELETE FROM worker_models WHERE worker_id = $1";

const MODELS: &str = "
    SELECT spec, published_at, default_at, workers, default_workers
    FROM versions
    CROSS JOIN LATERAL (
        SELECT count(*) AS workers, count(*) FILTER (WHERE is_default) AS default_workers
        FROM worker_models JOIN workers ON workers.id = worker_id
        WHERE version_id = versions.id AND seen_at > clock_timestamp() - $1::bigint * interval '1 microsecond'
    ) AS counted
    WHERE spec IS NOT NULL
    ORDER BY model, published_at DESC, versions.id DESC";

/// One look into the index of what waits per version, as for streams that wait; what runs is little.
const UNFINISHED: &str = "
    SELECT model, version
    FROM UNNEST($1::text[], $2::text[]) AS asked (model, version)
    JOIN versions USING (model, version)
    LEFT JOIN LATERAL (
        SELECT true AS waits FROM predictions
        WHERE version_id = versions.id AND status = 0
        ORDER BY priority DESC, not_before, id
        LIMIT 1
    ) AS any_waiting ON true
    WHERE waits OR versions.id IN (SELECT version_id FROM predictions WHERE status = 1)";

const STALE_COMPLETIONS: &str = "
    SELECT (stale_completions + (SELECT COALESCE(sum(stale), 0) FROM workers))::bigint FROM installation";

impl Postgres {
    pub(crate) async fn publish(
        &self,
        worker: WorkerId,
        host: &str,
        offers: &[Offer],
        stale: u64,
    ) -> Result<(), StoreError> {
        let stale = i64::try_from(stale).unwrap_or(i64::MAX);
        let models: Vec<&str> = offers.iter().map(|offer| offer.spec.name.as_str()).collect();
        let versions: Vec<&str> = offers.iter().map(|offer| offer.spec.version.as_str()).collect();
        let defaults: Vec<bool> = offers.iter().map(|offer| offer.is_default).collect();
        let specs = offers.iter().map(|offer| spec_json(&offer.spec)).collect::<Result<Vec<_>, _>>()?;
        on_connection!(self, |connection| {
            let mut transaction = connection.begin().await?;
            sqlx::query(SEE_WORKER).bind(worker.0).bind(host).bind(stale).execute(&mut *transaction).await?;
            publish_specs(&mut transaction, &models, &versions, &specs).await?;
            for statement in [BECOME_DEFAULTS, SERVE] {
                let query = sqlx::query(statement).bind(worker.0).bind(&models).bind(&versions).bind(&defaults);
                query.execute(&mut *transaction).await?;
            }
            transaction.commit().await
        })
    }

    pub(crate) async fn withdraw(&self, worker: WorkerId) -> Result<(), StoreError> {
        on_connection!(self, |connection| sqlx::query(WITHDRAW).bind(worker.0).execute(connection).await)?;
        Ok(())
    }

    pub(crate) async fn models(&self, alive: Duration) -> Result<Vec<PublishedModel>, StoreError> {
        let rows: Vec<PublishedRow<OffsetDateTime>> =
            on_connection!(self, |connection| sqlx::query_as(MODELS).bind(micros(alive)).fetch_all(connection).await)?;
        rows.into_iter().map(PublishedRow::into_model).collect()
    }

    pub(crate) async fn unfinished(
        &self,
        versions: &[(ModelName, Version)],
    ) -> Result<Vec<(ModelName, Version)>, StoreError> {
        let models: Vec<&str> = versions.iter().map(|(model, _)| model.as_str()).collect();
        let versions: Vec<&str> = versions.iter().map(|(_, version)| version.as_str()).collect();
        let found: Vec<(String, String)> = on_connection!(self, |connection| {
            sqlx::query_as(UNFINISHED).bind(&models).bind(&versions).fetch_all(connection).await
        })?;
        found
            .into_iter()
            .map(|(model, version)| Ok((read("a model name", model)?, read("a version", version)?)))
            .collect()
    }

    pub(crate) async fn stale_completions(&self) -> Result<u64, StoreError> {
        let stale: i64 =
            on_connection!(self, |connection| sqlx::query_scalar(STALE_COMPLETIONS).fetch_one(connection).await)?;
        Ok(u64::try_from(stale).unwrap_or(0))
    }

    pub(crate) async fn secret(&self) -> Result<[u8; 32], StoreError> {
        let stored: Vec<u8> = on_connection!(self, |connection| {
            sqlx::query_scalar("SELECT secret FROM installation").fetch_one(connection).await
        })?;
        secret(stored)
    }
}

async fn publish_specs(
    connection: &mut PgConnection,
    models: &[&str],
    versions: &[&str],
    specs: &[String],
) -> sqlx::Result<()> {
    let unpublished: Vec<i64> =
        sqlx::query_scalar(UNPUBLISHED).bind(models).bind(versions).fetch_all(&mut *connection).await?;
    if !unpublished.is_empty() {
        sqlx::query(PUBLISH_SPECS).bind(models).bind(versions).bind(specs).execute(connection).await?;
    }
    Ok(())
}
