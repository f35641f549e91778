//! Endpoints of which something is remembered: a choice of their owner's, or that they want no more webhooks.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
};
use prediction::{BodyForm, Events};
use serde::Serialize;
use serde_json::Value;
use store::{Endpoint, EndpointChange, Place};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    schema::{BodyFormSchema, EndpointChangeSchema, EndpointRequestSchema},
    secrets, vet,
};
use crate::{
    api::Api,
    docs::{EndpointChangeProblems, WebhookListProblems, WebhookProblems, WebhookUrlProblems},
    extract::{Segments, json_body},
    fields::{Fields, text},
    keys::Caller,
    pages::Asked,
    problem::Problem,
    query::Parameters,
};

/// What a body's form must be, in words.
const FORMS: &str = "prediction or event";

/// What is remembered of an endpoint.
#[derive(Serialize, ToSchema)]
#[schema(as = Endpoint)]
struct EndpointView {
    /// Its id.
    id: Uuid,
    /// The URL without a query.
    url: String,
    /// What it wants as a body.
    #[schema(value_type = BodyFormSchema)]
    body: BodyForm,
    /// When it was first remembered.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    created_at: OffsetDateTime,
    /// Since when it wants no more webhooks: because you said so, or because it answered one with 410.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime, required)]
    disabled_at: Option<OffsetDateTime>,
    /// Its addresses.
    urls: EndpointUrls,
}

/// Addresses of one endpoint.
#[derive(Serialize, ToSchema)]
#[schema(as = EndpointUrls)]
struct EndpointUrls {
    /// Where to read, change and forget it.
    get: String,
    /// Where to read the secret that signs for it.
    secret: String,
}

/// One page, newest first.
#[derive(Serialize, ToSchema)]
#[schema(as = EndpointPage)]
struct EndpointPage {
    results: Vec<EndpointView>,
    /// Address of the page with older ones.
    #[schema(required)]
    next: Option<String>,
    /// Address of the page with newer ones.
    #[schema(required)]
    previous: Option<String>,
}

/// List the endpoints.
///
/// Those that were added or have answered 410, newest first: webhooks go to any other as well, with the default secret.
#[utoipa::path(
    get,
    path = "/v1/webhooks/endpoints", operation_id = "listEndpoints",
    tag = "webhooks",
    params(
        ("limit" = Option<u32>, Query, nullable = false, description = "endpoints on a page, 1 to 100; 25 when absent", minimum = 1, maximum = 100),
        ("cursor" = Option<String>, Query, nullable = false, description = "taken from `next` or `previous`"),
    ),
    responses((status = 200, body = EndpointPage, description = "One page"), WebhookListProblems),
)]
pub(super) async fn list(State(api): State<Arc<Api>>, caller: Caller, uri: Uri) -> Result<Response, Problem> {
    api.webhooks()?;
    let asked: Asked<'_, Place<Uuid>> =
        Asked::read(&api, &caller, Parameters::read(&uri)?, "/v1/webhooks/endpoints", String::new()).await?;
    let page = api.in_time(api.store.endpoints(caller.tenant(), asked.position, asked.limit)).await?;
    Ok(Json(EndpointPage {
        next: asked.address(page.next),
        previous: asked.address(page.previous),
        results: page.entries.into_iter().map(|endpoint| EndpointView::new(endpoint, &api.base)).collect(),
    })
    .into_response())
}

/// Add an endpoint.
///
/// A new one gets a secret of its own, which signs for it in place of the default from now on. One that is known already
/// is answered as it is.
#[utoipa::path(
    post,
    path = "/v1/webhooks/endpoints", operation_id = "addEndpoint",
    tag = "webhooks",
    request_body = EndpointRequestSchema,
    responses(
        (status = 200, body = EndpointView, description = "Known already, and left as it is"),
        (status = 201, body = EndpointView, description = "Added",
            headers(("Location" = String, description = "where to read it"))),
        WebhookUrlProblems,
    ),
)]
pub(super) async fn add(
    State(api): State<Arc<Api>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    api.webhooks()?;
    let mut fields = Fields::read(&json_body(&headers, body, api.body_bounds()).await?.text)?;
    let url = fields.need("url", "a string", text);
    let form = fields.take("body", FORMS, form).unwrap_or_default();
    let url = fields.finish(url)?;
    let endpoint = vet(&api, "/url", &url, Events::NONE).await?.endpoint;
    // A task of its own: once it is remembered it gets its secret, even if the caller is gone by then.
    let work = Arc::clone(&api);
    let adding = api.tasks.spawn(async move {
        let (endpoint, is_new) = work.in_time(work.store.add_endpoint(caller.tenant(), &endpoint, form)).await?;
        if is_new {
            secrets::add(&work, &caller, &endpoint.url).await?;
        }
        Ok::<_, Problem>((endpoint, is_new))
    });
    let (endpoint, is_new) = adding.await.map_err(|_| Problem::internal())??;
    let view = EndpointView::new(endpoint, &api.base);
    let location = HeaderValue::from_str(&view.urls.get).ok().filter(|_| is_new);
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = (status, Json(view)).into_response();
    if let Some(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Read an endpoint.
#[utoipa::path(
    get,
    path = "/v1/webhooks/endpoints/{id}", operation_id = "readEndpoint",
    tag = "webhooks",
    params(("id" = Uuid, Path, description = "id of the endpoint")),
    responses((status = 200, body = EndpointView, description = "The endpoint"), WebhookProblems),
)]
pub(super) async fn read(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Segments(id): Segments<String>,
) -> Result<Response, Problem> {
    api.webhooks()?;
    let endpoint = find(&api, &caller, &id).await?;
    Ok(Json(EndpointView::new(endpoint, &api.base)).into_response())
}

/// Change an endpoint.
///
/// Deliveries to a disabled one are given up as `disabled`, without an attempt. When it is enabled again they stay so: send
/// again what is still wanted.
#[utoipa::path(
    patch,
    path = "/v1/webhooks/endpoints/{id}", operation_id = "changeEndpoint",
    tag = "webhooks",
    params(("id" = Uuid, Path, description = "id of the endpoint")),
    request_body = EndpointChangeSchema,
    responses((status = 200, body = EndpointView, description = "The endpoint, changed"), EndpointChangeProblems),
)]
pub(super) async fn change(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Segments(id): Segments<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    api.webhooks()?;
    let id = read_id(&id)?;
    let mut fields = Fields::read(&json_body(&headers, body, api.body_bounds()).await?.text)?;
    let body = fields.take("body", FORMS, form);
    let is_disabled = fields.take("disabled", "true or false", Value::as_bool);
    let change = fields.finish(Some(EndpointChange { body, is_disabled }))?;
    let endpoint =
        api.in_time(api.store.change_endpoint(caller.tenant(), id, change)).await?.ok_or_else(Problem::not_found)?;
    Ok(Json(EndpointView::new(endpoint, &api.base)).into_response())
}

/// Forget an endpoint.
///
/// With its own secrets: from now on the default signs for it, and it gets the prediction as a body.
#[utoipa::path(
    delete,
    path = "/v1/webhooks/endpoints/{id}", operation_id = "forgetEndpoint",
    tag = "webhooks",
    params(("id" = Uuid, Path, description = "id of the endpoint")),
    responses((status = 204, description = "It is forgotten"), WebhookProblems),
)]
pub(super) async fn forget(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Segments(id): Segments<String>,
) -> Result<Response, Problem> {
    api.webhooks()?;
    let id = read_id(&id)?;
    if api.in_time(api.store.forget_endpoint(caller.tenant(), id)).await? {
        Ok(StatusCode::NO_CONTENT.into_response())
    } else {
        Err(Problem::not_found())
    }
}

/// The caller's endpoint that a path names.
pub(super) async fn find(api: &Api, caller: &Caller, id: &str) -> Result<Endpoint, Problem> {
    api.in_time(api.store.endpoint(caller.tenant(), read_id(id)?)).await?.ok_or_else(Problem::not_found)
}

/// Reads the hyphenated form only, as with predictions.
fn read_id(text: &str) -> Result<Uuid, Problem> {
    let is_hyphenated = text.len() == uuid::fmt::Hyphenated::LENGTH;
    Uuid::try_parse(text).ok().filter(|_| is_hyphenated).ok_or_else(Problem::not_found)
}

fn form(value: &Value) -> Option<BodyForm> {
    value.as_str()?.parse().ok()
}

impl EndpointView {
    fn new(endpoint: Endpoint, base: &str) -> Self {
        let Endpoint { id, url, body, created_at, disabled_at } = endpoint;
        let get = format!("{base}/v1/webhooks/endpoints/{id}");
        let urls = EndpointUrls { secret: format!("{get}/secret"), get };
        Self { id, url, body, created_at, disabled_at, urls }
    }
}
