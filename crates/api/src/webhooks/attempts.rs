//! The attempts of one delivery.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::Uri,
    response::{IntoResponse as _, Response},
};
use serde::Serialize;
use store::Attempt;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::deliveries::{self, ErrorView};
use crate::{
    api::Api, cursor::Position, docs::AttemptListProblems, extract::Segments, keys::Caller, pages::Asked,
    problem::Problem, query::Parameters,
};

/// One attempt at delivering.
#[derive(Serialize, ToSchema)]
#[schema(as = Attempt)]
struct AttemptView {
    /// Its number, from 1.
    attempt: u32,
    /// When it began; also the time that was signed.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    at: OffsetDateTime,
    /// How long it took.
    latency_seconds: f64,
    /// The answer's HTTP status; null when there was none.
    #[schema(required)]
    status: Option<u16>,
    /// Why there was no answer.
    #[schema(required)]
    error: Option<ErrorView>,
    /// The first 16 KiB of the answer's body, as text; null when there was none.
    #[schema(required)]
    answer: Option<String>,
}

/// One page, latest first.
#[derive(Serialize, ToSchema)]
#[schema(as = AttemptPage)]
struct AttemptPage {
    results: Vec<AttemptView>,
    /// Address of the page with earlier ones.
    #[schema(required)]
    next: Option<String>,
    /// Address of the page with later ones.
    #[schema(required)]
    previous: Option<String>,
}

/// A place between two attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Beside {
    /// The attempt beside the place.
    attempt: u32,
    /// Whether the page lies on the later side of it.
    later: bool,
}

/// List the attempts of a delivery.
///
/// Latest first, each with the receiver's answer. `next` and `previous` are whole addresses, or null at the end.
#[utoipa::path(
    get,
    path = "/v1/webhooks/deliveries/{id}/attempts", operation_id = "listAttempts",
    tag = "webhooks",
    params(
        ("id" = String, Path, description = "id of the delivery, `<prediction>_<event>`"),
        ("limit" = Option<u32>, Query, nullable = false, description = "attempts on a page, 1 to 100; 25 when absent", minimum = 1, maximum = 100),
        ("cursor" = Option<String>, Query, nullable = false, description = "taken from `next` or `previous`"),
    ),
    responses((status = 200, body = AttemptPage, description = "One page"), AttemptListProblems),
)]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Segments(id): Segments<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    api.webhooks()?;
    let path = format!("/v1/webhooks/deliveries/{id}/attempts");
    let asked: Asked<'_, Beside> = Asked::read(&api, &caller, Parameters::read(&uri)?, path, String::new()).await?;
    let delivery = deliveries::find(&api, &caller, &id).await?;
    let (before, after) = bounds(asked.position, asked.limit);
    let mut attempts =
        api.in_time(api.store.delivery_attempts(caller.tenant(), delivery.id, before, asked.limit)).await?;
    attempts.retain(|(number, _)| *number > after);
    // They are numbered from 1 without gaps, and none is ever removed alone.
    let (last, first) = (attempts.first().map(|(number, _)| *number), attempts.last().map(|(number, _)| *number));
    let next = first.filter(|first| *first > 1).map(|attempt| Beside { attempt, later: false });
    let previous = last.filter(|last| *last < delivery.attempts).map(|attempt| Beside { attempt, later: true });
    Ok(Json(AttemptPage {
        next: asked.address(next),
        previous: asked.address(previous),
        results: attempts.into_iter().map(|(number, attempt)| AttemptView::new(number, attempt)).collect(),
    })
    .into_response())
}

/// The numbers between which the attempts of a page lie: before the first, if bounded, and after the second.
fn bounds(position: Option<Beside>, limit: u32) -> (Option<u32>, u32) {
    match position {
        None => (None, 0),
        Some(Beside { attempt, later: false }) => (Some(attempt), 0),
        Some(Beside { attempt, later: true }) => (Some(attempt.saturating_add(limit).saturating_add(1)), attempt),
    }
}

impl Position for Beside {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.attempt.to_be_bytes().to_vec();
        bytes.push(u8::from(self.later));
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let [number @ .., later] = <[u8; 5]>::try_from(bytes).ok()?;
        Some(Self { attempt: u32::from_be_bytes(number), later: later == 1 })
    }
}

impl AttemptView {
    fn new(attempt: u32, Attempt { at, latency, result }: Attempt) -> Self {
        let (status, error, answer) = match result {
            Ok(answer) => (Some(answer.status), None, Some(String::from_utf8_lossy(&answer.body).into_owned())),
            Err(unanswered) => (None, Some(ErrorView::new(unanswered)), None),
        };
        Self { attempt, at, latency_seconds: latency.as_secs_f64(), status, error, answer }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_read_back() {
        for beside in [Beside { attempt: 1, later: true }, Beside { attempt: u32::MAX, later: false }] {
            assert_eq!(Beside::from_bytes(&beside.to_bytes()), Some(beside));
        }
        assert_eq!((Beside::from_bytes(&[0; 4]), Beside::from_bytes(&[0; 6])), (None, None));
    }

    #[test]
    fn pages_meet_and_do_not_overlap() {
        assert_eq!(bounds(None, 3), (None, 0));
        assert_eq!(bounds(Some(Beside { attempt: 8, later: false }), 3), (Some(8), 0));
        // Of 5, 6 and 7 the later side of 4.
        assert_eq!(bounds(Some(Beside { attempt: 4, later: true }), 3), (Some(8), 4));
    }
}
