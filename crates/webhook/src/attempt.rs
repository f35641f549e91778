//! How one attempt ended, and what follows from it.

use std::{io, net::SocketAddr, time::Duration};

use crate::{Answer, Refused, Unvetted};

/// One attempt at delivering.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// From the first look at the URL to the end of the answer.
    pub latency: Duration,
    /// The receiver's answer, or why there was none.
    pub outcome: Result<Answer, Failed>,
}

/// Why an attempt got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    /// The URL or an address of its host is against the policy; nothing was connected to.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The host has no address, or the name servers did not answer.
    #[error("the host could not be resolved: {0}")]
    Unresolved(io::ErrorKind),
    /// None of the addresses took the connection; this is about the last one tried.
    #[error("could not connect to {address}: {error}")]
    Connect {
        /// The last address tried.
        address: SocketAddr,
        /// What happened there.
        error: io::ErrorKind,
    },
    /// No TLS session, for example because the certificate is not the host's or not trusted.
    #[error("no TLS session: {0}")]
    Tls(String),
    /// The attempt's time was up.
    #[error("time was up {}", .0.as_str())]
    TimedOut(Step),
    /// The connection ended before the answer's headers did.
    #[error("the connection ended before the answer")]
    Closed,
    /// The answer's headers are more than is read.
    #[error("the answer's headers are too large")]
    HeadersTooLarge,
    /// What came was not HTTP.
    #[error("the answer is not HTTP")]
    NotHttp,
}

/// The steps of an attempt that take time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Looking the host up.
    Resolve,
    /// Connecting.
    Connect,
    /// Beginning a TLS session.
    Tls,
    /// Sending the request and waiting for the answer's headers.
    Answer,
}

impl Step {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "while the host was looked up",
            Self::Connect => "while connecting",
            Self::Tls => "while the TLS session began",
            Self::Answer => "while waiting for the answer",
        }
    }
}

impl From<Unvetted> for Failed {
    fn from(unvetted: Unvetted) -> Self {
        match unvetted {
            Unvetted::Refused(refused) => Self::Refused(refused),
            Unvetted::Unresolved(error) => Self::Unresolved(error),
        }
    }
}

impl Failed {
    /// Whether the reason is this process's own: nobody was asked and nothing was sent, so the attempt says nothing of the
    /// receiver and is none of its ten.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        *self == Self::Unresolved(io::ErrorKind::ResourceBusy)
    }

    /// One word for records and metrics; it does not change between versions.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::Unresolved(_) => "unresolved",
            Self::Connect { .. } => "connect",
            Self::Tls(_) => "tls",
            Self::TimedOut(_) => "timed_out",
            Self::Closed => "closed",
            Self::HeadersTooLarge => "headers_too_large",
            Self::NotHttp => "not_http",
        }
    }
}

/// What becomes of a delivery after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It arrived.
    Delivered,
    /// The receiver wants no more, of this delivery and of any other (410).
    Gone,
    /// It is tried again as the schedule says, if that has an attempt left.
    Retry {
        /// No sooner than this from now, because the receiver asked so.
        at_least: Duration,
    },
}

/// What an attempt says of the endpoint, whatever it says of the delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answers: perhaps with a refusal, but of its own mind.
    Well,
    /// It is not to be reached, is too slow, broken or overloaded.
    Ill,
}

impl Attempt {
    /// What follows for the delivery. 2xx is success even when the body broke off, because the receiver has decided by then;
    /// redirections were not followed, so they are failures like any other. `now` is in Unix seconds.
    #[must_use]
    pub fn verdict(&self, now: i64) -> Verdict {
        match &self.outcome {
            Ok(answer) if (200..300).contains(&answer.status) => Verdict::Delivered,
            Ok(answer) if answer.status == 410 => Verdict::Gone,
            Ok(answer) => {
                Verdict::Retry { at_least: answer.retry_after.map_or(Duration::ZERO, |after| after.wait(now)) }
            }
            Err(_) => Verdict::Retry { at_least: Duration::ZERO },
        }
    }

    /// What follows for the endpoint: it is ill when it did not answer, answered 429 or a 5xx.
    #[must_use]
    pub fn health(&self) -> Health {
        match &self.outcome {
            Ok(answer) if answer.status == 429 || answer.status >= 500 => Health::Ill,
            Ok(_) => Health::Well,
            Err(_) => Health::Ill,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BodyEnd, RetryAfter};

    fn answered(status: u16, retry_after: Option<RetryAfter>) -> Attempt {
        let answer = Answer { status, retry_after, body: Vec::new(), body_end: BodyEnd::Broken };
        Attempt { latency: Duration::ZERO, outcome: Ok(answer) }
    }

    #[test]
    fn every_status_has_one_verdict() {
        let at_once = Verdict::Retry { at_least: Duration::ZERO };
        for status in 100..=999 {
            let expected = match status {
                200..=299 => Verdict::Delivered,
                410 => Verdict::Gone,
                _ => at_once,
            };
            assert_eq!(answered(status, None).verdict(0), expected, "{status}");
        }
        for failed in [Failed::Closed, Failed::TimedOut(Step::Answer), Failed::Refused(Refused::Scheme)] {
            assert_eq!(Attempt { latency: Duration::ZERO, outcome: Err(failed) }.verdict(0), at_once);
        }
    }

    #[test]
    fn retry_after_counts_where_there_is_a_retry() {
        let after = Some(RetryAfter::Wait(Duration::from_secs(90)));
        let later = Verdict::Retry { at_least: Duration::from_secs(90) };
        for (status, expected) in
            [(503, later), (429, later), (301, later), (404, later), (200, Verdict::Delivered), (410, Verdict::Gone)]
        {
            assert_eq!(answered(status, after).verdict(0), expected, "{status}");
        }
        let at = Some(RetryAfter::At(1_000_090));
        assert_eq!(answered(503, at).verdict(1_000_000), later);
    }

    #[test]
    fn an_endpoint_that_answers_is_well() {
        for (status, health) in [
            (200, Health::Well),
            (302, Health::Well),
            (404, Health::Well),
            (410, Health::Well),
            (429, Health::Ill),
            (500, Health::Ill),
            (503, Health::Ill),
        ] {
            assert_eq!(answered(status, None).health(), health, "{status}");
        }
        assert_eq!(Attempt { latency: Duration::ZERO, outcome: Err(Failed::Closed) }.health(), Health::Ill);
    }
}
