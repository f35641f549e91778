//! API keys.

use std::time::Duration;

use sqlx::Connection as _;
use time::OffsetDateTime;

use super::{Postgres, on_connection};
use crate::{
    StoreError,
    api_keys::{ALL, ApiKey, ApiKeyRow, FormerApiKey, FormerRow, VALID},
    numbers::micros,
};

const ADD: &str = "
    INSERT INTO api_keys (name, digest, share, created_at)
    VALUES ($1, $2, $3, clock_timestamp())
    ON CONFLICT (name) WHERE revoked_at IS NULL DO NOTHING
    RETURNING id, name, digest, share, created_at, revoked_at";

const ANY: &str = "SELECT EXISTS (SELECT FROM api_keys)";

const FORMER: &str = "
    SELECT key_id, former.digest, expires_at,
           (EXTRACT(EPOCH FROM expires_at - clock_timestamp()) * 1000000)::bigint AS left_micros
    FROM former_api_keys AS former
    JOIN api_keys ON api_keys.id = key_id
    WHERE revoked_at IS NULL AND expires_at > clock_timestamp()
    ORDER BY key_id, expires_at";

/// Whoever rotates the same key at the same time comes after this transaction.
const TAKE_TURN: &str = "SELECT FROM api_keys WHERE id = $1 AND revoked_at IS NULL FOR UPDATE";

/// What others are at is left to them: waiting for it could be waiting for each other.
const PURGE: &str = "
    DELETE FROM former_api_keys
    WHERE digest IN (SELECT digest FROM former_api_keys WHERE expires_at <= clock_timestamp() FOR UPDATE SKIP LOCKED)";

/// Those replaced earlier do not outlive the one that is replaced now: no grace at all ends them too.
const SHORTEN: &str = "
    UPDATE former_api_keys
    SET expires_at = LEAST(expires_at, clock_timestamp() + $2::bigint * interval '1 microsecond')
    WHERE key_id = $1 AND expires_at > clock_timestamp()";

const KEEP: &str = "
    INSERT INTO former_api_keys (digest, key_id, expires_at)
    SELECT digest, id, clock_timestamp() + $2::bigint * interval '1 microsecond'
    FROM api_keys
    WHERE id = $1 AND revoked_at IS NULL AND $2 > 0";

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

    pub(crate) async fn former_api_keys(&self) -> Result<Vec<FormerApiKey>, StoreError> {
        let rows: Vec<FormerRow<OffsetDateTime>> =
            on_connection!(self, |connection| sqlx::query_as(FORMER).fetch_all(connection).await)?;
        rows.into_iter().map(FormerRow::into_former).collect()
    }

    pub(crate) async fn rotate_api_key(
        &self,
        id: i32,
        digest: &[u8; 32],
        grace: Duration,
    ) -> Result<Option<ApiKey>, StoreError> {
        let grace = micros(grace);
        let row: Option<Row> = on_connection!(self, |connection| {
            let mut transaction = connection.begin().await?;
            sqlx::query(TAKE_TURN).bind(id).execute(&mut *transaction).await?;
            for statement in [SHORTEN, KEEP] {
                sqlx::query(statement).bind(id).bind(grace).execute(&mut *transaction).await?;
            }
            sqlx::query(PURGE).execute(&mut *transaction).await?;
            let rotate = sqlx::query_as(ROTATE).bind(id).bind(digest.as_slice());
            let row = rotate.fetch_optional(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(row)
        })?;
        row.map(Row::into_key).transpose()
    }

    pub(crate) async fn revoke_api_key(&self, id: i32) -> Result<Option<ApiKey>, StoreError> {
        let row: Option<Row> =
            on_connection!(self, |connection| sqlx::query_as(REVOKE).bind(id).fetch_optional(connection).await)?;
        row.map(Row::into_key).transpose()
    }
}
