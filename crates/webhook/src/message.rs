//! What is sent in one attempt, and its id.

use std::{fmt, str::FromStr};

use bytes::Bytes;

use crate::{ExtraHeader, Secrets};

/// The id of an event, the same in every attempt: 1 to 64 of `A-Z a-z 0-9 _ -`. Without a full stop, because full stops
/// part what is signed, and without anything that could end a header.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MessageId(String);

/// The text is not the id of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the id of a webhook is 1 to 64 letters, digits, '_' and '-'")]
pub struct InvalidMessageId;

impl MessageId {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MessageId {
    type Err = InvalidMessageId;

    fn from_str(text: &str) -> Result<Self, InvalidMessageId> {
        let good = (1..=64).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        if good { Ok(Self(text.to_owned())) } else { Err(InvalidMessageId) }
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One event on its way to one URL.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    /// Where to; vetted again in every attempt.
    pub url: &'a str,
    /// The event's id, constant over attempts.
    pub id: &'a MessageId,
    /// When this attempt is made, in Unix seconds by the database's clock; receivers refuse what is 5 minutes off.
    pub timestamp: i64,
    /// JSON, sent and signed byte for byte.
    pub body: Bytes,
    /// What it is signed with.
    pub secrets: &'a Secrets,
    /// Headers besides our own, for example `traceparent`.
    pub headers: &'a [ExtraHeader],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_cannot_break_a_header_or_a_signature() {
        for text in ["msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", "0195f2b0-7a1c-7000-8000-000000000001", "a"] {
            assert_eq!(text.parse::<MessageId>().expect("a good id").as_str(), text);
        }
        let long = "a".repeat(65);
        for text in ["", "a.b", "a b", "a\r\nx: y", "ä", "a,b", &long] {
            assert_eq!(text.parse::<MessageId>(), Err(InvalidMessageId), "{text:?}");
        }
    }
}
