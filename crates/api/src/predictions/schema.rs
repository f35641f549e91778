//! What predictions look like, for the OpenAPI document. Nothing here is ever made: requests are read by
//! `request`, answers written by the crate `prediction`, and a test holds real answers against these.
#![expect(dead_code, reason = "descriptions of types that live elsewhere")]
#![expect(unused_qualifications, reason = "in the code that utoipa derives")]

use prediction::FailureCode;
use serde_json::Value;
use time::OffsetDateTime;
use utoipa::{PartialSchema, ToSchema, openapi};
use uuid::Uuid;

/// What to predict. Fields that are not listed are refused, not ignored.
#[derive(ToSchema)]
#[schema(as = PredictionRequest)]
#[serde(deny_unknown_fields)]
pub(super) struct PredictionRequestSchema {
    /// What shall run it: `owner/name` (its default version), `owner/name:digest`, or a digest of 12 to 64
    /// hex digits. Give this or `model`; neither where the address names the model.
    #[schema(example = "augur/digits")]
    version: Option<String>,
    /// The same as `version`, for callers who think of models.
    model: Option<String>,
    /// What the model's input schema asks for.
    input: Value,
    /// Which go first.
    #[schema(default = "normal")]
    priority: Option<PrioritySchema>,
    /// Canceled unless finished within this time: a whole number and `ms`, `s`, `m`, `h` or `d`. The header
    /// Cancel-After says the same.
    #[schema(example = "5m")]
    deadline: Option<String>,
    /// Your own object, at most 16 KiB, returned as it is; top-level members can be filtered by.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Value>,
    /// Where to be told of it: an http or https URL on the public internet, or in a network that this server allows.
    #[schema(example = "https://example.com/hook?order=17", max_length = 2048)]
    webhook: Option<String>,
    /// Of which events: `output` and `completed` when absent.
    #[schema(min_items = 1)]
    webhook_events_filter: Option<Vec<WebhookEventSchema>>,
}

/// What can be asked to be told.
#[derive(ToSchema)]
#[schema(as = WebhookEvent, rename_all = "lowercase")]
enum WebhookEventSchema {
    /// A worker took it for the first time.
    Start,
    /// It has output.
    Output,
    /// It has logs.
    Logs,
    /// It is finished.
    Completed,
}

/// Which go first.
#[derive(ToSchema)]
#[schema(as = Priority, rename_all = "lowercase")]
enum PrioritySchema {
    Low,
    Normal,
    High,
}

/// Where a prediction stands. `starting` and `processing` become one of the others, which never change.
#[derive(ToSchema)]
#[schema(as = Status, rename_all = "lowercase")]
enum StatusSchema {
    Starting,
    Processing,
    Succeeded,
    Failed,
    Canceled,
}

/// One prediction.
#[derive(ToSchema)]
#[schema(as = Prediction)]
pub(super) struct PredictionSchema {
    /// Its id.
    id: Uuid,
    /// The model, `owner/name`.
    model: String,
    /// The version that runs it: the digest of its files.
    version: String,
    /// Where it stands. An answer whose `Prefer: wait` ran out says `starting` even if a worker has begun.
    status: StatusSchema,
    /// What was sent.
    input: Value,
    /// What came out, once `succeeded`.
    output: Value,
    /// The failure's message.
    #[schema(required)]
    error: Option<String>,
    /// Why it failed or was canceled.
    #[schema(required)]
    failure: Option<FailureSchema>,
    /// What the model printed.
    logs: String,
    /// What it cost so far.
    metrics: MetricsSchema,
    /// When it was accepted.
    #[schema(value_type = String, format = DateTime)]
    created_at: OffsetDateTime,
    /// When a worker first took it.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    started_at: Option<OffsetDateTime>,
    /// When it was finished.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    completed_at: Option<OffsetDateTime>,
    /// When it is canceled unless it is finished.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    deadline_at: Option<OffsetDateTime>,
    /// When its record is removed; known once it is finished.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    expires_at: Option<OffsetDateTime>,
    /// Whether input and output have been removed, or the stored input cannot be read.
    data_removed: bool,
    /// Where it came from: `api`.
    source: String,
    /// How often a worker has taken it.
    attempt: u32,
    /// Which go first.
    priority: PrioritySchema,
    /// Your own object.
    #[schema(value_type = Option<Object>, required)]
    metadata: Option<Value>,
    /// Where you are told of it, normalised.
    #[schema(nullable = false)]
    webhook: Option<String>,
    /// Of which events, where you are.
    #[schema(nullable = false)]
    webhook_events_filter: Option<Vec<WebhookEventSchema>>,
    /// Its place in line; in answers about one prediction, while it waits.
    queue: Option<QueuePlaceSchema>,
    /// Its addresses.
    urls: UrlsSchema,
}

/// Why a prediction failed or was canceled.
#[derive(ToSchema)]
#[schema(as = Failure)]
struct FailureSchema {
    /// What kind of failure.
    code: FailureCodeSchema,
    /// What happened.
    message: String,
    /// Whether trying again may help.
    retryable: bool,
}

/// The words of the domain's own table.
struct FailureCodeSchema;

impl PartialSchema for FailureCodeSchema {
    fn schema() -> openapi::RefOr<openapi::Schema> {
        let words = FailureCode::ALL.iter().map(|code| code.as_str());
        openapi::ObjectBuilder::new().schema_type(openapi::Type::String).enum_values(Some(words)).into()
    }
}

impl ToSchema for FailureCodeSchema {
    fn name() -> std::borrow::Cow<'static, str> {
        "FailureCode".into()
    }
}

/// What a prediction cost: seconds and counts.
#[derive(ToSchema)]
#[schema(as = Metrics)]
struct MetricsSchema {
    /// From acceptance to the start of the run that finished it.
    #[schema(nullable = false)]
    queue_time: Option<f64>,
    /// The run that finished it.
    #[schema(nullable = false)]
    predict_time: Option<f64>,
    /// From acceptance to the end.
    #[schema(nullable = false)]
    total_time: Option<f64>,
    /// Predictions in the same batch.
    #[schema(nullable = false)]
    batch_size: Option<u32>,
    /// Tokens of the input, for text models.
    #[schema(nullable = false)]
    tokens: Option<u32>,
}

/// A place in line.
#[derive(ToSchema)]
#[schema(as = QueuePlace)]
struct QueuePlaceSchema {
    /// Predictions of the same version and priority that go first, counted up to 1000.
    position: u64,
    /// Seconds until it is expected to be done, where the version has been at work within the last minute.
    #[schema(required)]
    eta_seconds: Option<f64>,
}

/// Addresses of one prediction.
#[derive(ToSchema)]
#[schema(as = PredictionUrls)]
struct UrlsSchema {
    /// Where to read it.
    get: String,
    /// Where to cancel it.
    cancel: String,
    /// Where to follow it as server-sent events, without any header: the address itself is the permission. Absent only while
    /// the database has not answered since this server started.
    #[schema(nullable = false)]
    stream: Option<String>,
}

/// One page, newest first.
#[derive(ToSchema)]
#[schema(as = PredictionPage)]
pub(super) struct PredictionPageSchema {
    results: Vec<PredictionSchema>,
    /// Address of the page with older ones.
    #[schema(required)]
    next: Option<String>,
    /// Address of the page with newer ones.
    #[schema(required)]
    previous: Option<String>,
}
