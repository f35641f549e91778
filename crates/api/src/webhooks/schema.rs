//! What requests about webhooks and the words in answers look like, for the OpenAPI document. Nothing here is ever made:
//! requests are read field by field, and the words are the crate `prediction`'s.
#![expect(dead_code, reason = "descriptions of types that live elsewhere")]

use utoipa::ToSchema;

/// What happened.
#[derive(ToSchema)]
#[schema(as = Event, rename_all = "lowercase")]
pub(super) enum EventSchema {
    /// Nothing: somebody tried whether a webhook arrives.
    Test,
    /// A worker took the prediction for the first time.
    Start,
    /// It has output.
    Output,
    /// It has logs.
    Logs,
    /// It is finished.
    Completed,
}

/// Where a delivery stands. `waiting` and `sending` alternate until it is `delivered`, or given up as `exhausted` (the
/// schedule has ended) or `disabled` (its endpoint wants no more). Only a redelivery makes one wait again.
#[derive(ToSchema)]
#[schema(as = DeliveryStatus, rename_all = "lowercase")]
pub(super) enum DeliveryStatusSchema {
    Waiting,
    Sending,
    Delivered,
    Exhausted,
    Disabled,
}

/// What the body of a webhook is: the prediction itself, or `{type, timestamp, data}` with the prediction as `data`.
#[derive(ToSchema)]
#[schema(as = BodyForm, rename_all = "lowercase")]
pub(super) enum BodyFormSchema {
    Prediction,
    Event,
}

/// Where to send a test.
#[derive(ToSchema)]
#[schema(as = TestRequest)]
#[serde(deny_unknown_fields)]
pub(super) struct TestRequestSchema {
    /// An http or https URL, as a prediction's `webhook`.
    #[schema(example = "https://example.com/hook")]
    url: String,
}

/// An endpoint of which something is to be remembered.
#[derive(ToSchema)]
#[schema(as = EndpointRequest)]
#[serde(deny_unknown_fields)]
pub(super) struct EndpointRequestSchema {
    /// Its URL; a query does not count.
    #[schema(example = "https://example.com/hook")]
    url: String,
    /// What it wants as a body.
    #[schema(default = "prediction")]
    body: Option<BodyFormSchema>,
}

/// What to change about an endpoint; what is absent stays.
#[derive(ToSchema)]
#[schema(as = EndpointChange)]
#[serde(deny_unknown_fields)]
pub(super) struct EndpointChangeSchema {
    /// What it wants as a body.
    body: Option<BodyFormSchema>,
    /// Whether it wants no more webhooks.
    disabled: Option<bool>,
}

/// How to rotate a secret.
#[derive(ToSchema)]
#[schema(as = RotateRequest)]
#[serde(deny_unknown_fields)]
pub(super) struct RotateRequestSchema {
    /// How long the secret that is replaced goes on signing beside the new one: a whole number and `ms`, `s`, `m`, `h` or
    /// `d`. `0s` when it has leaked.
    #[schema(default = "24h")]
    grace: Option<String>,
}
