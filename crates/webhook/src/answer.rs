//! What a receiver answered, as far as it was read.

use std::time::{Duration, UNIX_EPOCH};

/// The longest that a receiver's `Retry-After` is honoured: the longest wait of the schedule.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// A receiver's answer. Its status came whole; its body is for the record and may be a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status, 100 to 999.
    pub status: u16,
    /// What `Retry-After` says, where it says something intelligible.
    pub retry_after: Option<RetryAfter>,
    /// The first bytes of the body, as they came: not decompressed, of any encoding.
    pub body: Vec<u8>,
    /// Why no more of the body was read.
    pub body_end: BodyEnd,
}

/// How the reading of a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// There was no more.
    Complete,
    /// There may be more, but this much is kept.
    Cut,
    /// The attempt's time was up.
    TimedOut,
    /// The connection broke.
    Broken,
}

/// When a receiver asks to be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAfter {
    /// So long from now.
    Wait(Duration),
    /// At this time, in Unix seconds.
    At(u64),
}

impl RetryAfter {
    /// Reads the header's value (RFC 9110, section 10.2.3): seconds, or a date in any of HTTP's three forms.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            // Too many digits to count are a long time.
            return Some(Self::Wait(Duration::from_secs(text.parse().unwrap_or(u64::MAX))));
        }
        let at = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(Self::At(at.as_secs()))
    }

    /// How long that is from `now` (Unix seconds): nothing when it is past, never more than 24 hours.
    #[must_use]
    pub fn wait(self, now: i64) -> Duration {
        let wait = match self {
            Self::Wait(wait) => wait,
            Self::At(at) => Duration::from_secs(at.saturating_sub(u64::try_from(now).unwrap_or(0))),
        };
        wait.min(LONGEST_RETRY_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT, the specification's example.
    const NOW: i64 = 784_111_777;

    #[test]
    fn seconds_and_dates_are_read_and_bounded() {
        for (text, seconds) in [
            ("0", 0),
            ("120", 120),
            (" 120 ", 120),
            ("86401", 86_400),
            ("99999999999999999999999", 86_400),
            ("Sun, 06 Nov 1994 08:50:37 GMT", 60),
            ("Sunday, 06-Nov-94 08:50:37 GMT", 60),
            ("Sun Nov  6 08:50:37 1994", 60),
            ("Sun, 06 Nov 1994 08:00:00 GMT", 0),
            ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400),
        ] {
            let read = RetryAfter::parse(text).expect(text);
            assert_eq!(read.wait(NOW), Duration::from_secs(seconds), "{text}");
        }
        for text in ["", "soon", "-1", "1.5", "1e3", "+5", "Sun, 99 Nov 1994 08:49:37 GMT"] {
            assert_eq!(RetryAfter::parse(text), None, "{text}");
        }
    }
}
