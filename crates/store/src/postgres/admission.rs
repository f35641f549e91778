//! What decides whether more may be accepted: how much waits, how fast it is finished, and what was accepted before.

use prediction::PredictionId;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Postgres, on_connection};
use crate::{
    Accepted, NewPrediction, StoreError, VersionCount, repeated,
    rows::{CountRow, TenantCountRow},
};

/// Version by version, so that each count is of one stretch of one index.
const WAITING: &str = "
    SELECT model, version, count
    FROM versions
    CROSS JOIN LATERAL (
        SELECT count(*) FROM (
            SELECT FROM predictions WHERE version_id = versions.id AND status = 0 LIMIT $1
        ) AS counted
    ) AS waiting
    WHERE count > 0";

/// The tenant is in no index that a claim has to maintain, so each row is read.
const WAITING_BY_TENANT: &str = "
    SELECT tenant, model, version, count
    FROM versions
    CROSS JOIN LATERAL (
        SELECT tenant, count(*) FROM (
            SELECT tenant FROM predictions WHERE version_id = versions.id AND status = 0 LIMIT $1
        ) AS counted
        GROUP BY tenant
    ) AS waiting";

const FINISHED_BETWEEN: &str = "
    WITH finished AS (
        SELECT version_id, count(*)
        FROM predictions
        WHERE status IN (2, 3) AND completed_at > $1 AND completed_at <= $2
        GROUP BY version_id
    )
    SELECT model, version, count FROM finished JOIN versions ON id = version_id";

const READ_KEY: &str = "SELECT prediction_id, fingerprint FROM idempotency_keys WHERE tenant = $1 AND key = $2";

const READ_OWNER: &str = "
    SELECT predictions.tenant, fingerprint
    FROM predictions
    LEFT JOIN inputs ON prediction_id = id
    WHERE id = $1";

impl Postgres {
    pub(crate) async fn waiting(&self, bound: u32) -> Result<Vec<VersionCount>, StoreError> {
        let rows: Vec<CountRow> = on_connection!(self, |connection| {
            sqlx::query_as(WAITING).bind(i64::from(bound)).fetch_all(connection).await
        })?;
        rows.into_iter().map(CountRow::into_count).collect()
    }

    pub(crate) async fn waiting_by_tenant(&self, bound: u32) -> Result<Vec<(String, VersionCount)>, StoreError> {
        let rows: Vec<TenantCountRow> = on_connection!(self, |connection| {
            sqlx::query_as(WAITING_BY_TENANT).bind(i64::from(bound)).fetch_all(connection).await
        })?;
        rows.into_iter().map(TenantCountRow::into_count).collect()
    }

    pub(crate) async fn finished_between(
        &self,
        since: OffsetDateTime,
        until: OffsetDateTime,
    ) -> Result<Vec<VersionCount>, StoreError> {
        let rows: Vec<CountRow> = on_connection!(self, |connection| {
            sqlx::query_as(FINISHED_BETWEEN).bind(since).bind(until).fetch_all(connection).await
        })?;
        rows.into_iter().map(CountRow::into_count).collect()
    }

    pub(crate) async fn accepted_before(&self, new: &NewPrediction) -> Result<Option<Accepted>, StoreError> {
        on_connection!(self, |connection| {
            let holder: Option<(Uuid, Vec<u8>)> = match &new.idempotency_key {
                Some(key) => {
                    sqlx::query_as(READ_KEY).bind(&new.tenant).bind(key).fetch_optional(&mut *connection).await?
                }
                None => None,
            };
            if let Some((id, fingerprint)) = holder {
                return Ok(Some(repeated::by_key(new, PredictionId(id), &fingerprint)));
            }
            let owner: Option<(String, Option<Vec<u8>>)> =
                sqlx::query_as(READ_OWNER).bind(new.id.0).fetch_optional(connection).await?;
            Ok(owner.map(|(tenant, fingerprint)| repeated::by_id(new, &tenant, fingerprint.as_deref())))
        })
    }
}
