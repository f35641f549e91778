//! Request headers with a meaning of their own: `Prefer`, `Idempotency-Key`, `Cancel-After`.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::problem::{Kind, Problem};

pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub(crate) const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
pub(crate) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
pub(crate) const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
pub(crate) const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const CANCEL_AFTER: HeaderName = HeaderName::from_static("cancel-after");
const PREFER: HeaderName = HeaderName::from_static("prefer");

/// The longest wait that can be asked for, and the wait of a bare `Prefer: wait`, in seconds.
pub(crate) const LONGEST_WAIT: u64 = 60;

/// What the caller prefers (RFC 7240).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Prefer {
    /// Answer when the prediction is finished, or after this many seconds (1–60).
    pub(crate) wait: Option<u64>,
    /// Answer at once.
    pub(crate) respond_async: bool,
}

impl Prefer {
    /// Reads all `Prefer` headers. What is unknown or malformed is ignored and the first of two equal names counts,
    /// as the RFC says.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Self {
        let mut prefer = Self::default();
        let lines = headers.get_all(PREFER);
        for preference in lines.iter().filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',')) {
            let essence = preference.split(';').next().unwrap_or_default();
            let (name, value) = match essence.split_once('=') {
                Some((name, value)) => (name.trim(), Some(value.trim().trim_matches('"'))),
                None => (essence.trim(), None),
            };
            if name.eq_ignore_ascii_case("respond-async") && value.is_none_or(str::is_empty) {
                prefer.respond_async = true;
            } else if name.eq_ignore_ascii_case("wait") && prefer.wait.is_none() {
                prefer.wait = match value {
                    None | Some("") => Some(LONGEST_WAIT),
                    Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                        Some(text.parse().unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT)).filter(|seconds| *seconds > 0)
                    }
                    Some(_) => None,
                };
            }
        }
        prefer
    }

    /// The value of `Preference-Applied`.
    pub(crate) fn applied(self) -> Option<HeaderValue> {
        match self {
            Self { wait: Some(seconds), .. } => HeaderValue::from_str(&format!("wait={seconds}")).ok(),
            Self { respond_async: true, .. } => Some(HeaderValue::from_static("respond-async")),
            Self { .. } => None,
        }
    }
}

/// The idempotency key: 1–255 printable ASCII characters, given once.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let bad = || Problem::new(Kind::MalformedRequest, "Idempotency-Key must be 1 to 255 printable ASCII characters.");
    let Some(value) = single(headers, &IDEMPOTENCY_KEY)? else { return Ok(None) };
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| bad())?;
    let is_printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if is_printable && (1..=255).contains(&text.len()) { Ok(Some(text.to_owned())) } else { Err(bad()) }
}

/// The id of the last event that a client of a stream has read, if it has any.
pub(crate) fn last_event_id(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = single(headers, &LAST_EVENT_ID)? else { return Ok(None) };
    let bad = |_| Problem::new(Kind::MalformedRequest, "Last-Event-ID is not the id of an event of this stream.");
    Ok(Some(value.to_str().map_err(bad)?).filter(|id| !id.is_empty()))
}

/// Whether the caller takes an event stream (RFC 9110, section 12.5.1): it does unless it says otherwise.
pub(crate) fn takes_event_stream(headers: &HeaderMap) -> bool {
    let mut accepts = headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok()).peekable();
    // The nearest range counts.
    let mut nearest = accepts.peek().is_none().then_some((0, true));
    for range in accepts.flat_map(|line| line.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let nearness = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
            "text/event-stream" => 3,
            "text/*" => 2,
            "*/*" => 1,
            _ => continue,
        };
        let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
        let is_taken = weight.is_none_or(|weight| weight.parse::<f32>().is_ok_and(|weight| weight > 0.0));
        if nearest.is_none_or(|(known, _)| nearness > known) {
            nearest = Some((nearness, is_taken));
        }
    }
    nearest.is_some_and(|(_, is_taken)| is_taken)
}

/// How long the prediction may take before it is canceled.
pub(crate) fn cancel_after(headers: &HeaderMap) -> Result<Option<Duration>, Problem> {
    let Some(value) = single(headers, &CANCEL_AFTER)? else { return Ok(None) };
    value.to_str().ok().and_then(positive_duration).map(Some).ok_or_else(|| {
        Problem::new(Kind::MalformedRequest, "Cancel-After must be a whole number and a unit: 500ms, 30s, 5m, 2h, 7d.")
    })
}

/// A duration longer than nothing.
pub(crate) fn positive_duration(text: &str) -> Option<Duration> {
    prediction::parse_duration(text).ok().filter(|duration| !duration.is_zero())
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, Problem> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(Problem::new(Kind::MalformedRequest, format!("The header {name} is given twice.")));
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefer(lines: &[&'static str]) -> Prefer {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(PREFER, HeaderValue::from_static(line));
        }
        Prefer::from_headers(&headers)
    }

    #[test]
    fn an_event_stream_is_taken_unless_it_is_left_out() {
        let takes = |accept: &'static str| {
            takes_event_stream(&HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]))
        };
        assert!(takes_event_stream(&HeaderMap::new()));
        for accept in
            ["*/*", "text/event-stream", "application/json, Text/Event-Stream;q=0.1", "text/*", "*/*;q=0.5, a/b"]
        {
            assert!(takes(accept), "{accept}");
        }
        for accept in ["", "application/json", "text/html, */*;q=0", "*/*, text/event-stream; q=0", "text/*;q=x"] {
            assert!(!takes(accept), "{accept}");
        }
    }

    #[test]
    fn preferences_are_read_as_the_rfc_says() {
        let wait = |seconds| Prefer { wait: Some(seconds), respond_async: false };
        for (line, seconds) in [
            ("wait", 60),
            ("WAIT=5", 5),
            ("wait = \"7\"", 7),
            ("foo, wait=9; bar=1", 9),
            ("wait=61", 60),
            ("wait=99999999999999999999", 60),
        ] {
            assert_eq!(prefer(&[line]), wait(seconds), "{line}");
        }
        assert_eq!(prefer(&["wait=3, wait=4"]), wait(3));
        assert_eq!(prefer(&["foo", "wait=3"]), wait(3));
        assert_eq!(prefer(&["respond-async, wait=10"]), Prefer { wait: Some(10), respond_async: true });
    }

    #[test]
    fn malformed_preferences_are_ignored() {
        for line in ["", "wait=x", "wait=-1", "wait=1.5", "wait=0", "waiter=5", "=", ",,;", "respond-async=maybe"] {
            assert_eq!(prefer(&[line]), Prefer::default(), "{line}");
        }
    }
}
