//! Liveness and readiness.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::Api;

/// The calls on health.
pub(crate) fn router() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(live)).routes(routes!(ready))
}

/// How the server is.
#[derive(Debug, Serialize, ToSchema)]
struct Health {
    /// `live`, `ready`, `degraded` (it works, but slower) or `unavailable`.
    status: &'static str,
    /// Why it is not simply ready.
    reasons: Vec<&'static str>,
}

/// Whether the process runs.
///
/// Asks nobody else: a failure here means that a restart would help.
#[utoipa::path(get, path = "/health/live", operation_id = "readLiveness", tag = "health", responses((status = 200, body = Health, description = "It runs")))]
async fn live() -> Json<Health> {
    Json(Health { status: "live", reasons: Vec::new() })
}

/// Whether predictions can be accepted.
///
/// Without its database it is unavailable; without its queue it is degraded, since workers then ask the database.
#[utoipa::path(
    get,
    path = "/health/ready", operation_id = "readReadiness",
    tag = "health",
    responses(
        (status = 200, body = Health, description = "Predictions are accepted"),
        (status = 503, body = Health, description = "They are not, for the reasons given"),
    ),
)]
async fn ready(State(api): State<Arc<Api>>) -> (StatusCode, Json<Health>) {
    let mut reasons = Vec::new();
    let mut status = "ready";
    if !api.queue.is_healthy() {
        status = "degraded";
        reasons.push("the queue is not in use or does not answer; workers ask the database");
    }
    if api.stop.is_cancelled() {
        status = "unavailable";
        reasons.push("the server is stopping");
    }
    if api.in_time(api.store.ping()).await.is_err() {
        status = "unavailable";
        reasons.push("the database does not answer");
    }
    let code = if status == "unavailable" { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (code, Json(Health { status, reasons }))
}
