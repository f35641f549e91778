//! When a retryable failure is tried again: a schedule and a pure function, with the jitter injected.

use std::time::Duration;

/// Exponential back-off with full range jitter of ±20 %.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetrySchedule {
    /// The wait before the first retry.
    pub first: Duration,
    /// No wait is longer than this before jitter.
    pub longest: Duration,
}

impl Default for RetrySchedule {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), longest: Duration::from_secs(300) }
    }
}

impl RetrySchedule {
    /// The wait before retry number `retry` (0 is the first): `first · 4^retry`, at most `longest`, times
    /// `0.8 + 0.4 · jitter`, where `jitter` is in `0.0..=1.0`.
    #[must_use]
    pub fn delay(&self, retry: u32, jitter: f64) -> Duration {
        let factor = 4_u32.checked_pow(retry).unwrap_or(u32::MAX);
        let wait = self.first.saturating_mul(factor).min(self.longest);
        wait.mul_f64(0.8 + 0.4 * jitter.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest() {
        let schedule = RetrySchedule::default();
        let waits: Vec<u64> = (0..7).map(|retry| schedule.delay(retry, 0.5).as_secs()).collect();
        assert_eq!(waits, [1, 4, 16, 64, 256, 300, 300]);
        assert_eq!(schedule.delay(u32::MAX, 0.5).as_secs(), 300);
    }

    #[test]
    fn jitter_is_a_fifth_each_way() {
        let schedule = RetrySchedule::default();
        assert_eq!(schedule.delay(1, 0.0), Duration::from_millis(3200));
        assert_eq!(schedule.delay(1, 1.0), Duration::from_millis(4800));
        assert_eq!(schedule.delay(1, 7.0), Duration::from_millis(4800));
    }
}
