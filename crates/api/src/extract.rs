//! What handlers take out of requests: path segments, and JSON bodies within a bound of bytes and time.

use std::{borrow::Cow, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{FromRequestParts, Path},
    http::{HeaderMap, header, request::Parts},
};
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use crate::{
    bodies::{Bodies, Room},
    problem::{Kind, Problem},
};

/// Parameters of the path; what cannot be read names nothing.
pub(crate) struct Segments<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Segments<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(segments) = Path::from_request_parts(parts, state).await.map_err(|_| Problem::not_found())?;
        Ok(Self(segments))
    }
}

/// Bounds of a request body.
#[derive(Clone, Copy)]
pub(crate) struct BodyBounds<'a> {
    /// The most bytes.
    pub(crate) bytes: usize,
    /// How long all of it may take to arrive.
    pub(crate) time: Duration,
    /// Room for it among the bodies that are held.
    pub(crate) bodies: &'a Bodies,
}

/// A body, and the room that is kept for it.
pub(crate) struct JsonBody {
    pub(crate) text: String,
    pub(crate) room: Room,
}

/// Reads a body that says it is plain JSON.
pub(crate) async fn json_body(headers: &HeaderMap, body: Body, bounds: BodyBounds<'_>) -> Result<JsonBody, Problem> {
    expect_plain_json(headers)?;
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let too_large = || Problem::new(Kind::BodyTooLarge, format!("The body is larger than {} bytes.", bounds.bytes));
    // Who asks first, with Expect, is answered before sending anything.
    let asks_first = headers.contains_key(header::EXPECT);
    if asks_first && declared.is_some_and(|length| length > bounds.bytes) {
        return Err(too_large());
    }
    let expected = declared.unwrap_or(0).min(bounds.bytes);
    let room = bounds.bodies.room(expected);
    if asks_first && let Err(busy) = room {
        return Err(busy);
    }
    let deadline = Instant::now() + bounds.time;
    let reading = read(body, expected, bounds.bytes, room);
    let (bytes, room) = timeout_at(deadline, reading)
        .await
        .map_err(|_| {
            Problem::new(
                Kind::RequestTimeout,
                format!("The body took longer than {} s to arrive.", bounds.time.as_secs_f32()),
            )
        })??
        .ok_or_else(too_large)?;
    let text = String::from_utf8(bytes).map_err(|_| Problem::new(Kind::InvalidJson, "The body is not UTF-8."))?;
    Ok(JsonBody { text, room })
}

/// The body, or `None` when it is larger than `limit`.
async fn read(
    mut body: Body,
    expected: usize,
    limit: usize,
    room: Result<Room, Problem>,
) -> Result<Option<(Vec<u8>, Room)>, Problem> {
    let mut room = match room {
        Ok(room) => room,
        Err(busy) => {
            discard(body, limit).await?;
            return Err(busy);
        }
    };
    let mut bytes = Vec::with_capacity(expected);
    while let Some(data) = next_data(&mut body).await? {
        let length = bytes.len() + data.len();
        if length > limit {
            drop(bytes);
            discard(body, limit).await?;
            return Ok(None);
        }
        if let Err(busy) = room.grow_to(length) {
            drop((bytes, room));
            discard(body, limit).await?;
            return Err(busy);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Some((bytes, room)))
}

/// Reads on for a while without keeping anything: a client that is still sending when the connection closes would
/// see a reset in place of the answer.
async fn discard(mut body: Body, mut budget: usize) -> Result<(), Problem> {
    while let Some(data) = next_data(&mut body).await? {
        match budget.checked_sub(data.len()) {
            Some(left) => budget = left,
            None => break,
        }
    }
    Ok(())
}

async fn next_data(body: &mut Body) -> Result<Option<Bytes>, Problem> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Problem::new(Kind::MalformedRequest, "The body ended before its end."))?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

fn expect_plain_json(headers: &HeaderMap) -> Result<(), Problem> {
    let unsupported = |detail: Cow<'static, str>| Err(Problem::new(Kind::UnsupportedMediaType, detail));
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        return unsupported("Compressed bodies are not read; send no Content-Encoding.".into());
    }
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if content_type == "application/json" {
        return Ok(());
    }
    let mut parts = content_type.split(';').map(|part| part.trim().to_ascii_lowercase());
    let essence = parts.next().unwrap_or_default();
    let is_json = essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
    if !is_json {
        return unsupported("The body must be sent as Content-Type: application/json.".into());
    }
    let charset =
        parts.find_map(|parameter| parameter.strip_prefix("charset=").map(|name| name.trim_matches('"').to_owned()));
    match charset.as_deref() {
        None | Some("utf-8" | "utf8") => Ok(()),
        Some(_) => unsupported("JSON is UTF-8; no other charset is read.".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn verdict(name: header::HeaderName, value: &'static str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(name, HeaderValue::from_static(value));
        expect_plain_json(&headers).is_ok()
    }

    #[test]
    fn only_plain_json_is_read() {
        for good in ["application/json", "Application/JSON; charset=UTF-8", "application/problem+json"] {
            assert!(verdict(header::CONTENT_TYPE, good), "{good}");
        }
        for bad in ["", "text/plain", "application/jsonx", "text/html+json", "application/json; charset=latin1"] {
            assert!(!verdict(header::CONTENT_TYPE, bad), "{bad}");
        }
        assert!(verdict(header::CONTENT_ENCODING, "identity"));
        assert!(!verdict(header::CONTENT_ENCODING, "gzip") && !verdict(header::CONTENT_ENCODING, "identity, zstd"));
    }
}
