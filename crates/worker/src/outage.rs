//! Says that the store does not answer, once and then now and then, however many calls fail.

use std::{
    fmt,
    sync::Mutex,
    time::{Duration, Instant},
};

/// An outage is logged once more when failures go on for this long.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// When a failure was last logged.
#[derive(Default)]
pub(crate) struct Outage(Mutex<Option<Instant>>);

impl Outage {
    /// Notes that a call on the store failed.
    pub(crate) fn saw(&self, error: &dyn fmt::Display) {
        let now = Instant::now();
        let mut logged = self.0.lock().expect("no panic while locked");
        if logged.is_none_or(|logged| now - logged >= LOG_EVERY) {
            *logged = Some(now);
            tracing::warn!(%error, "the store does not answer; trying again");
        }
    }
}
