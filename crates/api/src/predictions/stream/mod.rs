//! Following one prediction as server-sent events: what a generator writes as it writes it, everything else when it is there.

mod event;
mod mark;
mod telling;

use std::{convert::Infallible, sync::Arc};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Uri, header},
    response::Response,
};
use futures::stream;
use prediction::{Prediction, PredictionId};
use tokio::sync::mpsc;

use self::{
    mark::Mark,
    telling::{Following, Telling},
};
use super::Target;
use crate::{
    api::Api,
    docs::StreamProblems,
    extract::Segments,
    headers::{last_event_id, takes_event_stream},
    problem::{Kind, Problem},
    query::Parameters,
};

/// The task whose outputs are texts that are told piece by piece.
const GENERATES_TEXT: &str = "text-generation";

/// Events that wait for a client to read on.
const EVENTS_WAITING: usize = 4;

const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
/// Tells nginx, and others who took this over from it, not to gather what shall be passed on at once.
const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Follow a prediction.
///
/// Server-sent events: `output` with pieces of a text as it is generated (of other models, the whole output as JSON), `error` with
/// the failure, and `done` at the end, with `{}` or the reason: `{"reason":"error"}` or `{"reason":"canceled"}`. Put together, the
/// pieces are the output's `text` (with line ends as LF). Sent again with the last event's id, it goes on after that; an output that is
/// no text is sent whole, unless the id is that of its event. Comments keep the connection alive.
#[utoipa::path(
    get,
    path = "/v1/predictions/{id}/stream", operation_id = "streamPrediction",
    tag = "predictions",
    params(
        ("id" = uuid::Uuid, Path, description = "id of the prediction"),
        ("sig" = Option<String>, Query, nullable = false, description = "the capability in `urls.stream`: with it, nothing else is asked for"),
        ("Last-Event-ID" = Option<String>, Header, nullable = false, description = "id of the last event that was read: what follows is sent"),
    ),
    responses((status = 200, body = String, content_type = "text/event-stream", description = "Events until it is finished"), StreamProblems),
)]
pub(super) async fn stream(
    State(api): State<Arc<Api>>,
    Segments(id): Segments<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id: PredictionId = id.parse().map_err(|_| Problem::not_found())?;
    let mut parameters = Parameters::read(&uri)?;
    let sig = parameters.take("sig", "the capability of a prediction", |text| Some(text.to_owned()))?;
    parameters.finish()?;
    let caller = match sig {
        Some(sig) if api.signer().await?.opens(id, &sig) => None,
        Some(_) => return Err(Problem::not_found()),
        None => Some(api.keys.caller(&headers)?),
    };
    if !takes_event_stream(&headers) {
        return Err(Problem::new(Kind::NotAcceptable, "This address answers with text/event-stream alone."));
    }
    let told = read_from(&headers)?;
    // Before looking, so that an end in between is not missed.
    let waiting = api.waiters.wait_for(id);
    let owner = api.owner(id).await?;
    if caller.is_some_and(|caller| caller.tenant() != owner.tenant()) {
        return Err(Problem::not_found());
    }
    // Before reading an output that may be large: whoever finds no place costs little.
    let place = api.streams.take(&owner, id)?;
    let prediction = api.find_any(id).await?.ok_or_else(Problem::not_found)?;
    let writes_text = writes_text(&api, &prediction).await?;

    let (events, mut sent) = mpsc::channel(EVENTS_WAITING);
    let telling = Telling::new(told, prediction.attempt, writes_text, events);
    let following = Following { api: Arc::clone(&api), id, telling, waiting };
    api.tasks.spawn(following.follow(prediction));
    let events = stream::poll_fn(move |context| {
        // It is taken for as long as there is anything that the client has not read.
        let _place = &place;
        sent.poll_recv(context).map(|event| event.map(Ok::<_, Infallible>))
    });
    let mut response = Response::new(Body::from_stream(events));
    response.headers_mut().insert(header::CONTENT_TYPE, EVENT_STREAM);
    response.headers_mut().insert(BUFFERING, HeaderValue::from_static("no"));
    Ok(response)
}

/// What the client has already, as it says.
fn read_from(headers: &HeaderMap) -> Result<Mark, Problem> {
    let bad = || Problem::new(Kind::MalformedRequest, "Last-Event-ID is not the id of an event of this stream.");
    match last_event_id(headers)? {
        None => Ok(Mark::default()),
        Some(text) => Mark::parse(text).ok_or_else(bad),
    }
}

/// Whether the prediction's model writes a text piece by piece.
async fn writes_text(api: &Api, prediction: &Prediction) -> Result<bool, Problem> {
    let target = Target::VersionOfModel(prediction.model.clone(), prediction.version.to_string());
    let served = match api.catalog.known(&target) {
        Some(served) => Ok(served),
        None => api.catalog.resolve(&target, true).await,
    };
    match served {
        Ok(served) => Ok(served.published.spec.task == GENERATES_TEXT),
        Err(problem) if matches!(problem.kind, Kind::ModelNotFound | Kind::VersionNotFound) => Ok(false),
        Err(problem) => Err(problem),
    }
}
