//! Deliveries: each event on its way to one webhook, listed and read.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::Uri,
    response::{IntoResponse as _, Response},
};
use prediction::{DeliveryId, DeliveryStatus, Event, PredictionId};
use serde::Serialize;
use store::{Attempt, Delivery, DeliveryFilter, Place, Unanswered};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{
    schema::{DeliveryStatusSchema, EventSchema},
    vet,
};
use crate::{
    api::Api,
    docs::{WebhookListProblems, WebhookProblems},
    extract::Segments,
    keys::Caller,
    pages::Asked,
    problem::Problem,
    query::{self, Parameters},
};

/// One event on its way to one webhook.
#[derive(Serialize, ToSchema)]
#[schema(as = Delivery)]
pub(super) struct DeliveryView {
    /// Its id, `<prediction>_<event>`: what is sent as `webhook-id`, the same in every attempt.
    #[schema(value_type = String)]
    id: DeliveryId,
    /// The prediction; of a test, the id of a made-up one.
    #[schema(value_type = uuid::Uuid)]
    prediction: PredictionId,
    /// What happened to it.
    #[schema(value_type = EventSchema)]
    event: Event,
    /// Where to.
    url: String,
    /// The URL without its query: what settings and secrets go by.
    endpoint: String,
    /// Where it stands.
    #[schema(value_type = DeliveryStatusSchema)]
    status: DeliveryStatus,
    /// Attempts that have ended.
    attempts: u32,
    /// When the event happened.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    created_at: OffsetDateTime,
    /// When it is tried next; null when nothing more happens to it.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime, required)]
    due_at: Option<OffsetDateTime>,
    /// When it was delivered or given up.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime, required)]
    completed_at: Option<OffsetDateTime>,
    /// The latest attempt that has ended.
    #[schema(required)]
    latest: Option<LatestView>,
    /// Its addresses.
    urls: DeliveryUrls,
}

/// The latest attempt of a delivery.
#[derive(Serialize, ToSchema)]
#[schema(as = LatestAttempt)]
struct LatestView {
    /// When it began.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    at: OffsetDateTime,
    /// How long it took.
    latency_seconds: f64,
    /// The answer's HTTP status; null when there was none.
    #[schema(required)]
    status: Option<u16>,
    /// Why there was no answer.
    #[schema(required)]
    error: Option<ErrorView>,
}

/// Why an attempt had no answer.
#[derive(Serialize, ToSchema)]
#[schema(as = AttemptError)]
pub(super) struct ErrorView {
    /// In one word, for programs.
    code: String,
    /// For people.
    message: String,
}

/// Addresses of one delivery.
#[derive(Serialize, ToSchema)]
#[schema(as = DeliveryUrls)]
struct DeliveryUrls {
    /// Where to read it.
    get: String,
    /// Where to list its attempts.
    attempts: String,
    /// Where to send it again.
    redeliver: String,
}

/// One page, newest first.
#[derive(Serialize, ToSchema)]
#[schema(as = DeliveryPage)]
struct DeliveryPage {
    results: Vec<DeliveryView>,
    /// Address of the page with older ones.
    #[schema(required)]
    next: Option<String>,
    /// Address of the page with newer ones.
    #[schema(required)]
    previous: Option<String>,
}

/// List deliveries.
///
/// Newest first. `next` and `previous` are whole addresses, or null at the end.
#[utoipa::path(
    get,
    path = "/v1/webhooks/deliveries", operation_id = "listDeliveries",
    tag = "webhooks",
    params(
        ("prediction" = Option<uuid::Uuid>, Query, nullable = false, description = "only of this prediction"),
        ("endpoint" = Option<String>, Query, nullable = false, description = "only to this endpoint: the URL of a webhook, whose query does not count"),
        ("status" = Option<DeliveryStatusSchema>, Query, nullable = false, description = "only with this status"),
        ("limit" = Option<u32>, Query, nullable = false, description = "deliveries on a page, 1 to 100; 25 when absent", minimum = 1, maximum = 100),
        ("cursor" = Option<String>, Query, nullable = false, description = "taken from `next` or `previous`"),
    ),
    responses((status = 200, body = DeliveryPage, description = "One page"), WebhookListProblems),
)]
pub(super) async fn list(State(api): State<Arc<Api>>, caller: Caller, uri: Uri) -> Result<Response, Problem> {
    api.webhooks()?;
    let mut parameters = Parameters::read(&uri)?;
    let filter = DeliveryFilter {
        prediction: parameters.take("prediction", "the id of a prediction", |text| text.parse().ok())?,
        endpoint: parameters.take("endpoint", "the URL of a webhook", vet::endpoint_named)?,
        status: parameters
            .take("status", "waiting, sending, delivered, exhausted or disabled", |text| text.parse().ok())?,
    };
    let asked: Asked<'_, Place<DeliveryId>> =
        Asked::read(&api, &caller, parameters, "/v1/webhooks/deliveries", written(&filter)).await?;
    let page = api.in_time(api.store.deliveries(caller.tenant(), &filter, asked.position, asked.limit)).await?;
    Ok(Json(DeliveryPage {
        next: asked.address(page.next),
        previous: asked.address(page.previous),
        results: page.entries.into_iter().map(|delivery| DeliveryView::new(delivery, &api.base)).collect(),
    })
    .into_response())
}

/// Read a delivery.
#[utoipa::path(
    get,
    path = "/v1/webhooks/deliveries/{id}", operation_id = "readDelivery",
    tag = "webhooks",
    params(("id" = String, Path, description = "id of the delivery, `<prediction>_<event>`")),
    responses((status = 200, body = DeliveryView, description = "The delivery"), WebhookProblems),
)]
pub(super) async fn read(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Segments(id): Segments<String>,
) -> Result<Response, Problem> {
    api.webhooks()?;
    let delivery = find(&api, &caller, &id).await?;
    Ok(Json(DeliveryView::new(delivery, &api.base)).into_response())
}

/// The caller's delivery that a path names.
pub(super) async fn find(api: &Api, caller: &Caller, id: &str) -> Result<Delivery, Problem> {
    let id = id.parse().map_err(|_| Problem::not_found())?;
    api.in_time(api.store.delivery(caller.tenant(), id)).await?.ok_or_else(Problem::not_found)
}

fn written(filter: &DeliveryFilter) -> String {
    let prediction = filter.prediction.map(|id| id.to_string());
    let pairs = [
        ("prediction", prediction.as_deref()),
        ("endpoint", filter.endpoint.as_deref()),
        ("status", filter.status.map(|status| status.as_str())),
    ];
    query::write(pairs.into_iter().filter_map(|(name, value)| Some((name, value?))))
}

impl DeliveryView {
    pub(super) fn new(delivery: Delivery, base: &str) -> Self {
        let Delivery { id, url, endpoint, status, attempts, created_at, due_at, completed_at, latest } = delivery;
        Self {
            id,
            prediction: id.prediction,
            event: id.event,
            url,
            endpoint,
            status,
            attempts,
            created_at,
            due_at,
            completed_at,
            latest: latest.map(LatestView::new),
            urls: DeliveryUrls::of(id, base),
        }
    }

    /// Where to read it.
    pub(super) fn address(&self) -> &str {
        &self.urls.get
    }
}

impl LatestView {
    fn new(attempt: Attempt) -> Self {
        let (status, error) = match attempt.result {
            Ok(answer) => (Some(answer.status), None),
            Err(unanswered) => (None, Some(ErrorView::new(unanswered))),
        };
        Self { at: attempt.at, latency_seconds: attempt.latency.as_secs_f64(), status, error }
    }
}

impl ErrorView {
    pub(super) fn new(unanswered: Unanswered) -> Self {
        Self { code: unanswered.error, message: unanswered.message }
    }
}

impl DeliveryUrls {
    fn of(id: DeliveryId, base: &str) -> Self {
        let get = format!("{base}/v1/webhooks/deliveries/{id}");
        Self { attempts: format!("{get}/attempts"), redeliver: format!("{get}/redeliver"), get }
    }
}
