//! The prediction as callers see it: Replicate's shape, extended. Output and input pass through as raw JSON.

use serde::Serialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;

use crate::{Events, Failure, ModelName, PredictionId, Priority, Status, Version};

/// Where a waiting prediction stands in its line.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct QueuePlace {
    /// Predictions of the same version and priority that go first; counted up to a bound.
    pub position: u64,
    /// Seconds until it is expected to be done, where a service rate is known.
    pub eta_seconds: Option<f64>,
}

/// What a finished prediction cost; times in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Metrics {
    /// From acceptance to the start of the run that finished it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_time: Option<f64>,
    /// The run that finished it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predict_time: Option<f64>,
    /// From acceptance to the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_time: Option<f64>,
    /// How many predictions ran in the same batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<u32>,
    /// Tokens of the input, for text models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u32>,
}

/// Absolute addresses of one prediction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Urls {
    /// Where to read it.
    pub get: String,
    /// Where to cancel it.
    pub cancel: String,
    /// Where to follow it, with what permits that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
}

impl Urls {
    /// The addresses of this prediction at an API whose address is `base`, without a slash at its end.
    #[must_use]
    pub fn of(id: PredictionId, base: &str) -> Self {
        let get = format!("{base}/v1/predictions/{id}");
        Self { cancel: format!("{get}/cancel"), stream: None, get }
    }

    /// The same, with the address of its stream, which `capability` opens.
    #[must_use]
    pub fn with_stream(mut self, capability: &str) -> Self {
        self.stream = Some(format!("{}/stream?sig={capability}", self.get));
        self
    }
}

/// One prediction, whole. Serialised, it is the body of every answer about it.
#[derive(Clone, Debug, Serialize)]
pub struct Prediction {
    /// Its id.
    pub id: PredictionId,
    /// The model's name.
    pub model: ModelName,
    /// The version that runs it.
    pub version: Version,
    /// Where it stands.
    pub status: Status,
    /// What was sent.
    pub input: Option<Box<RawValue>>,
    /// What came out, once `succeeded`.
    pub output: Option<Box<RawValue>>,
    /// The failure's message, for clients that know no `failure`.
    pub error: Option<String>,
    /// Why it failed or was canceled.
    pub failure: Option<Failure>,
    /// What the model printed; empty when nothing.
    pub logs: String,
    /// What it cost so far.
    pub metrics: Metrics,
    /// When it was accepted.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When a worker first took it.
    #[serde(with = "time::serde::rfc3339::option")]
    pub started_at: Option<OffsetDateTime>,
    /// When it became terminal.
    #[serde(with = "time::serde::rfc3339::option")]
    pub completed_at: Option<OffsetDateTime>,
    /// When it is canceled unless it is finished.
    #[serde(with = "time::serde::rfc3339::option")]
    pub deadline_at: Option<OffsetDateTime>,
    /// When its record is removed; known once it is terminal.
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// Whether input and output have been removed, or the stored input cannot be read.
    pub data_removed: bool,
    /// Where it came from: `api`.
    pub source: &'static str,
    /// How often a worker has taken it.
    pub attempt: u32,
    /// Which goes first.
    pub priority: Priority,
    /// The caller's own object.
    pub metadata: Option<Box<RawValue>>,
    /// Where its caller is told of its events, if anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<String>,
    /// Of which events, if anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook_events_filter: Option<Events>,
    /// Its place in line while it waits; the API adds it to answers about one prediction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueuePlace>,
    /// Its addresses; whoever knows the API's address adds them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub urls: Option<Urls>,
}
