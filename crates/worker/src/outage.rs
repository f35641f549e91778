//! When this node last saw the store fail: expired leases are nobody's fault while nobody could renew them.

use std::{
    fmt,
    sync::Mutex,
    time::{Duration, Instant},
};

/// An outage is logged once more when failures go on for this long.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// The last failure seen.
#[derive(Default)]
pub(crate) struct Outage {
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    last: Option<Instant>,
    logged: Option<Instant>,
}

impl Outage {
    /// Notes that a call on the store failed.
    pub(crate) fn saw(&self, error: &dyn fmt::Display) {
        let now = Instant::now();
        let mut seen = self.seen.lock().expect("no panic while locked");
        seen.last = Some(now);
        if seen.logged.is_none_or(|logged| now - logged >= LOG_EVERY) {
            seen.logged = Some(now);
            tracing::warn!(%error, "the store does not answer; trying again");
        }
    }

    /// Whether no call failed within `time`.
    pub(crate) fn is_past(&self, time: Duration) -> bool {
        self.seen.lock().expect("no panic while locked").last.is_none_or(|last| last.elapsed() >= time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_past_only_after_the_time() {
        let outage = Outage::default();
        assert!(outage.is_past(Duration::from_secs(3600)));
        outage.saw(&"away");
        assert!(!outage.is_past(Duration::from_secs(3600)));
        assert!(outage.is_past(Duration::ZERO));
    }
}
