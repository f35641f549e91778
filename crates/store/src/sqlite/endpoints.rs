//! What is remembered of endpoints.

use prediction::BodyForm;
use sqlx::QueryBuilder;
use uuid::Uuid;

use super::{
    Sqlite,
    clock::{self, Stamp},
};
use crate::{Endpoint, EndpointChange, PageOf, Place, StoreError, page::page_of, webhook_rows::EndpointRow};

const GET: &str = "SELECT id, url, body, created_at, disabled_at FROM endpoints WHERE tenant = ?1 AND id = ?2";

const GET_BY_URL: &str = "SELECT id, url, body, created_at, disabled_at FROM endpoints WHERE tenant = ?1 AND url = ?2";

const ADD: &str = "
    INSERT INTO endpoints (id, tenant, url, body, created_at)
    VALUES (?1, ?2, ?3, ?4, ?5)
    ON CONFLICT DO NOTHING
    RETURNING id, url, body, created_at, disabled_at";

const CHANGE: &str = "
    UPDATE endpoints
    SET body = COALESCE(?3, body),
        disabled_at = CASE WHEN COALESCE(?4, disabled_at IS NOT NULL) THEN COALESCE(disabled_at, ?5) END
    WHERE tenant = ?1 AND id = ?2
    RETURNING id, url, body, created_at, disabled_at";

const FORGET_SECRETS: &str = "
    DELETE FROM webhook_secrets
    WHERE tenant = ?1 AND endpoint = (SELECT url FROM endpoints WHERE tenant = ?1 AND id = ?2)";

const FORGET: &str = "DELETE FROM endpoints WHERE tenant = ?1 AND id = ?2";

impl Sqlite {
    pub(crate) async fn endpoints(
        &self,
        tenant: &str,
        place: Option<Place<Uuid>>,
        limit: u32,
    ) -> Result<PageOf<Endpoint, Uuid>, StoreError> {
        let rows: Vec<EndpointRow<Stamp>> =
            list_query(tenant, place, limit).build_query_as().fetch_all(&self.readers).await?;
        let found = rows.into_iter().map(EndpointRow::into_endpoint).collect::<Result<_, _>>()?;
        Ok(page_of(found, place, limit, |endpoint: &Endpoint| (endpoint.created_at, endpoint.id)))
    }

    pub(crate) async fn endpoint(&self, tenant: &str, id: Uuid) -> Result<Option<Endpoint>, StoreError> {
        let row: Option<EndpointRow<Stamp>> =
            sqlx::query_as(GET).bind(tenant).bind(id).fetch_optional(&self.readers).await?;
        row.map(EndpointRow::into_endpoint).transpose()
    }

    pub(crate) async fn add_endpoint(
        &self,
        tenant: &str,
        url: &str,
        body: BodyForm,
    ) -> Result<(Endpoint, bool), StoreError> {
        let mut transaction = self.writer.begin().await?;
        let now = clock::now();
        let added: Option<EndpointRow<Stamp>> = sqlx::query_as(ADD)
            .bind(Uuid::new_v4())
            .bind(tenant)
            .bind(url)
            .bind(body.code())
            .bind(now)
            .fetch_optional(&mut *transaction)
            .await?;
        let is_new = added.is_some();
        let row = match added {
            Some(row) => row,
            None => sqlx::query_as(GET_BY_URL).bind(tenant).bind(url).fetch_one(&mut *transaction).await?,
        };
        transaction.commit().await?;
        Ok((row.into_endpoint()?, is_new))
    }

    pub(crate) async fn change_endpoint(
        &self,
        tenant: &str,
        id: Uuid,
        change: EndpointChange,
    ) -> Result<Option<Endpoint>, StoreError> {
        let mut transaction = self.writer.begin().await?;
        let now = clock::now();
        let row: Option<EndpointRow<Stamp>> = sqlx::query_as(CHANGE)
            .bind(tenant)
            .bind(id)
            .bind(change.body.map(BodyForm::code))
            .bind(change.is_disabled)
            .bind(now)
            .fetch_optional(&mut *transaction)
            .await?;
        transaction.commit().await?;
        row.map(EndpointRow::into_endpoint).transpose()
    }

    pub(crate) async fn forget_endpoint(&self, tenant: &str, id: Uuid) -> Result<bool, StoreError> {
        let mut transaction = self.writer.begin().await?;
        sqlx::query(FORGET_SECRETS).bind(tenant).bind(id).execute(&mut *transaction).await?;
        let forgotten = sqlx::query(FORGET).bind(tenant).bind(id).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(forgotten.rows_affected() > 0)
    }
}

/// The statement for one page, one row longer than asked for.
fn list_query(tenant: &str, place: Option<Place<Uuid>>, limit: u32) -> QueryBuilder<sqlx::Sqlite> {
    let mut query = QueryBuilder::new("SELECT id, url, body, created_at, disabled_at FROM endpoints WHERE tenant = ");
    query.push_bind(tenant.to_owned());
    let newer = place.is_some_and(|place| place.newer);
    if let Some(place) = place {
        query.push(if newer { " AND (created_at, id) > (" } else { " AND (created_at, id) < (" });
        query.push_bind(Stamp::from(place.created_at)).push(", ").push_bind(place.id).push(")");
    }
    query.push(if newer { " ORDER BY created_at, id" } else { " ORDER BY created_at DESC, id DESC" });
    query.push(" LIMIT ").push_bind(i64::from(limit) + 1);
    query
}
