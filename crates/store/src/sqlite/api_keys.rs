//! API keys. Another process may write these beside the one that serves: each call is one short transaction.

use std::time::Duration;

use super::{
    Sqlite,
    clock::{self, Stamp},
};
use crate::{
    StoreError,
    api_keys::{ALL, ApiKey, ApiKeyRow, FormerApiKey, FormerRow, VALID},
    numbers::micros,
};

const ADD: &str = "
    INSERT INTO api_keys (name, digest, share, created_at)
    VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT (name) WHERE revoked_at IS NULL DO NOTHING
    RETURNING id, name, digest, share, created_at, revoked_at";

const ANY: &str = "SELECT EXISTS (SELECT 1 FROM api_keys)";

const FORMER: &str = "
    SELECT key_id, former.digest, expires_at, expires_at - ?1 AS left_micros
    FROM former_api_keys AS former
    JOIN api_keys ON api_keys.id = key_id
    WHERE revoked_at IS NULL AND expires_at > ?1
    ORDER BY key_id, expires_at";

const PURGE: &str = "DELETE FROM former_api_keys WHERE expires_at <= ?1";

/// Those replaced earlier do not outlive the one that is replaced now: no grace at all ends them too.
const SHORTEN: &str = "UPDATE former_api_keys SET expires_at = min(expires_at, ?2) WHERE key_id = ?1";

const KEEP: &str = "
    INSERT INTO former_api_keys (digest, key_id, expires_at)
    SELECT digest, id, ?2 FROM api_keys WHERE id = ?1 AND revoked_at IS NULL";

const ROTATE: &str = "
    UPDATE api_keys SET digest = ?2
    WHERE id = ?1 AND revoked_at IS NULL
    RETURNING id, name, digest, share, created_at, revoked_at";

const REVOKE: &str = "
    UPDATE api_keys SET revoked_at = ?2
    WHERE id = ?1 AND revoked_at IS NULL
    RETURNING id, name, digest, share, created_at, revoked_at";

type Row = ApiKeyRow<Stamp>;

impl Sqlite {
    pub(crate) async fn add_api_key(
        &self,
        name: &str,
        digest: &[u8; 32],
        share: Option<f64>,
    ) -> Result<Option<ApiKey>, StoreError> {
        let mut turn = self.writer.begin().await?;
        let add = sqlx::query_as(ADD).bind(name).bind(digest.as_slice()).bind(share).bind(clock::now());
        let row: Option<Row> = add.fetch_optional(&mut *turn).await?;
        turn.commit().await?;
        row.map(Row::into_key).transpose()
    }

    pub(crate) async fn api_keys(&self) -> Result<Vec<ApiKey>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(ALL).fetch_all(&self.readers).await?;
        rows.into_iter().map(Row::into_key).collect()
    }

    pub(crate) async fn valid_api_keys(&self) -> Result<Option<Vec<ApiKey>>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(VALID).fetch_all(&self.readers).await?;
        let is_any = !rows.is_empty() || sqlx::query_scalar(ANY).fetch_one(&self.readers).await?;
        let keys = rows.into_iter().map(Row::into_key).collect::<Result<_, _>>()?;
        Ok(is_any.then_some(keys))
    }

    pub(crate) async fn former_api_keys(&self) -> Result<Vec<FormerApiKey>, StoreError> {
        let rows: Vec<FormerRow<Stamp>> = sqlx::query_as(FORMER).bind(clock::now()).fetch_all(&self.readers).await?;
        rows.into_iter().map(FormerRow::into_former).collect()
    }

    pub(crate) async fn rotate_api_key(
        &self,
        id: i32,
        digest: &[u8; 32],
        grace: Duration,
    ) -> Result<Option<ApiKey>, StoreError> {
        let mut turn = self.writer.begin().await?;
        let now = clock::now();
        let until = now.plus(micros(grace));
        for statement in [SHORTEN, KEEP] {
            sqlx::query(statement).bind(id).bind(until).execute(&mut *turn).await?;
        }
        // Without any grace this is what was just kept, too.
        sqlx::query(PURGE).bind(now).execute(&mut *turn).await?;
        let row: Option<Row> =
            sqlx::query_as(ROTATE).bind(id).bind(digest.as_slice()).fetch_optional(&mut *turn).await?;
        turn.commit().await?;
        row.map(Row::into_key).transpose()
    }

    pub(crate) async fn revoke_api_key(&self, id: i32) -> Result<Option<ApiKey>, StoreError> {
        let mut turn = self.writer.begin().await?;
        let row: Option<Row> = sqlx::query_as(REVOKE).bind(id).bind(clock::now()).fetch_optional(&mut *turn).await?;
        turn.commit().await?;
        row.map(Row::into_key).transpose()
    }
}
