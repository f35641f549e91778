//! Webhooks: where they may go, how their deliveries fare, what is known of their endpoints, and the secrets that sign them.

mod attempts;
mod deliveries;
mod endpoints;
mod schema;
mod secrets;
mod send;
mod vet;

use std::sync::Arc;

use utoipa_axum::{router::OpenApiRouter, routes};
use webhook::{Guard, Sealer};

pub(crate) use vet::{Vetted, vet};

use crate::api::Api;

/// What webhooks need of whoever runs the API.
#[derive(Clone, Debug)]
pub struct Webhooks {
    /// Says where they may go.
    pub guard: Guard,
    /// Seals the secrets that sign them.
    pub sealer: Sealer,
}

/// The calls on webhooks.
pub(crate) fn router() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(deliveries::list))
        .routes(routes!(deliveries::read))
        .routes(routes!(attempts::list))
        .routes(routes!(send::redeliver))
        .routes(routes!(send::test))
        .routes(routes!(endpoints::list, endpoints::add))
        .routes(routes!(endpoints::read, endpoints::change, endpoints::forget))
        .routes(routes!(secrets::read))
        .routes(routes!(secrets::rotate))
        .routes(routes!(secrets::read_default))
        .routes(routes!(secrets::rotate_default))
}
