//! The secrets that sign webhooks: shown to their owner, made when first asked for, and rotated. Nothing else shows one.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::{Body, HttpBody as _},
    extract::State,
    http::HeaderMap,
};
use serde::Serialize;
use store::SealedSecret;
use utoipa::ToSchema;
use webhook::Secret;

use super::{endpoints, schema::RotateRequestSchema};
use crate::{
    api::Api,
    docs::{DefaultSecretProblems, RotateProblems, WebhookProblems},
    extract::{Segments, json_body},
    fields::Fields,
    keys::Caller,
    problem::{Kind, Problem},
};

/// The endpoint that stands for the tenant's default secret.
const DEFAULT: &str = "";
/// How long a secret that was replaced goes on signing when nothing else is said: a day to bring receivers up to date.
const USUAL_GRACE: Duration = Duration::from_secs(24 * 3600);
/// The most secrets that sign for one endpoint: each adds 48 bytes to a header that every receiver must take.
const MOST_SIGNING: usize = 10;

/// A signing secret.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookSecret)]
pub(super) struct SecretView {
    /// `whsec_` and base64, as the libraries of Standard Webhooks take it.
    #[schema(example = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")]
    key: String,
}

/// Read the default secret.
///
/// It signs for every endpoint without one of its own, and is made when it is first asked for or needed.
#[utoipa::path(
    get,
    path = "/v1/webhooks/default/secret", operation_id = "readDefaultSecret",
    tag = "webhooks",
    responses((status = 200, body = SecretView, description = "The secret"), DefaultSecretProblems),
)]
pub(super) async fn read_default(State(api): State<Arc<Api>>, caller: Caller) -> Result<Json<SecretView>, Problem> {
    current(&api, &caller, DEFAULT).await
}

/// Read an endpoint's secret.
///
/// The default one where it has none of its own.
#[utoipa::path(
    get,
    path = "/v1/webhooks/endpoints/{id}/secret", operation_id = "readSecret",
    tag = "webhooks",
    params(("id" = uuid::Uuid, Path, description = "id of the endpoint")),
    responses((status = 200, body = SecretView, description = "The secret"), WebhookProblems),
)]
pub(super) async fn read(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Segments(id): Segments<String>,
) -> Result<Json<SecretView>, Problem> {
    api.webhooks()?;
    current(&api, &caller, &endpoints::find(&api, &caller, &id).await?.url).await
}

/// Rotate the default secret.
///
/// A new one takes its place. Until the grace has ended both sign, so that receivers can be brought up to date meanwhile.
#[utoipa::path(
    post,
    path = "/v1/webhooks/default/secret/rotate", operation_id = "rotateDefaultSecret",
    tag = "webhooks",
    request_body(content = Option<RotateRequestSchema>, description = "Nothing, or how"),
    responses((status = 200, body = SecretView, description = "The new secret"), RotateProblems),
)]
pub(super) async fn rotate_default(
    State(api): State<Arc<Api>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<SecretView>, Problem> {
    api.webhooks()?;
    let grace = grace(&api, &headers, body).await?;
    replace(&api, &caller, DEFAULT, grace).await
}

/// Rotate an endpoint's secret.
///
/// A new one takes its place. Until the grace has ended both sign, so that receivers can be brought up to date meanwhile.
/// An endpoint that had none of its own gets one, and the default goes on signing for it as long.
#[utoipa::path(
    post,
    path = "/v1/webhooks/endpoints/{id}/secret/rotate", operation_id = "rotateSecret",
    tag = "webhooks",
    params(("id" = uuid::Uuid, Path, description = "id of the endpoint")),
    request_body(content = Option<RotateRequestSchema>, description = "Nothing, or how"),
    responses((status = 200, body = SecretView, description = "The new secret"), RotateProblems),
)]
pub(super) async fn rotate(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Segments(id): Segments<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<SecretView>, Problem> {
    api.webhooks()?;
    let endpoint = endpoints::find(&api, &caller, &id).await?;
    let grace = grace(&api, &headers, body).await?;
    replace(&api, &caller, &endpoint.url, grace).await
}

/// Gives an endpoint a secret of its own, unless it has one.
pub(super) async fn add(api: &Api, caller: &Caller, endpoint: &str) -> Result<(), Problem> {
    let sealed = api.webhooks()?.sealer.seal(&Secret::generate(), caller.tenant(), endpoint);
    api.in_time(api.store.add_secret(caller.tenant(), endpoint, &sealed)).await.map(|_| ())
}

async fn current(api: &Api, caller: &Caller, endpoint: &str) -> Result<Json<SecretView>, Problem> {
    let signing = signing(api, caller, endpoint).await?;
    let secret = open(api, signing.first().ok_or_else(Problem::internal)?)?;
    Ok(Json(SecretView { key: secret.reveal() }))
}

async fn replace(api: &Api, caller: &Caller, endpoint: &str, grace: Duration) -> Result<Json<SecretView>, Problem> {
    let sealer = &api.webhooks()?.sealer;
    let signing = signing(api, caller, endpoint).await?;
    let current = signing.first().ok_or_else(Problem::internal)?;
    let has_own = current.endpoint == endpoint;
    if has_own && signing.len() >= MOST_SIGNING && !grace.is_zero() {
        let detail = format!("{MOST_SIGNING} secrets sign for this endpoint. Wait until one's grace has ended.");
        return Err(Problem::new(Kind::TooManySecrets, detail));
    }
    // The default, under the name of this endpoint: what is sealed for one opens for no other.
    let instead = if has_own { None } else { Some(sealer.seal(&open(api, current)?, caller.tenant(), endpoint)) };
    let new = Secret::generate();
    let sealed = sealer.seal(&new, caller.tenant(), endpoint);
    api.in_time(api.store.rotate_secret(caller.tenant(), endpoint, &sealed, instead.as_deref(), grace)).await?;
    Ok(Json(SecretView { key: new.reveal() }))
}

/// What signs for the endpoint, the current one first: its own secrets, else the default ones, of which the first is made
/// here if need be.
async fn signing(api: &Api, caller: &Caller, endpoint: &str) -> Result<Vec<SealedSecret>, Problem> {
    api.webhooks()?;
    let of = [(caller.tenant(), endpoint), (caller.tenant(), DEFAULT)];
    let of = if endpoint == DEFAULT { &of[1..] } else { &of[..] };
    let found = api.in_time(api.store.secrets(of)).await?;
    let found = if found.is_empty() {
        // Whoever else makes one at the same time, one of them is stored.
        add(api, caller, DEFAULT).await?;
        api.in_time(api.store.secrets(of)).await?
    } else {
        found
    };
    let (own, default): (Vec<_>, Vec<_>) = found.into_iter().partition(|secret| secret.endpoint == endpoint);
    Ok(if own.is_empty() { default } else { own })
}

fn open(api: &Api, secret: &SealedSecret) -> Result<Secret, Problem> {
    api.webhooks()?.sealer.open(&secret.sealed, &secret.tenant, &secret.endpoint).map_err(|error| {
        tracing::error!(%error, endpoint = secret.endpoint, "a webhook secret cannot be opened");
        Problem::new(Kind::Internal, "This server's webhook key does not open the stored secret.")
    })
}

/// Reads how long the secret that is replaced goes on signing.
async fn grace(api: &Api, headers: &HeaderMap, body: Body) -> Result<Duration, Problem> {
    if body.is_end_stream() {
        return Ok(USUAL_GRACE);
    }
    let body = json_body(headers, body, api.body_bounds()).await?.text;
    if body.trim() == "null" {
        return Ok(USUAL_GRACE);
    }
    let mut fields = Fields::read(&body)?;
    let expected = "a whole number and a unit: 0s, 30m, 24h, 7d";
    let grace = fields.take("grace", expected, |value| prediction::parse_duration(value.as_str()?).ok());
    fields.finish(Some(grace.unwrap_or(USUAL_GRACE)))
}
