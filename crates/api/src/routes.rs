//! All calls, and the document that describes them.

use std::sync::Arc;

use axum::{Router, body::Bytes};

use crate::{api::Api, docs, health, models, predictions, queue, webhooks};

/// The calls of the API and the document that describes them, which take some milliseconds to make.
pub struct Routes {
    /// Calls that need no key.
    pub(crate) open: Router<Arc<Api>>,
    /// Calls that carry a proof of their own.
    pub(crate) streams: Router<Arc<Api>>,
    pub(crate) keyed: Router<Arc<Api>>,
    /// The document, in JSON.
    pub(crate) document: Bytes,
    /// The API's own address as callers use it, without a trailing slash.
    pub(crate) base: String,
}

impl Routes {
    /// Makes them, for callers who use this [address](crate::Config::base).
    ///
    /// # Errors
    /// When the document cannot be written as JSON.
    pub fn new(base: String) -> serde_json::Result<Self> {
        let (open, mut document) = docs::head().merge(health::router()).merge(docs::router()).split_for_parts();
        let (keyed, of_keyed) = predictions::router()
            .merge(models::router())
            .merge(queue::router())
            .merge(webhooks::router())
            .split_for_parts();
        let (streams, of_streams) = predictions::stream_router().split_for_parts();
        document.merge(docs::with_keys(of_keyed));
        document.merge(docs::with_keys(of_streams));
        let document = docs::render(document, &base)?;
        Ok(Self { open, streams, keyed, document, base })
    }
}
