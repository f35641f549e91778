//! The predictions: create, read, list, cancel, wait.

mod cancel;
mod create;
mod list;
mod put;
mod read;
mod request;
mod schema;
mod wait;

use std::sync::Arc;

use axum::{Json, response::IntoResponse as _, response::Response};
use prediction::{Prediction, Urls};
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) use request::{CreateRequest, Target};

use crate::api::Api;

/// The calls on predictions.
pub(crate) fn router() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(create::create, list::list))
        .routes(routes!(create::create_for_model))
        .routes(routes!(read::read, put::put))
        .routes(routes!(cancel::cancel))
}

/// Adds what only the API knows: its own addresses.
fn with_urls(mut prediction: Prediction, base: &str) -> Prediction {
    prediction.urls = Some(Urls::of(prediction.id, base));
    prediction
}

/// One prediction as an answer.
fn answer(prediction: Prediction, base: &str) -> Response {
    Json(with_urls(prediction, base)).into_response()
}
