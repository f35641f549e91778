//! Creating a prediction with the caller's own id.

use std::sync::Arc;

use axum::{body::Body, extract::State, http::HeaderMap, response::Response};
use prediction::PredictionId;

use super::{
    create,
    schema::{PredictionRequestSchema, PredictionSchema},
};
use crate::{
    api::Api,
    docs::CreateProblems,
    extract::Segments,
    keys::Caller,
    problem::{Kind, Problem},
};

/// Create a prediction with your own id.
///
/// Repeating the request is safe: the same id and request give the same prediction.
#[utoipa::path(
    put,
    path = "/v1/predictions/{id}", operation_id = "putPrediction",
    tag = "predictions",
    params(
        ("id" = uuid::Uuid, Path, description = "any UUID, hyphenated"),
        ("Prefer" = Option<String>, Header, nullable = false, description = "`wait`, `wait=N` (1 to 60 seconds) or `respond-async`"),
        ("Cancel-After" = Option<String>, Header, nullable = false, description = "canceled unless finished within this time: `30s`, `5m`, `2h`"),
    ),
    request_body = PredictionRequestSchema,
    responses(
        (status = 200, body = PredictionSchema, description = "Accepted by an earlier, equal request, and finished"),
        (status = 201, body = PredictionSchema, description = "Accepted, and finished while the request waited"),
        (status = 202, body = PredictionSchema, description = "Accepted and stored, now or by an earlier, equal request",
            headers(("Location" = String, description = "where to read it"), ("Retry-After" = u32, description = "seconds"))),
        CreateProblems,
    ),
)]
pub(super) async fn put(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Segments(id): Segments<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let id: PredictionId = id.parse().map_err(|_| {
        Problem::new(Kind::MalformedRequest, "The id in the address must be a UUID in its hyphenated form.")
    })?;
    create::accept(&api, &caller, Some(id), None, &headers, body).await
}
