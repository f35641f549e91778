//! Rows of deliveries, endpoints and secrets as both databases return them, and the contract's types made from them.

use std::{fmt::Display, time::Duration};

use prediction::{BodyForm, DeliveryId, DeliveryStatus, Event, PredictionId};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    Answer, Attempt, ClaimedDelivery, Delivery, Endpoint, SealedSecret, Sending, StoreError, Unanswered,
    numbers::stored_count,
    rows::{corrupt, moment},
};

/// A delivery's id as it is stored.
pub(crate) fn delivery_id(prediction: Uuid, event: i16) -> Result<DeliveryId, StoreError> {
    let event = Event::from_code(event).ok_or_else(|| corrupt("an event", event))?;
    Ok(DeliveryId { prediction: PredictionId(prediction), event })
}

/// What a claim returns of one delivery; `T` is the database's kind of time.
#[derive(sqlx::FromRow)]
pub(crate) struct ClaimedDeliveryRow<T> {
    prediction_id: Uuid,
    event: i16,
    epoch: i32,
    tenant: String,
    url: String,
    endpoint: String,
    origin: String,
    round: i32,
    claimed_at: T,
    created_at: T,
    body: Option<i16>,
    is_disabled: bool,
    payload_bytes: i64,
}

impl<T> ClaimedDeliveryRow<T>
where
    T: TryInto<OffsetDateTime>,
    T::Error: Display,
{
    pub(crate) fn into_claimed(self) -> Result<ClaimedDelivery, StoreError> {
        Ok(ClaimedDelivery {
            sending: Sending { id: delivery_id(self.prediction_id, self.event)?, epoch: self.epoch },
            tenant: self.tenant,
            url: self.url,
            endpoint: self.endpoint,
            origin: self.origin,
            round: stored_count(self.round),
            claimed_at: moment(self.claimed_at)?,
            created_at: moment(self.created_at)?,
            body: self.body.map(body_form).transpose()?.unwrap_or_default(),
            is_disabled: self.is_disabled,
            payload_bytes: u64::try_from(self.payload_bytes).unwrap_or(0),
        })
    }
}

/// A delivery with its latest attempt.
#[derive(sqlx::FromRow)]
pub(crate) struct DeliveryRow<T> {
    prediction_id: Uuid,
    event: i16,
    url: String,
    endpoint: String,
    status: i16,
    attempts: i32,
    created_at: T,
    due_at: T,
    completed_at: Option<T>,
    at: Option<T>,
    latency: Option<i64>,
    answered: Option<i16>,
    error: Option<String>,
    message: Option<String>,
}

impl<T> DeliveryRow<T>
where
    T: TryInto<OffsetDateTime>,
    T::Error: Display,
{
    pub(crate) fn into_delivery(self) -> Result<Delivery, StoreError> {
        let status = DeliveryStatus::from_code(self.status).ok_or_else(|| corrupt("a status", self.status))?;
        let latest = match (self.at, self.latency) {
            (Some(at), Some(latency)) => {
                Some(attempt(at, latency, result(self.answered, None, self.error, self.message)?)?)
            }
            _ => None,
        };
        Ok(Delivery {
            id: delivery_id(self.prediction_id, self.event)?,
            url: self.url,
            endpoint: self.endpoint,
            status,
            attempts: stored_count(self.attempts),
            created_at: moment(self.created_at)?,
            due_at: if status.is_over() { None } else { Some(moment(self.due_at)?) },
            completed_at: self.completed_at.map(moment).transpose()?,
            latest,
        })
    }
}

/// One attempt.
#[derive(sqlx::FromRow)]
pub(crate) struct AttemptRow<T> {
    attempt: i32,
    at: T,
    latency: i64,
    status: Option<i16>,
    answer: Option<Vec<u8>>,
    error: Option<String>,
    message: Option<String>,
}

impl<T> AttemptRow<T>
where
    T: TryInto<OffsetDateTime>,
    T::Error: Display,
{
    pub(crate) fn into_attempt(self) -> Result<(u32, Attempt), StoreError> {
        let result = result(self.status, self.answer, self.error, self.message)?;
        Ok((stored_count(self.attempt), attempt(self.at, self.latency, result)?))
    }
}

/// What is remembered of an endpoint.
#[derive(sqlx::FromRow)]
pub(crate) struct EndpointRow<T> {
    id: Uuid,
    url: String,
    body: i16,
    created_at: T,
    disabled_at: Option<T>,
}

impl<T> EndpointRow<T>
where
    T: TryInto<OffsetDateTime>,
    T::Error: Display,
{
    pub(crate) fn into_endpoint(self) -> Result<Endpoint, StoreError> {
        Ok(Endpoint {
            id: self.id,
            url: self.url,
            body: body_form(self.body)?,
            created_at: moment(self.created_at)?,
            disabled_at: self.disabled_at.map(moment).transpose()?,
        })
    }
}

/// A secret.
#[derive(sqlx::FromRow)]
pub(crate) struct SecretRow<T> {
    tenant: String,
    endpoint: String,
    sealed: Vec<u8>,
    expires_at: Option<T>,
}

impl<T> SecretRow<T>
where
    T: TryInto<OffsetDateTime>,
    T::Error: Display,
{
    pub(crate) fn into_secret(self) -> Result<SealedSecret, StoreError> {
        Ok(SealedSecret {
            tenant: self.tenant,
            endpoint: self.endpoint,
            sealed: self.sealed,
            expires_at: self.expires_at.map(moment).transpose()?,
        })
    }
}

fn attempt<T>(at: T, latency: i64, result: Result<Answer, Unanswered>) -> Result<Attempt, StoreError>
where
    T: TryInto<OffsetDateTime>,
    T::Error: Display,
{
    let latency = Duration::from_micros(u64::try_from(latency).unwrap_or(0));
    Ok(Attempt { at: moment(at)?, latency, result })
}

fn result(
    status: Option<i16>,
    answer: Option<Vec<u8>>,
    error: Option<String>,
    message: Option<String>,
) -> Result<Result<Answer, Unanswered>, StoreError> {
    match (status, error) {
        (Some(status), _) => {
            let status = u16::try_from(status).map_err(|_| corrupt("an HTTP status", status))?;
            Ok(Ok(Answer { status, body: answer.unwrap_or_default() }))
        }
        (None, Some(error)) => Ok(Err(Unanswered { error, message: message.unwrap_or_default() })),
        (None, None) => Err(corrupt("an attempt", "neither answered nor failed")),
    }
}

fn body_form(code: i16) -> Result<BodyForm, StoreError> {
    BodyForm::from_code(code).ok_or_else(|| corrupt("a body form", code))
}
