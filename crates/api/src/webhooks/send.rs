//! Sending on request: a delivery again, or a test.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use prediction::{DeliveryId, Event, PredictionId};
use queue::Notice;
use store::Delivery;

use super::{deliveries::DeliveryView, schema::TestRequestSchema, vet};
use crate::{
    api::Api,
    docs::{WebhookProblems, WebhookUrlProblems},
    extract::{Segments, json_body},
    fields::{Fields, text},
    keys::Caller,
    problem::Problem,
};

/// Send a delivery again.
///
/// One that was delivered or given up begins another whole round of attempts, one that waits is due now, and one that is
/// being sent stays as it is.
#[utoipa::path(
    post,
    path = "/v1/webhooks/deliveries/{id}/redeliver", operation_id = "redeliver",
    tag = "webhooks",
    params(("id" = String, Path, description = "id of the delivery, `<prediction>_<event>`")),
    responses(
        (status = 202, body = DeliveryView, description = "The delivery, due",
            headers(("Location" = String, description = "where to read it"))),
        WebhookProblems,
    ),
)]
pub(super) async fn redeliver(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Segments(id): Segments<String>,
) -> Result<Response, Problem> {
    api.webhooks()?;
    let id: DeliveryId = id.parse().map_err(|_| Problem::not_found())?;
    let delivery = api.in_time(api.store.redeliver(caller.tenant(), id)).await?.ok_or_else(Problem::not_found)?;
    Ok(due(&api, delivery).await)
}

/// Send a test.
///
/// A webhook about a made-up prediction, signed and delivered like any other.
#[utoipa::path(
    post,
    path = "/v1/webhooks/test", operation_id = "testWebhook",
    tag = "webhooks",
    request_body = TestRequestSchema,
    responses(
        (status = 202, body = DeliveryView, description = "Its delivery, due",
            headers(("Location" = String, description = "where to read it"))),
        WebhookUrlProblems,
    ),
)]
pub(super) async fn test(
    State(api): State<Arc<Api>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    api.webhooks()?;
    let mut fields = Fields::read(&json_body(&headers, body, api.body_bounds()).await?.text)?;
    let url = fields.need("url", "a string", text);
    let url = fields.finish(url)?;
    let webhook = vet(&api, "/url", &url, [Event::Test].into_iter().collect()).await?;
    let delivery = api.in_time(api.store.add_test(caller.tenant(), PredictionId::generate(), &webhook)).await?;
    Ok(due(&api, delivery).await)
}

/// Wakes the senders and answers. One that hears nothing looks by itself a moment later.
async fn due(api: &Api, delivery: Delivery) -> Response {
    api.queue.tell(Notice::DeliveriesDue).await;
    let view = DeliveryView::new(delivery, &api.base);
    let location = HeaderValue::from_str(view.address()).ok();
    let mut response = (StatusCode::ACCEPTED, Json(view)).into_response();
    if let Some(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}
