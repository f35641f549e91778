//! Rows as both databases return them, and the domain's types made from them.

use std::{collections::HashMap, fmt::Display, sync::RwLock, time::Duration};

use prediction::{Events, Failure, Metrics, ModelName, ModelSpec, Prediction, PredictionId, Priority, Status, Version};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{Claimed, ModelQueue, NewPrediction, PublishedModel, Run, StoreError, VersionCount, numbers::stored_count};

/// A prediction with its payloads; `T` is the database's kind of time, `I` what it promises of an input.
#[derive(sqlx::FromRow)]
pub(crate) struct Record<T, I> {
    id: Uuid,
    model: String,
    version: String,
    status: i16,
    priority: i16,
    attempts: i32,
    created_at: T,
    claimed_at: Option<T>,
    started_at: Option<T>,
    completed_at: Option<T>,
    deadline_at: Option<T>,
    expires_at: Option<T>,
    input: Option<I>,
    metadata: Option<String>,
    output: Option<String>,
    code: Option<String>,
    message: Option<String>,
    retryable: Option<bool>,
    logs: Option<String>,
    predict_seconds: Option<f64>,
    batch_size: Option<i32>,
    tokens: Option<i32>,
    webhook_url: Option<String>,
    webhook_events: i16,
}

impl<T, I> Record<T, I>
where
    T: TryInto<OffsetDateTime>,
    T::Error: Display,
    I: TryInto<String>,
{
    /// The prediction as callers see it, without its addresses and its place in line.
    pub(crate) fn into_prediction(self) -> Result<Prediction, StoreError> {
        let status = Status::from_code(self.status).ok_or_else(|| corrupt("a status", self.status))?;
        let priority = Priority::from_code(self.priority).ok_or_else(|| corrupt("a priority", self.priority))?;
        let created_at = moment(self.created_at)?;
        // One that cannot be read is as good as removed: the prediction can be told of all the same.
        let is_stored = self.input.is_some();
        let input = self.input.and_then(read_input);
        if is_stored && input.is_none() {
            tracing::error!(prediction = %PredictionId(self.id), "a stored input cannot be read");
        }
        let claimed_at = self.claimed_at.map(moment).transpose()?;
        let completed_at = self.completed_at.map(moment).transpose()?;
        let failure = match (self.code, self.message) {
            (Some(code), Some(message)) => {
                let code = code.parse().map_err(|()| corrupt("a failure code", &code))?;
                Some(Failure { code, message, retryable: self.retryable.unwrap_or(false) })
            }
            _ => None,
        };
        // A prediction that waits again, or was canceled while it waited, has no run that these times could belong to.
        let has_run = matches!(status, Status::Processing | Status::Succeeded | Status::Failed);
        let since_acceptance = |moment: OffsetDateTime| (moment - created_at).as_seconds_f64();
        Ok(Prediction {
            id: PredictionId(self.id),
            model: read("a model name", self.model)?,
            version: read("a version", self.version)?,
            status,
            data_removed: input.is_none(),
            input,
            output: self.output.map(json).transpose()?,
            error: failure.as_ref().map(|failure| failure.message.clone()),
            failure,
            logs: self.logs.unwrap_or_default(),
            metrics: Metrics {
                queue_time: claimed_at.filter(|_| has_run).map(since_acceptance),
                predict_time: self.predict_seconds,
                total_time: completed_at.map(since_acceptance),
                batch_size: self.batch_size.map(stored_count),
                tokens: self.tokens.map(stored_count),
            },
            created_at,
            started_at: self.started_at.map(moment).transpose()?,
            completed_at,
            deadline_at: self.deadline_at.map(moment).transpose()?,
            expires_at: self.expires_at.map(moment).transpose()?,
            source: "api",
            attempt: stored_count(self.attempts),
            priority,
            metadata: self.metadata.map(json).transpose()?,
            webhook_events_filter: self.webhook_url.as_ref().map(|_| Events::from_bits(self.webhook_events)),
            webhook: self.webhook_url,
            queue: None,
            urls: None,
        })
    }
}

/// What a claim returns of one prediction; `I` is what the database promises of an input: SQLite's texts may be any bytes.
#[derive(sqlx::FromRow)]
pub(crate) struct ClaimedRow<I> {
    id: Uuid,
    epoch: i32,
    model: String,
    version: String,
    input: I,
    retries: i32,
    max_retries: i32,
    deadline_micros: Option<i64>,
    webhook_events: i16,
    attempts: i32,
}

impl<I: TryInto<String>> ClaimedRow<I> {
    pub(crate) fn into_claimed(self) -> Result<Claimed, StoreError> {
        Ok(Claimed {
            run: Run { id: PredictionId(self.id), epoch: self.epoch },
            model: read("a model name", self.model)?,
            version: read("a version", self.version)?,
            input: read_input(self.input),
            retries: stored_count(self.retries),
            max_retries: stored_count(self.max_retries),
            deadline_in: self.deadline_micros.map(|left| Duration::from_micros(u64::try_from(left).unwrap_or(0))),
            webhook_events: Events::from_bits(self.webhook_events),
            is_first: self.attempts == 1,
        })
    }
}

/// The numbers by which the database knows versions. They never change, so they are asked for once.
#[derive(Default)]
pub(crate) struct VersionIds(RwLock<HashMap<(ModelName, Version), i32>>);

impl VersionIds {
    pub(crate) fn get(&self, model: &ModelName, version: &Version) -> Option<i32> {
        let ids = self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        ids.get(&(model.clone(), version.clone())).copied()
    }

    pub(crate) fn insert(&self, model: &ModelName, version: &Version, id: i32) {
        let mut ids = self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        ids.insert((model.clone(), version.clone()), id);
    }

    /// The versions in this batch whose numbers are not known yet, each once, in an order that is the same everywhere.
    pub(crate) fn unknown(&self, batch: &[NewPrediction]) -> Vec<(ModelName, Version)> {
        let ids = self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut unknown: Vec<_> = batch
            .iter()
            .map(|new| (new.model.clone(), new.version.clone()))
            .filter(|version| !ids.contains_key(version))
            .collect();
        unknown.sort();
        unknown.dedup();
        unknown
    }
}

/// Ids as the databases take them.
pub(crate) fn uuids(ids: &[PredictionId]) -> Vec<Uuid> {
    ids.iter().map(|id| id.0).collect()
}

/// Ids as the databases return them.
pub(crate) fn ids(uuids: Vec<Uuid>) -> Vec<PredictionId> {
    uuids.into_iter().map(PredictionId).collect()
}

/// Reads a stored word of the domain.
pub(crate) fn read<W: std::str::FromStr>(what: &str, text: String) -> Result<W, StoreError> {
    text.parse().map_err(|_| corrupt(what, text))
}

/// Reads a stored moment.
pub(crate) fn moment<T>(stored: T) -> Result<OffsetDateTime, StoreError>
where
    T: TryInto<OffsetDateTime>,
    T::Error: Display,
{
    stored.try_into().map_err(|error| corrupt("a time", error))
}

/// A stored input, unless it is no JSON any more.
fn read_input(stored: impl TryInto<String>) -> Option<Box<RawValue>> {
    RawValue::from_string(stored.try_into().ok()?).ok()
}

fn json(text: String) -> Result<Box<RawValue>, StoreError> {
    RawValue::from_string(text).map_err(|error| corrupt("JSON", error))
}

pub(crate) fn corrupt(what: &str, value: impl Display) -> StoreError {
    StoreError::Corrupt(format!("{what}: {value}"))
}

/// The line of one version.
#[derive(sqlx::FromRow)]
pub(crate) struct QueueRow {
    model: String,
    version: String,
    waiting: i64,
    processing: i64,
    oldest_seconds: f64,
}

impl QueueRow {
    pub(crate) fn into_queue(self) -> Result<ModelQueue, StoreError> {
        let count = |count: i64| u64::try_from(count).unwrap_or(0);
        Ok(ModelQueue {
            model: read("a model name", self.model)?,
            version: read("a version", self.version)?,
            waiting: count(self.waiting),
            processing: count(self.processing),
            oldest_seconds: self.oldest_seconds.max(0.0),
        })
    }
}

/// So many of one version.
#[derive(sqlx::FromRow)]
pub(crate) struct CountRow {
    model: String,
    version: String,
    count: i64,
}

impl CountRow {
    pub(crate) fn into_count(self) -> Result<VersionCount, StoreError> {
        Ok(VersionCount {
            model: read("a model name", self.model)?,
            version: read("a version", self.version)?,
            count: u64::try_from(self.count).unwrap_or(0),
        })
    }
}

/// So many of one tenant and one version.
#[derive(sqlx::FromRow)]
pub(crate) struct TenantCountRow {
    tenant: String,
    #[sqlx(flatten)]
    count: CountRow,
}

impl TenantCountRow {
    pub(crate) fn into_count(self) -> Result<(String, VersionCount), StoreError> {
        Ok((self.tenant, self.count.into_count()?))
    }
}

/// A published version; `T` is the database's kind of time.
#[derive(sqlx::FromRow)]
pub(crate) struct PublishedRow<T> {
    spec: String,
    published_at: T,
    default_at: Option<T>,
    workers: i64,
    default_workers: i64,
}

impl<T> PublishedRow<T>
where
    T: TryInto<OffsetDateTime>,
    T::Error: Display,
{
    pub(crate) fn into_model(self) -> Result<PublishedModel, StoreError> {
        let count = |workers: i64| u32::try_from(workers).unwrap_or(u32::MAX);
        Ok(PublishedModel {
            spec: serde_json::from_str(&self.spec).map_err(|error| corrupt("a model's specification", error))?,
            created_at: moment(self.published_at)?,
            default_at: self.default_at.map(moment).transpose()?,
            workers: count(self.workers),
            default_workers: count(self.default_workers),
        })
    }
}

/// A specification as it is stored.
pub(crate) fn spec_json(spec: &ModelSpec) -> Result<String, StoreError> {
    serde_json::to_string(spec).map_err(|error| StoreError::Refused(sqlx::Error::Encode(error.into())))
}

/// The installation's secret as it was stored.
pub(crate) fn secret(stored: Vec<u8>) -> Result<[u8; 32], StoreError> {
    stored.try_into().map_err(|stored: Vec<u8>| corrupt("a secret's length", stored.len()))
}
