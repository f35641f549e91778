//! Durations and counts as the databases take them.

use std::time::Duration;

/// No duration in the store is longer, so that every sum of a time and a duration is a time.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// A duration as the databases take it: microseconds, a hundred years at the most.
pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.min(LONGEST).as_micros()).unwrap_or(i64::MAX)
}

/// A count as the databases take it.
pub(crate) fn count(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// A count as it was stored; constraints keep it from being negative.
pub(crate) fn stored_count(value: i32) -> u32 {
    u32::try_from(value).unwrap_or(0)
}
