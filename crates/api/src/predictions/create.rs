//! Creating predictions: read, validate, store, and only then say so.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use prediction::{Metrics, Prediction, PredictionId, Status, StreamKey};
use store::{Accepted, NewPrediction, Webhook};
use tokio::time::Instant;

use super::{
    CreateRequest, Target, json,
    schema::{PredictionRequestSchema, PredictionSchema},
    wait, with_urls,
};
use crate::{
    api::Api,
    catalog::Published,
    docs::CreateProblems,
    extract::{Segments, json_body},
    fingerprint,
    headers::{IDEMPOTENT_REPLAYED, PREFERENCE_APPLIED, Prefer, cancel_after, idempotency_key},
    keys::Caller,
    problem::{Fault, Kind, Problem},
    webhooks,
};

/// Seconds after which a caller who was answered 202 may look again.
const LOOK_AGAIN_AFTER: u32 = 1;

/// Create a prediction.
///
/// The input is validated against the model's schema, stored, and run as soon as a worker is free. With
/// `Prefer: wait` the answer comes when it is finished, or after the wait.
#[utoipa::path(
    post,
    path = "/v1/predictions", operation_id = "createPrediction",
    tag = "predictions",
    params(
        ("Prefer" = Option<String>, Header, nullable = false, description = "`wait`, `wait=N` (1 to 60 seconds) or `respond-async`"),
        ("Idempotency-Key" = Option<String>, Header, nullable = false, description = "1 to 255 printable ASCII characters; the same key and request give the same prediction"),
        ("Cancel-After" = Option<String>, Header, nullable = false, description = "canceled unless finished within this time: `30s`, `5m`, `2h`"),
    ),
    request_body = PredictionRequestSchema,
    responses(
        (status = 200, body = PredictionSchema, description = "Accepted by an earlier, equal request, and finished"),
        (status = 201, body = PredictionSchema, description = "Accepted, and finished while the request waited"),
        (status = 202, body = PredictionSchema, description = "Accepted and stored",
            headers(("Location" = String, description = "where to read it"), ("Retry-After" = u32, description = "seconds"))),
        CreateProblems,
    ),
)]
pub(super) async fn create(
    State(api): State<Arc<Api>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    accept(&api, &caller, None, None, &headers, body).await
}

/// Create a prediction of a model.
///
/// The same as `POST /v1/predictions`, with the model in the address; its default version runs it.
#[utoipa::path(
    post,
    path = "/v1/models/{owner}/{name}/predictions", operation_id = "createPredictionOfModel",
    tag = "predictions",
    params(
        ("owner" = String, Path, description = "owner of the model"),
        ("name" = String, Path, description = "name of the model"),
        ("Prefer" = Option<String>, Header, nullable = false, description = "`wait`, `wait=N` (1 to 60 seconds) or `respond-async`"),
        ("Idempotency-Key" = Option<String>, Header, nullable = false, description = "1 to 255 printable ASCII characters; the same key and request give the same prediction"),
        ("Cancel-After" = Option<String>, Header, nullable = false, description = "canceled unless finished within this time: `30s`, `5m`, `2h`"),
    ),
    request_body = PredictionRequestSchema,
    responses(
        (status = 200, body = PredictionSchema, description = "Accepted by an earlier, equal request, and finished"),
        (status = 201, body = PredictionSchema, description = "Accepted, and finished while the request waited"),
        (status = 202, body = PredictionSchema, description = "Accepted and stored",
            headers(("Location" = String, description = "where to read it"), ("Retry-After" = u32, description = "seconds"))),
        CreateProblems,
    ),
)]
pub(super) async fn create_for_model(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Segments((owner, name)): Segments<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    accept(&api, &caller, None, Some(Target::of_path(&owner, &name)), &headers, body).await
}

/// Reads, validates and stores one prediction, and waits for it as its caller prefers. `id`: the caller's own, if any.
pub(super) async fn accept(
    api: &Api,
    caller: &Caller,
    id: Option<PredictionId>,
    named: Option<Target>,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let arrived = Instant::now();
    let prefer = Prefer::from_headers(headers);
    let idempotency_key = idempotency_key(headers)?;
    let cancel_after = cancel_after(headers)?;
    let body = json_body(headers, body, api.body_bounds()).await?;
    let mut request = CreateRequest::parse(&body.text, named)?;
    let room = Arc::new(body.room);
    drop(body.text);
    request.deadline = agreed(cancel_after, request.deadline)?;
    // Boxed, like all that is seldom waited for: a request's future is moved several times, and should be small.
    let served = match api.catalog.known(&request.target) {
        Some(served) => served,
        None => Box::pin(api.catalog.resolve(&request.target, api.config.queue_unserved)).await?,
    };
    let admitted = api.admission.admit(caller, &served.published.spec);
    // What can only be new is refused before any more work is done for it.
    let is_surely_new = id.is_none() && idempotency_key.is_none();
    if let Err(full) = &admitted
        && is_surely_new
    {
        return Err(full.clone());
    }
    let id = id.unwrap_or_else(PredictionId::generate);
    check(&served.published, &request)?;
    let webhook = match &request.webhook {
        Some((url, events)) => Some(Box::pin(webhooks::vet(api, "/webhook", url, *events)).await?),
        None => None,
    };
    let new = stored_form(api, caller, id, &served.published, request, webhook, idempotency_key);
    let unfinished = as_accepted(&new);
    let waiting = prefer.wait.map(|seconds| (api.waiters.wait_for(id), wait::ends(arrived, seconds)));
    let accepted = match admitted {
        Ok(mut admitted) => {
            admitted.hand_in();
            api.accept(new, &room).await?
        }
        Err(full) => Box::pin(api.accepted_before(&new)).await?.ok_or(full)?,
    };
    match accepted {
        Accepted::Created { created_at, deadline_at } => {
            let mut prediction = Prediction { created_at, deadline_at, ..unfinished };
            if let Some((waiting, until)) = &waiting {
                // It is stored: whatever happens to the wait, its caller learns its id.
                let known = Some(wait::Unfinished::accepted(api, &prediction));
                if let Ok(Some(settled)) = Box::pin(wait::settled(api, caller, id, waiting, *until, known)).await {
                    prediction = settled;
                }
            }
            Ok(answer(api, prediction, prefer, false).await)
        }
        Accepted::Replayed { id } => {
            let looking = async {
                match prefer.wait {
                    Some(seconds) => {
                        let waiting = api.waiters.wait_for(id);
                        wait::settled(api, caller, id, &waiting, wait::ends(arrived, seconds), None).await
                    }
                    None => api.find(caller, id).await,
                }
            };
            let prediction = Box::pin(looking).await?;
            // Its record may have been removed since; its key is kept longer.
            Ok(answer(api, prediction.ok_or_else(Problem::not_found)?, prefer, true).await)
        }
        Accepted::KeyConflict => {
            Err(Problem::new(Kind::IdempotencyKeyReused, "This Idempotency-Key was used with another request."))
        }
        Accepted::IdConflict => Err(Problem::new(Kind::IdConflict, "This id belongs to another prediction.")),
    }
}

/// The deadline that header and body agree on.
fn agreed(header: Option<Duration>, field: Option<Duration>) -> Result<Option<Duration>, Problem> {
    match (header, field) {
        (Some(header), Some(field)) if header != field => {
            Err(Problem::new(Kind::MalformedRequest, "Cancel-After and the body's deadline differ."))
        }
        (header, field) => Ok(header.or(field)),
    }
}

/// Whether the model takes this input.
fn check(published: &Published, request: &CreateRequest) -> Result<(), Problem> {
    let limit = published.spec.limits.max_input_bytes;
    if request.input.get().len() > limit {
        let fault = Fault::new("/input", format!("is larger than {limit} bytes"));
        return Err(Problem::new(
            Kind::InputTooLarge,
            format!("{} takes inputs of up to {limit} bytes.", published.spec.name),
        )
        .with_faults(vec![fault]));
    }
    let faults = published.input()?.faults(&request.input_value);
    if faults.is_empty() {
        return Ok(());
    }
    Err(Problem::new(
        Kind::InvalidInput,
        format!("The input does not fit the input schema of {}.", published.spec.name),
    )
    .with_faults(faults))
}

fn stored_form(
    api: &Api,
    caller: &Caller,
    id: PredictionId,
    published: &Published,
    request: CreateRequest,
    webhook: Option<Webhook>,
    idempotency_key: Option<String>,
) -> NewPrediction {
    let spec = &published.spec;
    let stream = StreamKey { model: spec.name.clone(), version: spec.version.clone(), priority: request.priority };
    let queued = api.queue.is_healthy() && api.queue.has_room(&stream);
    let fingerprint = fingerprint::of(&request, webhook.as_ref());
    NewPrediction {
        id,
        tenant: caller.tenant().to_owned(),
        model: stream.model,
        version: stream.version,
        input: request.input,
        priority: request.priority,
        deadline: request.deadline,
        metadata: request.metadata,
        fingerprint,
        idempotency_key,
        max_retries: spec.limits.max_retries,
        retention: api.config.retention,
        queued,
        webhook,
        claimant: None,
    }
}

/// The prediction as it is at its acceptance, but for the times that the database tells.
fn as_accepted(new: &NewPrediction) -> Prediction {
    Prediction {
        id: new.id,
        model: new.model.clone(),
        version: new.version.clone(),
        status: Status::Starting,
        input: Some(new.input.clone()),
        output: None,
        error: None,
        failure: None,
        logs: String::new(),
        metrics: Metrics::default(),
        created_at: time::OffsetDateTime::UNIX_EPOCH,
        started_at: None,
        completed_at: None,
        deadline_at: None,
        expires_at: None,
        data_removed: false,
        source: "api",
        attempt: 0,
        priority: new.priority,
        metadata: new.metadata.clone(),
        webhook: new.webhook.as_ref().map(|webhook| webhook.url.clone()),
        webhook_events_filter: new.webhook.as_ref().map(|webhook| webhook.events),
        queue: None,
        urls: None,
    }
}

async fn answer(api: &Api, mut prediction: Prediction, prefer: Prefer, replayed: bool) -> Response {
    let status = match (prediction.status.is_terminal(), replayed) {
        (true, true) => StatusCode::OK,
        (true, false) => StatusCode::CREATED,
        (false, _) => StatusCode::ACCEPTED,
    };
    if prefer.wait.is_some() && !prediction.status.is_terminal() {
        // Replicate's clients take every other status after a wait for the end.
        prediction.status = Status::Starting;
    }
    let prediction = with_urls(prediction, api).await;
    let location = prediction.urls.as_ref().and_then(|urls| HeaderValue::from_str(&urls.get).ok());
    let mut response = json(&prediction);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if let Some(location) = location {
        headers.insert(header::LOCATION, location);
    }
    if status == StatusCode::ACCEPTED {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(LOOK_AGAIN_AFTER));
    }
    if let Some(applied) = prefer.applied() {
        headers.insert(PREFERENCE_APPLIED, applied);
    }
    if replayed {
        headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    response
}
