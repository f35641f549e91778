//! API keys.

use time::OffsetDateTime;

use super::{Postgres, on_connection};
use crate::{
    StoreError,
    api_keys::{ALL, ApiKey, ApiKeyRow, VALID},
};

const ADD: &str = "
    INSERT INTO api_keys (name, digest, share, created_at)
    VALUES ($1, $2, $3, clock_timestamp())
    ON CONFLICT (name) WHERE revoked_at IS NULL DO NOTHING
    RETURNING id, name, digest, share, created_at, revoked_at";

const ANY: &str = "SELECT EXISTS (SELECT FROM api_keys)";

const ROTATE: &str = "
    UPDATE api_keys SET digest = $2
    WHERE id = $1 AND revoked_at IS NULL
    RETURNING id, name, digest, share, created_at, revoked_at";

const REVOKE: &str = "
    UPDATE api_keys SET revoked_at = clock_timestamp()
    WHERE id = $1 AND revoked_at IS NULL
    RETURNING id, name, digest, share, created_at, revoked_at";

type Row = ApiKeyRow<OffsetDateTime>;

impl Postgres {
    pub(crate) async fn add_api_key(
        &self,
        name: &str,
        digest: &[u8; 32],
        share: Option<f64>,
    ) -> Result<Option<ApiKey>, StoreError> {
        let row: Option<Row> = on_connection!(self, |connection| sqlx::query_as(ADD)
            .bind(name)
            .bind(digest.as_slice())
            .bind(share)
            .fetch_optional(connection)
            .await)?;
        row.map(Row::into_key).transpose()
    }

    pub(crate) async fn api_keys(&self) -> Result<Vec<ApiKey>, StoreError> {
        let rows: Vec<Row> = on_connection!(self, |connection| sqlx::query_as(ALL).fetch_all(connection).await)?;
        rows.into_iter().map(Row::into_key).collect()
    }

    pub(crate) async fn valid_api_keys(&self) -> Result<Option<Vec<ApiKey>>, StoreError> {
        let (rows, is_any): (Vec<Row>, bool) = on_connection!(self, |connection| {
            let rows: Vec<Row> = sqlx::query_as(VALID).fetch_all(&mut *connection).await?;
            let is_any = !rows.is_empty() || sqlx::query_scalar(ANY).fetch_one(connection).await?;
            Ok((rows, is_any))
        })?;
        let keys = rows.into_iter().map(Row::into_key).collect::<Result<_, _>>()?;
        Ok(is_any.then_some(keys))
    }

    pub(crate) async fn rotate_api_key(&self, id: i32, digest: &[u8; 32]) -> Result<Option<ApiKey>, StoreError> {
        let row: Option<Row> = on_connection!(self, |connection| sqlx::query_as(ROTATE)
            .bind(id)
            .bind(digest.as_slice())
            .fetch_optional(connection)
            .await)?;
        row.map(Row::into_key).transpose()
    }

    pub(crate) async fn revoke_api_key(&self, id: i32) -> Result<Option<ApiKey>, StoreError> {
        let row: Option<Row> =
            on_connection!(self, |connection| sqlx::query_as(REVOKE).bind(id).fetch_optional(connection).await)?;
        row.map(Row::into_key).transpose()
    }
}
