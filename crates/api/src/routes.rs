//! All calls, and the document that describes them.

use std::sync::Arc;

use axum::Router;
use utoipa::openapi::OpenApi;

use crate::{api::Api, docs, health, models, predictions, queue, webhooks};

/// The calls of the API and their description, which take some milliseconds to make.
pub struct Routes {
    /// Calls that need no key.
    pub(crate) open: Router<Arc<Api>>,
    /// Calls that carry a proof of their own.
    pub(crate) streams: Router<Arc<Api>>,
    pub(crate) keyed: Router<Arc<Api>>,
    pub(crate) document: OpenApi,
}

impl Routes {
    /// Makes them.
    #[must_use]
    pub fn made() -> Self {
        let (open, mut document) = docs::head().merge(health::router()).merge(docs::router()).split_for_parts();
        let (keyed, of_keyed) = predictions::router()
            .merge(models::router())
            .merge(queue::router())
            .merge(webhooks::router())
            .split_for_parts();
        let (streams, of_streams) = predictions::stream_router().split_for_parts();
        document.merge(docs::with_keys(of_keyed));
        document.merge(docs::with_keys(of_streams));
        Self { open, streams, keyed, document }
    }
}
