//! Signing secrets, encrypted: one current for each endpoint that has any, and those whose grace has not ended.

use std::time::Duration;

use sqlx::types::Json;

use super::{
    Sqlite,
    clock::{self, Stamp},
};
use crate::{SealedSecret, StoreError, numbers::micros, webhook_rows::SecretRow};

const READ: &str = "
    SELECT tenant, endpoint, sealed, expires_at
    FROM (SELECT DISTINCT value ->> 0 AS tenant, value ->> 1 AS endpoint FROM json_each(?1)) AS wanted
    JOIN webhook_secrets USING (tenant, endpoint)
    WHERE expires_at IS NULL OR expires_at > ?2
    ORDER BY tenant, endpoint, expires_at DESC NULLS FIRST, webhook_secrets.id DESC";

const ADD: &str = "
    INSERT INTO webhook_secrets (tenant, endpoint, sealed, created_at, expires_at)
    VALUES (?1, ?2, ?3, ?4, ?5)
    ON CONFLICT DO NOTHING";

/// Those replaced earlier do not outlive the current one: no grace at all ends them too.
const REPLACE: &str = "
    UPDATE webhook_secrets SET expires_at = min(COALESCE(expires_at, ?3), ?3) WHERE tenant = ?1 AND endpoint = ?2";

impl Sqlite {
    pub(crate) async fn secrets(&self, of: &[(&str, &str)]) -> Result<Vec<SealedSecret>, StoreError> {
        let mut connection = self.readers.acquire().await?;
        let now = clock::now();
        let rows: Vec<SecretRow<Stamp>> =
            sqlx::query_as(READ).bind(Json(of)).bind(now).fetch_all(&mut *connection).await?;
        rows.into_iter().map(SecretRow::into_secret).collect()
    }

    pub(crate) async fn add_secret(&self, tenant: &str, endpoint: &str, sealed: &[u8]) -> Result<bool, StoreError> {
        let mut transaction = self.writer.begin().await?;
        let now = clock::now();
        let add = sqlx::query(ADD).bind(tenant).bind(endpoint).bind(sealed).bind(now).bind(None::<Stamp>);
        let added = add.execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(added.rows_affected() > 0)
    }

    pub(crate) async fn rotate_secret(
        &self,
        tenant: &str,
        endpoint: &str,
        sealed: &[u8],
        instead: Option<&[u8]>,
        grace: Duration,
    ) -> Result<(), StoreError> {
        let mut transaction = self.writer.begin().await?;
        let now = clock::now();
        let until = now.plus(micros(grace));
        let replace = sqlx::query(REPLACE).bind(tenant).bind(endpoint).bind(until);
        let replaced = replace.execute(&mut *transaction).await?.rows_affected();
        let instead = instead.filter(|_| replaced == 0).map(|instead| (instead, Some(until)));
        for (sealed, expires_at) in instead.into_iter().chain([(sealed, None)]) {
            let add = sqlx::query(ADD).bind(tenant).bind(endpoint).bind(sealed).bind(now).bind(expires_at);
            add.execute(&mut *transaction).await?;
        }
        Ok(transaction.commit().await?)
    }
}
