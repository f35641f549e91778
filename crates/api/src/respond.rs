//! What is true of every answer: a request id, safe headers, problem documents, and no panic that leaves a caller
//! without one.

use std::{panic::AssertUnwindSafe, sync::Arc};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, HeaderValue, Request, StatusCode, Version, header},
    response::{IntoResponse as _, Response},
};
use futures::FutureExt as _;
use tower::ServiceExt as _;
use uuid::Uuid;

use crate::{
    headers::REQUEST_ID,
    problem::{Kind, Problem},
};

/// The longest request id that is taken over, in characters.
const LONGEST_REQUEST_ID: usize = 128;
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Answers requests.
#[derive(Clone)]
pub(crate) struct Responder {
    router: Router,
    base: Arc<str>,
}

impl Responder {
    /// Answers with `router`, for a server at `base`.
    pub(crate) fn new(router: Router, base: &str) -> Self {
        let router = router.fallback(|| async { Problem::not_found() }).method_not_allowed_fallback(|| async {
            Problem::new(Kind::MethodNotAllowed, "This address does not know that method.")
        });
        Self { router, base: base.into() }
    }

    /// Answers one request, whatever happens.
    pub(crate) async fn respond(self, request: Request<Body>) -> Response {
        let request_id = request_id(request.headers());
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let version = request.version();
        let answering = AssertUnwindSafe(self.router.oneshot(request)).catch_unwind();
        let mut response = match answering.await {
            Ok(Ok(response)) => response,
            Ok(Err(impossible)) => match impossible {},
            Err(_) => {
                tracing::error!(%method, path, ?request_id, "a handler panicked");
                Problem::internal().into_response()
            }
        };
        if let Some(problem) = response.extensions_mut().remove::<Problem>() {
            *response.body_mut() = problem.body(&self.base, &path);
            response.headers_mut().remove(header::CONTENT_LENGTH);
            response.headers_mut().insert(header::CONTENT_TYPE, PROBLEM_JSON);
        }
        tracing::debug!(%method, path, status = response.status().as_u16(), ?request_id, "answered");
        let unread = matches!(response.status(), StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE);
        let headers = response.headers_mut();
        if unread && version < Version::HTTP_2 {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if path.starts_with("/v1/") {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(REQUEST_ID, request_id);
        response
    }
}

/// The caller's own request id when it is short and plain, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte);
    let given = headers
        .get(REQUEST_ID)
        .filter(|value| (1..=LONGEST_REQUEST_ID).contains(&value.len()) && value.as_bytes().iter().all(is_plain));
    let made = || HeaderValue::from_str(&Uuid::now_v7().to_string());
    given.cloned().or_else(|| made().ok()).unwrap_or(HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use axum::routing::get;
    use http_body_util::BodyExt as _;

    #[tokio::test]
    async fn a_panic_is_answered() {
        async fn broken() -> &'static str {
            panic!("on purpose")
        }
        let responder = Responder::new(Router::new().route("/x", get(broken)), "http://here");
        let request = Request::get("/x").header(REQUEST_ID, "mine-1").body(Body::empty()).unwrap();
        let response = responder.respond(request).await;
        assert_eq!(response.status(), 500);
        assert_eq!(response.headers()[REQUEST_ID], "mine-1");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(problem["error"]["code"], "internal");
        assert_eq!(problem["instance"], "/x");
        assert!(!problem.to_string().contains("on purpose"));
    }

    #[test]
    fn odd_request_ids_are_replaced() {
        for odd in ["", "a b", "<script>", "a\tb", &"x".repeat(129)] {
            let headers = HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_str(odd).unwrap())]);
            assert_ne!(request_id(&headers), odd);
        }
    }
}
