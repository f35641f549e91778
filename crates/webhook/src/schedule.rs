//! When a delivery is tried again: the published schedule and a pure function, with the jitter injected.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::MessageId;

/// How many attempts a delivery has. After the last it is exhausted.
pub const ATTEMPTS: u32 = WAITS.len() as u32;

/// How much of a wait the jitter adds or takes at most.
const JITTER: f64 = 0.2;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

/// The wait before each attempt in seconds, as the contract publishes it, and whether the jitter lengthens (`1.0`) or
/// shortens it (`-1.0`). One number is the jitter of all of a delivery's waits, and the signs are such that what it adds to
/// the long waits it takes from others: with a number drawn for each wait every fifth delivery would be given up before
/// 72 hours, and the unluckiest after 60.
const WAITS: [(u64, f64); 10] = [
    (0, 1.0),
    (5, 1.0),
    (5 * MINUTE, -1.0),
    (30 * MINUTE, -1.0),
    (2 * HOUR, -1.0),
    (5 * HOUR, 1.0),
    (10 * HOUR, 1.0),
    (14 * HOUR, -1.0),
    (20 * HOUR, -1.0),
    (24 * HOUR, 1.0),
];

/// The wait before the next attempt, counted from the end of the last one, or `None` when all [`ATTEMPTS`] were made.
///
/// `attempts` is how many were made; `jitter` is in `0.0..=1.0` and the same for all of a delivery's attempts
/// ([`jitter`]); no wait is shorter than `at_least`, which is what the receiver asked for
/// ([`Verdict::Retry`](crate::Verdict::Retry)). Whatever the jitter, each wait is within 20 % of the published one, and all
/// together are more than 75 hours.
#[must_use]
pub fn next_wait(attempts: u32, jitter: f64, at_least: Duration) -> Option<Duration> {
    let (seconds, sign) = WAITS.get(usize::try_from(attempts).ok()?)?;
    let factor = 1.0 + sign * JITTER * (2.0 * jitter.clamp(0.0, 1.0) - 1.0);
    Some(Duration::from_secs(*seconds).mul_f64(factor).max(at_least))
}

/// The jitter of a delivery, in `0.0..1.0`: made of its id, so that it need not be stored and whoever goes on with the
/// delivery comes to the same number.
#[must_use]
pub fn jitter(id: &MessageId) -> f64 {
    let digest = Sha256::digest(id.as_str());
    let number = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    f64::from(number) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLISHED: [u64; 10] = [0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400];

    fn waits(jitter: f64) -> Vec<Duration> {
        (0..).map_while(|attempts| next_wait(attempts, jitter, Duration::ZERO)).collect()
    }

    #[test]
    fn in_the_middle_it_is_the_published_schedule() {
        assert_eq!(waits(0.5), PUBLISHED.map(Duration::from_secs));
        assert_eq!((waits(0.5).len(), ATTEMPTS), (10, 10));
        assert_eq!(next_wait(u32::MAX, 0.5, Duration::ZERO), None);
    }

    #[test]
    fn any_jitter_gives_ten_attempts_over_72_hours() {
        for step in 0..=1000 {
            let waits = waits(f64::from(step) / 1000.0);
            for (wait, published) in waits.iter().zip(PUBLISHED) {
                let off = (wait.as_secs_f64() - published as f64).abs();
                assert!(off <= 0.2 * published as f64 + 1e-6, "{wait:?}, not {published} s ± 20 %");
            }
            let whole: Duration = waits.iter().sum();
            assert!(waits.len() == 10 && whole >= Duration::from_secs(75 * HOUR), "{whole:?}");
        }
        assert_eq!(waits(-1.0), waits(0.0));
        assert_eq!(waits(2.0), waits(1.0));
    }

    #[test]
    fn a_receiver_can_put_attempts_off_but_not_bring_them_forward() {
        let hour = Duration::from_secs(HOUR);
        assert_eq!(next_wait(1, 0.5, hour), Some(hour));
        assert_eq!(next_wait(4, 0.5, hour), Some(2 * hour));
        assert_eq!(next_wait(10, 0.5, hour), None);
    }

    #[test]
    fn deliveries_are_spread() {
        let of = |number: u32| jitter(&format!("event-{number}").parse().expect("a good id"));
        assert_eq!(of(1).to_bits(), of(1).to_bits());
        let mut tenths = [0_u32; 10];
        for number in 0..10_000 {
            tenths[(of(number) * 10.0) as usize] += 1;
        }
        assert!(tenths.iter().all(|count| (800..1200).contains(count)), "{tenths:?}");
    }
}
