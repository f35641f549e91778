//! The predictions: create, read, list, cancel, wait.

mod cancel;
mod create;
mod list;
mod put;
mod read;
mod request;
mod schema;
mod stream;
mod wait;

use std::sync::Arc;

use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use prediction::{Prediction, Urls};
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) use request::{CreateRequest, Target};

use crate::{api::Api, problem::Problem};

/// The bytes of an answer about a prediction, without what the caller or the model wrote; a guess on the large side, but below the
/// thousand from which memory is no longer at hand.
const USUAL_ANSWER: usize = 960;

/// The calls on predictions.
pub(crate) fn router() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(create::create, list::list))
        .routes(routes!(create::create_for_model))
        .routes(routes!(read::read, put::put))
        .routes(routes!(cancel::cancel))
}

/// The call that needs no key where its address opens what it is about.
pub(crate) fn stream_router() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(stream::stream))
}

/// Adds what only the API knows: its own addresses.
async fn with_urls(mut prediction: Prediction, api: &Api) -> Prediction {
    let urls = Urls::of(prediction.id, &api.base);
    prediction.urls = Some(match api.capability(prediction.id).await {
        Some(capability) => urls.with_stream(&capability),
        None => urls,
    });
    prediction
}

/// One prediction as an answer.
async fn answer(prediction: Prediction, api: &Api) -> Response {
    json(&with_urls(prediction, api).await)
}

/// Its JSON, in one piece of memory that need not grow.
fn json(prediction: &Prediction) -> Response {
    let payloads = [&prediction.input, &prediction.output, &prediction.metadata].into_iter().flatten();
    let payloads: usize = payloads.map(|payload| payload.get().len()).sum();
    let mut body = Vec::with_capacity(USUAL_ANSWER + payloads);
    match serde_json::to_writer(&mut body, prediction) {
        Ok(()) => {
            let mut response = Response::new(Body::from(body));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written");
            Problem::internal().into_response()
        }
    }
}
