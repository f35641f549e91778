//! Deliveries as callers see them: lists, single ones, their attempts; sending one again, and tests.

use prediction::{DeliveryId, DeliveryStatus, PredictionId};
use sqlx::QueryBuilder;

use super::{
    Sqlite,
    clock::{self, Stamp},
};
use crate::{
    Attempt, Delivery, DeliveryFilter, PageOf, Place, StoreError, Webhook,
    page::page_of,
    rows::corrupt,
    webhook_rows::{AttemptRow, DeliveryRow},
};

/// A delivery with its latest attempt.
macro_rules! select_deliveries {
    ($rest:literal) => {
        concat!(
            "SELECT deliveries.prediction_id, deliveries.event, url, endpoint, deliveries.status, attempts, created_at, due_at,
                    completed_at, latest.at, latency, latest.status AS answered, error, message
             FROM deliveries
             LEFT JOIN delivery_attempts AS latest
                 ON latest.prediction_id = deliveries.prediction_id AND latest.event = deliveries.event AND attempt = attempts
             ",
            $rest
        )
    };
}

const GET: &str =
    select_deliveries!("WHERE deliveries.prediction_id = ?1 AND deliveries.event = ?2 AND deliveries.tenant = ?3");

const ATTEMPTS: &str = "
    SELECT attempt, at, latency, delivery_attempts.status, answer, error, message
    FROM deliveries
    JOIN delivery_attempts USING (prediction_id, event)
    WHERE prediction_id = ?1 AND event = ?2 AND tenant = ?3 AND (?4 IS NULL OR attempt < ?4)
    ORDER BY attempt DESC
    LIMIT ?5";

/// One that was due already keeps its place in line.
const REDELIVER: &str = "
    UPDATE deliveries
    SET status = 0, completed_at = NULL, epoch = epoch + (status >= 2),
        round = CASE WHEN status >= 2 THEN 0 ELSE round END,
        begun_at = CASE WHEN status >= 2 THEN ?4 ELSE begun_at END,
        due_at = CASE WHEN status >= 2 THEN ?4 ELSE min(due_at, ?4) END
    WHERE prediction_id = ?1 AND event = ?2 AND tenant = ?3 AND status <> 1";

const ADD_TEST: &str = "
    INSERT INTO deliveries (prediction_id, event, tenant, url, endpoint, origin, created_at, due_at, begun_at)
    VALUES (?1, 0, ?2, ?3, ?4, ?5, ?6, ?6, ?6)
    ON CONFLICT DO NOTHING";

impl Sqlite {
    pub(crate) async fn deliveries(
        &self,
        tenant: &str,
        filter: &DeliveryFilter,
        place: Option<Place<DeliveryId>>,
        limit: u32,
    ) -> Result<PageOf<Delivery, DeliveryId>, StoreError> {
        let rows: Vec<DeliveryRow<Stamp>> =
            list_query(tenant, filter, place, limit).build_query_as().fetch_all(&self.readers).await?;
        let found = rows.into_iter().map(DeliveryRow::into_delivery).collect::<Result<_, _>>()?;
        Ok(page_of(found, place, limit, |delivery: &Delivery| (delivery.created_at, delivery.id)))
    }

    pub(crate) async fn delivery(&self, tenant: &str, id: DeliveryId) -> Result<Option<Delivery>, StoreError> {
        let row: Option<DeliveryRow<Stamp>> = sqlx::query_as(GET)
            .bind(id.prediction.0)
            .bind(id.event.code())
            .bind(tenant)
            .fetch_optional(&self.readers)
            .await?;
        row.map(DeliveryRow::into_delivery).transpose()
    }

    pub(crate) async fn delivery_attempts(
        &self,
        tenant: &str,
        id: DeliveryId,
        before: Option<u32>,
        limit: u32,
    ) -> Result<Vec<(u32, Attempt)>, StoreError> {
        let rows: Vec<AttemptRow<Stamp>> = sqlx::query_as(ATTEMPTS)
            .bind(id.prediction.0)
            .bind(id.event.code())
            .bind(tenant)
            .bind(before.map(crate::numbers::count))
            .bind(limit)
            .fetch_all(&self.readers)
            .await?;
        rows.into_iter().map(AttemptRow::into_attempt).collect()
    }

    pub(crate) async fn redeliver(&self, tenant: &str, id: DeliveryId) -> Result<Option<Delivery>, StoreError> {
        let mut transaction = self.writer.begin().await?;
        let now = clock::now();
        sqlx::query(REDELIVER)
            .bind(id.prediction.0)
            .bind(id.event.code())
            .bind(tenant)
            .bind(now)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        self.delivery(tenant, id).await
    }

    pub(crate) async fn add_test(
        &self,
        tenant: &str,
        id: PredictionId,
        webhook: &Webhook,
    ) -> Result<Delivery, StoreError> {
        let mut transaction = self.writer.begin().await?;
        let now = clock::now();
        sqlx::query(ADD_TEST)
            .bind(id.0)
            .bind(tenant)
            .bind(&webhook.url)
            .bind(&webhook.endpoint)
            .bind(&webhook.origin)
            .bind(now)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        let id = DeliveryId { prediction: id, event: prediction::Event::Test };
        self.delivery(tenant, id).await?.ok_or_else(|| corrupt("a test that is another tenant's", id))
    }
}

/// The statement for one page, one row longer than asked for.
fn list_query(
    tenant: &str,
    filter: &DeliveryFilter,
    place: Option<Place<DeliveryId>>,
    limit: u32,
) -> QueryBuilder<sqlx::Sqlite> {
    let mut query = QueryBuilder::new(select_deliveries!("WHERE deliveries.tenant = "));
    query.push_bind(tenant.to_owned());
    if let Some(prediction) = filter.prediction {
        query.push(" AND deliveries.prediction_id = ").push_bind(prediction.0);
    }
    if let Some(endpoint) = &filter.endpoint {
        query.push(" AND endpoint = ").push_bind(endpoint.clone());
    }
    if let Some(status) = filter.status {
        query.push(" AND deliveries.status = ").push_bind(status.code());
        if matches!(status, DeliveryStatus::Exhausted | DeliveryStatus::Disabled) {
            // Few among many, with an index of their own.
            query.push(" AND deliveries.status >= 3");
        }
    }
    let newer = place.is_some_and(|place| place.newer);
    if let Some(place) = place {
        query.push(" AND (created_at, deliveries.prediction_id, deliveries.event) ");
        query.push(if newer { "> (" } else { "< (" }).push_bind(Stamp::from(place.created_at));
        query.push(", ").push_bind(place.id.prediction.0).push(", ").push_bind(place.id.event.code()).push(")");
    }
    query.push(if newer {
        " ORDER BY created_at, deliveries.prediction_id, deliveries.event"
    } else {
        " ORDER BY created_at DESC, deliveries.prediction_id DESC, deliveries.event DESC"
    });
    query.push(" LIMIT ").push_bind(i64::from(limit) + 1);
    query
}
