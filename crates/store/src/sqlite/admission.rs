//! What decides whether more may be accepted: how much waits, how fast it is finished, and what was accepted before.

use prediction::PredictionId;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Sqlite, clock::Stamp};
use crate::{
    Accepted, NewPrediction, StoreError, VersionCount, repeated,
    rows::{CountRow, TenantCountRow},
};

const WAITING: &str = "
    SELECT model, version, count
    FROM (
        SELECT model, version, (
            SELECT count(*) FROM (
                SELECT 1 FROM predictions WHERE version_id = versions.id AND status = 0 LIMIT ?1
            )
        ) AS count
        FROM versions
    )
    WHERE count > 0";

/// The tenants of each version as one object of JSON, since a subquery that yields rows may not name the version.
const WAITING_BY_TENANT: &str = "
    SELECT counted.key AS tenant, model, version, counted.value AS count
    FROM versions
    CROSS JOIN json_each((
        SELECT json_group_object(tenant, count) FROM (
            SELECT tenant, count(*) AS count FROM (
                SELECT tenant FROM predictions WHERE version_id = versions.id AND status = 0 LIMIT ?1
            )
            GROUP BY tenant
        )
    )) AS counted";

const FINISHED_BETWEEN: &str = "
    SELECT model, version, count
    FROM (
        SELECT version_id, count(*) AS count
        FROM predictions
        WHERE status IN (2, 3) AND completed_at > ?1 AND completed_at <= ?2
        GROUP BY version_id
    )
    JOIN versions ON id = version_id";

const READ_KEY: &str = "SELECT prediction_id, fingerprint FROM idempotency_keys WHERE tenant = ?1 AND key = ?2";

const READ_OWNER: &str = "
    SELECT tenant, fingerprint
    FROM predictions
    LEFT JOIN inputs ON prediction_id = id
    WHERE id = ?1";

impl Sqlite {
    pub(crate) async fn waiting(&self, bound: u32) -> Result<Vec<VersionCount>, StoreError> {
        let rows: Vec<CountRow> = sqlx::query_as(WAITING).bind(bound).fetch_all(&self.readers).await?;
        rows.into_iter().map(CountRow::into_count).collect()
    }

    pub(crate) async fn waiting_by_tenant(&self, bound: u32) -> Result<Vec<(String, VersionCount)>, StoreError> {
        let rows: Vec<TenantCountRow> = sqlx::query_as(WAITING_BY_TENANT).bind(bound).fetch_all(&self.readers).await?;
        rows.into_iter().map(TenantCountRow::into_count).collect()
    }

    pub(crate) async fn finished_between(
        &self,
        since: OffsetDateTime,
        until: OffsetDateTime,
    ) -> Result<Vec<VersionCount>, StoreError> {
        let between = sqlx::query_as(FINISHED_BETWEEN).bind(Stamp::from(since)).bind(Stamp::from(until));
        let rows: Vec<CountRow> = between.fetch_all(&self.readers).await?;
        rows.into_iter().map(CountRow::into_count).collect()
    }

    pub(crate) async fn accepted_before(&self, new: &NewPrediction) -> Result<Option<Accepted>, StoreError> {
        let holder: Option<(Uuid, Vec<u8>)> = match &new.idempotency_key {
            Some(key) => sqlx::query_as(READ_KEY).bind(&new.tenant).bind(key).fetch_optional(&self.readers).await?,
            None => None,
        };
        if let Some((id, fingerprint)) = holder {
            return Ok(Some(repeated::by_key(new, PredictionId(id), &fingerprint)));
        }
        let owner: Option<(String, Option<Vec<u8>>)> =
            sqlx::query_as(READ_OWNER).bind(new.id.0).fetch_optional(&self.readers).await?;
        Ok(owner.map(|(tenant, fingerprint)| repeated::by_id(new, &tenant, fingerprint.as_deref())))
    }
}
