//! Reading one prediction, at once or when it is finished.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, Uri},
    response::Response,
};
use prediction::{Prediction, PredictionId, QueuePlace, Status};
use tokio::time::Instant;

use super::{answer, schema::PredictionSchema, wait};
use crate::{
    api::Api,
    docs::ReadProblems,
    extract::Segments,
    headers::{LONGEST_WAIT, PREFERENCE_APPLIED, Prefer},
    keys::Caller,
    problem::Problem,
    query::Parameters,
};

/// A place in line is counted up to this.
const POSITION_BOUND: u32 = 1000;

/// Read a prediction.
///
/// With `wait` the answer comes the moment it is finished, or after that many seconds as it is then.
#[utoipa::path(
    get,
    path = "/v1/predictions/{id}", operation_id = "readPrediction",
    tag = "predictions",
    params(
        ("id" = uuid::Uuid, Path, description = "id of the prediction"),
        ("wait" = Option<u64>, Query, nullable = false, description = "seconds to wait for it to finish, 1 to 60", minimum = 1, maximum = 60),
        ("Prefer" = Option<String>, Header, nullable = false, description = "`wait` or `wait=N`: the same as the query's `wait`"),
    ),
    responses((status = 200, body = PredictionSchema, description = "The prediction"), ReadProblems),
)]
pub(super) async fn read(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Segments(id): Segments<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let arrived = Instant::now();
    let id: PredictionId = id.parse().map_err(|_| Problem::not_found())?;
    let mut parameters = Parameters::read(&uri)?;
    let asked = parameters.take("wait", "a number of seconds from 1 to 60", |text| {
        text.parse().ok().filter(|seconds| (1..=LONGEST_WAIT).contains(seconds))
    })?;
    parameters.finish()?;
    let prefer = Prefer::from_headers(&headers);
    let prediction = match asked.or(prefer.wait) {
        Some(seconds) => {
            let waiting = api.waiters.wait_for(id);
            wait::settled(&api, &caller, id, &waiting, wait::ends(arrived, seconds), None).await?
        }
        None => api.find(&caller, id).await?,
    };
    let mut prediction = prediction.ok_or_else(Problem::not_found)?;
    prediction.queue = place(&api, &prediction).await;
    let mut response = answer(prediction, &api).await;
    if asked.is_none()
        && let Some(applied) = prefer.applied()
    {
        response.headers_mut().insert(PREFERENCE_APPLIED, applied);
    }
    Ok(response)
}

/// Where it stands in line, while it waits. A hint: without an answer from the store there is none.
async fn place(api: &Api, prediction: &Prediction) -> Option<QueuePlace> {
    if prediction.status != Status::Starting {
        return None;
    }
    let position = api.in_time(api.store.position(prediction.id, POSITION_BOUND)).await.ok()??;
    let rate = api.admission.rate(&(prediction.model.clone(), prediction.version.clone())).expected();
    // Its own turn comes after those before it.
    let eta_seconds = rate.map(|rate| (position + 1) as f64 / rate);
    Some(QueuePlace { position, eta_seconds })
}
