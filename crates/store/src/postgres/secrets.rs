//! Signing secrets, encrypted: one current for each endpoint that has any, and those whose grace has not ended.

use std::time::Duration;

use sqlx::{Connection, PgConnection};
use time::OffsetDateTime;

use super::{Postgres, on_connection};
use crate::{SealedSecret, StoreError, numbers::micros, webhook_rows::SecretRow};

const READ: &str = "
    SELECT tenant, endpoint, sealed, expires_at
    FROM (SELECT DISTINCT * FROM UNNEST($1::text[], $2::text[]) AS wanted (tenant, endpoint)) AS wanted
    JOIN webhook_secrets USING (tenant, endpoint)
    WHERE expires_at IS NULL OR expires_at > clock_timestamp()
    ORDER BY tenant, endpoint, expires_at DESC NULLS FIRST, webhook_secrets.id DESC";

/// Whoever adds or rotates an endpoint's secret at the same time comes after this transaction.
macro_rules! take_turn {
    () => {
        "SELECT pg_advisory_xact_lock(hashtextextended($1, hashtextextended($2, 0)))"
    };
}

const TAKE_TURN: &str = take_turn!();

const ADD: &str = concat!(
    "WITH turn AS MATERIALIZED (",
    take_turn!(),
    ")
    INSERT INTO webhook_secrets (tenant, endpoint, sealed, created_at)
    SELECT $1, $2, $3, clock_timestamp() FROM turn
    ON CONFLICT (tenant, endpoint) WHERE expires_at IS NULL DO NOTHING"
);

/// Those replaced earlier do not outlive the current one: no grace at all ends them too.
const REPLACE: &str = "
    UPDATE webhook_secrets
    SET expires_at = LEAST(expires_at, clock_timestamp() + $3::bigint * interval '1 microsecond')
    WHERE tenant = $1 AND endpoint = $2";

const ADD_REPLACED: &str = "
    INSERT INTO webhook_secrets (tenant, endpoint, sealed, created_at, expires_at)
    SELECT $1, $2, $3, at, at + $4::bigint * interval '1 microsecond'
    FROM clock_timestamp() AS at";

const PUT: &str = "
    INSERT INTO webhook_secrets (tenant, endpoint, sealed, created_at) VALUES ($1, $2, $3, clock_timestamp())";

impl Postgres {
    pub(crate) async fn secrets(&self, of: &[(&str, &str)]) -> Result<Vec<SealedSecret>, StoreError> {
        let (tenants, endpoints): (Vec<&str>, Vec<&str>) = of.iter().copied().unzip();
        let rows: Vec<SecretRow<OffsetDateTime>> = on_connection!(self, |connection| sqlx::query_as(READ)
            .bind(&tenants)
            .bind(&endpoints)
            .fetch_all(connection)
            .await)?;
        rows.into_iter().map(SecretRow::into_secret).collect()
    }

    pub(crate) async fn add_secret(&self, tenant: &str, endpoint: &str, sealed: &[u8]) -> Result<bool, StoreError> {
        let added = on_connection!(self, |connection| sqlx::query(ADD)
            .bind(tenant)
            .bind(endpoint)
            .bind(sealed)
            .execute(connection)
            .await)?;
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
        on_connection!(self, |connection| {
            let mut transaction = connection.begin().await?;
            rotate(&mut transaction, (tenant, endpoint), sealed, instead, micros(grace)).await?;
            transaction.commit().await
        })
    }
}

async fn rotate(
    connection: &mut PgConnection,
    (tenant, endpoint): (&str, &str),
    sealed: &[u8],
    instead: Option<&[u8]>,
    grace: i64,
) -> sqlx::Result<()> {
    sqlx::query(TAKE_TURN).bind(tenant).bind(endpoint).execute(&mut *connection).await?;
    let replace = sqlx::query(REPLACE).bind(tenant).bind(endpoint).bind(grace);
    let replaced = replace.execute(&mut *connection).await?.rows_affected();
    if let Some(instead) = instead.filter(|_| replaced == 0) {
        let add = sqlx::query(ADD_REPLACED).bind(tenant).bind(endpoint).bind(instead).bind(grace);
        add.execute(&mut *connection).await?;
    }
    sqlx::query(PUT).bind(tenant).bind(endpoint).bind(sealed).execute(connection).await.map(drop)
}
