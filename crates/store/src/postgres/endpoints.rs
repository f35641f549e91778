//! What is remembered of endpoints.

use prediction::BodyForm;
use sqlx::QueryBuilder;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Postgres, on_connection};
use crate::{Endpoint, EndpointChange, PageOf, Place, StoreError, page::page_of, webhook_rows::EndpointRow};

const GET: &str = "SELECT id, url, body, created_at, disabled_at FROM endpoints WHERE tenant = $1 AND id = $2";

const GET_BY_URL: &str = "SELECT id, url, body, created_at, disabled_at FROM endpoints WHERE tenant = $1 AND url = $2";

const ADD: &str = "
    INSERT INTO endpoints (id, tenant, url, body, created_at)
    VALUES (gen_random_uuid(), $1, $2, $3, clock_timestamp())
    ON CONFLICT (tenant, url) DO NOTHING
    RETURNING id, url, body, created_at, disabled_at";

const CHANGE: &str = "
    UPDATE endpoints
    SET body = COALESCE($3, body),
        disabled_at = CASE COALESCE($4, disabled_at IS NOT NULL)
            WHEN true THEN COALESCE(disabled_at, clock_timestamp())
        END
    WHERE tenant = $1 AND id = $2
    RETURNING id, url, body, created_at, disabled_at";

const FORGET: &str = "
    WITH forgotten AS (DELETE FROM endpoints WHERE tenant = $1 AND id = $2 RETURNING url),
    purged AS (DELETE FROM webhook_secrets USING forgotten WHERE tenant = $1 AND endpoint = url)
    SELECT EXISTS (SELECT FROM forgotten)";

impl Postgres {
    pub(crate) async fn endpoints(
        &self,
        tenant: &str,
        place: Option<Place<Uuid>>,
        limit: u32,
    ) -> Result<PageOf<Endpoint, Uuid>, StoreError> {
        let rows: Vec<EndpointRow<OffsetDateTime>> = on_connection!(self, |connection| {
            list_query(tenant, place, limit).build_query_as().fetch_all(connection).await
        })?;
        let found = rows.into_iter().map(EndpointRow::into_endpoint).collect::<Result<_, _>>()?;
        Ok(page_of(found, place, limit, |endpoint: &Endpoint| (endpoint.created_at, endpoint.id)))
    }

    pub(crate) async fn endpoint(&self, tenant: &str, id: Uuid) -> Result<Option<Endpoint>, StoreError> {
        let row: Option<EndpointRow<OffsetDateTime>> = on_connection!(self, |connection| sqlx::query_as(GET)
            .bind(tenant)
            .bind(id)
            .fetch_optional(connection)
            .await)?;
        row.map(EndpointRow::into_endpoint).transpose()
    }

    pub(crate) async fn add_endpoint(
        &self,
        tenant: &str,
        url: &str,
        body: BodyForm,
    ) -> Result<(Endpoint, bool), StoreError> {
        // Again only if it was forgotten between the two looks.
        loop {
            let added: Option<EndpointRow<OffsetDateTime>> = on_connection!(self, |connection| sqlx::query_as(ADD)
                .bind(tenant)
                .bind(url)
                .bind(body.code())
                .fetch_optional(connection)
                .await)?;
            if let Some(row) = added {
                return Ok((row.into_endpoint()?, true));
            }
            let known: Option<EndpointRow<OffsetDateTime>> =
                on_connection!(self, |connection| sqlx::query_as(GET_BY_URL)
                    .bind(tenant)
                    .bind(url)
                    .fetch_optional(connection)
                    .await)?;
            if let Some(row) = known {
                return Ok((row.into_endpoint()?, false));
            }
        }
    }

    pub(crate) async fn change_endpoint(
        &self,
        tenant: &str,
        id: Uuid,
        change: EndpointChange,
    ) -> Result<Option<Endpoint>, StoreError> {
        let row: Option<EndpointRow<OffsetDateTime>> = on_connection!(self, |connection| sqlx::query_as(CHANGE)
            .bind(tenant)
            .bind(id)
            .bind(change.body.map(BodyForm::code))
            .bind(change.is_disabled)
            .fetch_optional(connection)
            .await)?;
        row.map(EndpointRow::into_endpoint).transpose()
    }

    pub(crate) async fn forget_endpoint(&self, tenant: &str, id: Uuid) -> Result<bool, StoreError> {
        on_connection!(self, |connection| sqlx::query_scalar(FORGET).bind(tenant).bind(id).fetch_one(connection).await)
    }
}

/// The statement for one page, one row longer than asked for.
fn list_query(tenant: &str, place: Option<Place<Uuid>>, limit: u32) -> QueryBuilder<sqlx::Postgres> {
    let mut query = QueryBuilder::new("SELECT id, url, body, created_at, disabled_at FROM endpoints WHERE tenant = ");
    query.push_bind(tenant.to_owned());
    let newer = place.is_some_and(|place| place.newer);
    if let Some(place) = place {
        query.push(if newer { " AND (created_at, id) > (" } else { " AND (created_at, id) < (" });
        query.push_bind(place.created_at).push(", ").push_bind(place.id).push(")");
    }
    query.push(if newer { " ORDER BY created_at, id" } else { " ORDER BY created_at DESC, id DESC" });
    query.push(" LIMIT ").push_bind(i64::from(limit) + 1);
    query
}
