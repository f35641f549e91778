//! What can go wrong with a request: one table of problems, mapped to HTTP once.

use std::sync::Arc;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use store::StoreError;
use utoipa::ToSchema;

use crate::headers::{RATE_LIMIT, RATE_LIMIT_POLICY};

macro_rules! problems {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal, $status:ident, $title:literal;)+) => {
        /// The kinds of problem; the codes are part of the HTTP contract.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Kind {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Kind {
            /// Every kind.
            pub(crate) const ALL: &[Self] = &[$(Self::$name),+];

            /// The word that programs read.
            pub(crate) const fn code(self) -> &'static str {
                match self { $(Self::$name => $code),+ }
            }

            /// The status it is answered with.
            pub(crate) const fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status),+ }
            }

            /// What people read first.
            pub(crate) const fn title(self) -> &'static str {
                match self { $(Self::$name => $title),+ }
            }

            /// What it means, for the page that explains problems.
            pub(crate) const fn meaning(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+)),+ }
            }
        }
    };
}

problems! {
    /// A header, a query parameter or the id in the path cannot be read.
    MalformedRequest = "malformed_request", BAD_REQUEST, "Malformed request";
    /// The body is not JSON as RFC 8259 has it, nests deeper than 127, or gives one name twice in an object.
    InvalidJson = "invalid_json", BAD_REQUEST, "Invalid JSON";
    /// The cursor was not made by this installation for this list.
    InvalidCursor = "invalid_cursor", BAD_REQUEST, "Invalid cursor";
    /// The call needs an API key, and came without one that is valid.
    InvalidApiKey = "invalid_api_key", UNAUTHORIZED, "Invalid API key";
    /// There is nothing at this address.
    NotFound = "not_found", NOT_FOUND, "Not found";
    /// No worker has ever served a model of this name.
    ModelNotFound = "model_not_found", NOT_FOUND, "Model not found";
    /// No worker has ever served this version; or a model was named alone that has versions, but no default one.
    VersionNotFound = "version_not_found", NOT_FOUND, "Version not found";
    /// The address exists, but not for this method.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "Method not allowed";
    /// This server has no webhook key, so it sends no webhooks and keeps no secrets for them.
    WebhooksOff = "webhooks_off", NOT_FOUND, "Webhooks are off";
    /// The address answers with server-sent events, which the request's `Accept` leaves out.
    NotAcceptable = "not_acceptable", NOT_ACCEPTABLE, "Not acceptable";
    /// The body took too long to arrive.
    RequestTimeout = "request_timeout", REQUEST_TIMEOUT, "Request timed out";
    /// The id is taken by another prediction.
    IdConflict = "id_conflict", CONFLICT, "Id already used";
    /// As many secrets sign for this endpoint as may; wait until the grace of an earlier one has ended.
    TooManySecrets = "too_many_secrets", CONFLICT, "Too many secrets";
    /// The body is larger than this server reads.
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, "Body too large";
    /// The body is not sent as plain JSON.
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "Unsupported media type";
    /// A field of the request is missing, unknown or of the wrong kind.
    InvalidRequest = "invalid_request", UNPROCESSABLE_ENTITY, "Invalid request";
    /// The input does not fit the model's input schema.
    InvalidInput = "invalid_input", UNPROCESSABLE_ENTITY, "Invalid input";
    /// The input is larger than the model accepts.
    InputTooLarge = "input_too_large", UNPROCESSABLE_ENTITY, "Input too large";
    /// Webhooks may not go to this URL, or to an address that its host has now.
    InvalidWebhook = "invalid_webhook", UNPROCESSABLE_ENTITY, "Invalid webhook";
    /// The idempotency key was used with another request.
    IdempotencyKeyReused = "idempotency_key_reused", UNPROCESSABLE_ENTITY, "Idempotency key already used";
    /// As much of this key's waits as its share of the queue has room for: predictions, or work for this model version. Nothing was
    /// stored.
    ShareFull = "share_full", TOO_MANY_REQUESTS, "Share of the queue full";
    /// As many streams are open on this key's predictions, or on this one, as their share of all streams has room for.
    StreamShareFull = "stream_share_full", TOO_MANY_REQUESTS, "Share of the streams full";
    /// A fault of the server's own.
    Internal = "internal", INTERNAL_SERVER_ERROR, "Internal error";
    /// As much waits as this server lets wait: predictions in all, or work for this model version. Nothing was stored.
    QueueFull = "queue_full", SERVICE_UNAVAILABLE, "Queue full";
    /// As many requests with bodies are under way as this server takes at once. Nothing was stored.
    Busy = "busy", SERVICE_UNAVAILABLE, "Server busy";
    /// As many streams are open as this server keeps at once.
    TooManyStreams = "too_many_streams", SERVICE_UNAVAILABLE, "Too many streams";
    /// The model and its version are known, but no worker serves it now.
    ModelUnavailable = "model_unavailable", SERVICE_UNAVAILABLE, "Model unavailable";
    /// The database does not answer.
    StoreUnavailable = "store_unavailable", SERVICE_UNAVAILABLE, "Service unavailable";
}

/// Seconds after which to try again when the database is away.
const STORE_RETRY_AFTER: u32 = 2;

/// Whom a 401 asks for what (RFC 6750).
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"augur\"");
/// The largest number that a structured field holds (RFC 9651).
const LARGEST_INTEGER: u64 = 999_999_999_999_999;

/// A bound on what waits that is used up: what `RateLimit` and `RateLimit-Policy` say of it
/// (draft-ietf-httpapi-ratelimit-headers-11).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quota {
    /// Its name.
    pub(crate) policy: &'static str,
    /// The most predictions that may wait.
    pub(crate) most: u64,
}

/// One fault within the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Fault {
    /// JSON Pointer (RFC 6901) into the request body.
    #[schema(example = "/input/pixels/3")]
    pub(crate) pointer: String,
    /// What is wrong there.
    #[schema(example = "value is greater than the maximum of 16")]
    pub(crate) detail: String,
    /// The same in one word for programs, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) code: Option<&'static str>,
}

impl Fault {
    /// A fault that has no word of its own.
    pub(crate) fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into(), code: None }
    }
}

/// A request that is not answered with what it asked for.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    /// Which kind.
    pub(crate) kind: Kind,
    detail: String,
    /// The faults found in the body.
    pub(crate) faults: Vec<Fault>,
    retry_after: Option<u32>,
    used_up: Option<Quota>,
}

impl Problem {
    /// A problem with a sentence for the caller: no internals, no paths, no SQL.
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), faults: Vec::new(), retry_after: None, used_up: None }
    }

    /// The same, with the faults found in the body. The first is named in the sentence too, which is all that many
    /// clients show.
    pub(crate) fn with_faults(mut self, faults: Vec<Fault>) -> Self {
        if let Some(Fault { pointer, detail, .. }) = faults.first() {
            let place = if pointer.is_empty() { "The body" } else { pointer };
            self.detail = format!("{} {place} {detail}.", self.detail);
        }
        self.faults = faults;
        self
    }

    /// The same, with the seconds after which it is worth trying again.
    pub(crate) fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The same, because this is used up.
    pub(crate) fn used_up(mut self, quota: Quota) -> Self {
        self.used_up = Some(quota);
        self
    }

    /// Nothing here, or nothing of yours: the same answer for both.
    pub(crate) fn not_found() -> Self {
        Self::new(Kind::NotFound, "There is nothing at this address.")
    }

    /// The database is away. A write that was under way may or may not have happened.
    pub(crate) fn store_unavailable() -> Self {
        Self::new(
            Kind::StoreUnavailable,
            "The database does not answer. A prediction that was sent may have been accepted all the same: sent again \
             with the same Idempotency-Key or the same id, it is made once.",
        )
        .retry_after(STORE_RETRY_AFTER)
    }

    /// A fault of ours, whose cause is in the log.
    pub(crate) fn internal() -> Self {
        Self::new(Kind::Internal, "The server failed to answer this request.")
    }

    /// The body of the answer, for a server at `base` and a request to `path`.
    pub(crate) fn body(&self, base: &str, path: &str) -> Body {
        let is_servers_fault = self.kind.status().is_server_error();
        let body = ProblemBody {
            r#type: format!("{base}/problems#{}", self.kind.code()),
            title: self.kind.title(),
            status: self.kind.status().as_u16(),
            detail: &self.detail,
            instance: path,
            errors: &self.faults,
            error: OpenAiError {
                message: &self.detail,
                r#type: if is_servers_fault { "server_error" } else { "invalid_request_error" },
                param: self.faults.first().map(|fault| fault.pointer.as_str()),
                code: self.kind.code(),
            },
        };
        Body::from(serde_json::to_vec(&body).unwrap_or_default())
    }
}

/// RFC 9457 problem details, with OpenAI's `error` beside them so that both families of clients can read it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody<'a> {
    /// Address of a page that explains this kind of problem.
    r#type: String,
    /// The kind, for people.
    title: &'a str,
    /// The HTTP status.
    status: u16,
    /// What happened, for people.
    detail: &'a str,
    /// The path of the request.
    instance: &'a str,
    /// The faults found in the body, at most 20.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(required = false)]
    errors: &'a [Fault],
    /// The same in the form that OpenAI's clients read.
    error: OpenAiError<'a>,
}

/// The form of an error that OpenAI's clients read.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OpenAiError)]
pub(crate) struct OpenAiError<'a> {
    /// What happened, for people.
    message: &'a str,
    /// `invalid_request_error` or `server_error`.
    r#type: &'a str,
    /// JSON Pointer of the first fault.
    param: Option<&'a str>,
    /// The kind, for programs.
    code: &'a str,
}

impl IntoResponse for Problem {
    /// Status and headers; the body follows in `respond`, which knows the request's path and id.
    fn into_response(self) -> Response {
        let mut response = self.kind.status().into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let (Some(Quota { policy, most }), Some(seconds)) = (self.used_up, self.retry_after) {
            // What waits is on its way like a request that is not answered yet: a place is free when it is served.
            let most = most.min(LARGEST_INTEGER);
            let fields = [
                (RATE_LIMIT_POLICY, format!("\"{policy}\";q={most};qu=\"concurrent-requests\"")),
                (RATE_LIMIT, format!("\"{policy}\";r=0;t={seconds}")),
            ];
            let fields =
                fields.into_iter().filter_map(|(name, value)| Some((name, HeaderValue::from_str(&value).ok()?)));
            response.headers_mut().extend(fields.map(|(name, value)| (Some(name), value)));
        }
        if self.kind == Kind::InvalidApiKey {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, CHALLENGE);
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<&StoreError> for Problem {
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => {
                tracing::warn!(%error, "store unavailable");
                Self::store_unavailable()
            }
            _ => {
                tracing::error!(%error, "store refused a call");
                Self::internal()
            }
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::from(&error)
    }
}

impl From<Arc<StoreError>> for Problem {
    fn from(error: Arc<StoreError>) -> Self {
        Self::from(error.as_ref())
    }
}
