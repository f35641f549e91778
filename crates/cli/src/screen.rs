//! How numbers look to people.

use std::time::Duration;

/// `12 ms`, or `0.4 ms` where whole ones would say nothing.
pub(crate) fn milliseconds(time: Duration) -> String {
    let milliseconds = time.as_secs_f64() * 1000.0;
    if milliseconds < 10.0 { format!("{milliseconds:.1} ms") } else { format!("{milliseconds:.0} ms") }
}

/// The same, and `12 µs` below that.
pub(crate) fn brief(time: Duration) -> String {
    if time < Duration::from_millis(1) { format!("{} µs", time.as_micros()) } else { milliseconds(time) }
}

/// `12,345`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|group| str::from_utf8(group).ok()).collect();
    groups.join(",")
}

/// `980 B`, `12.3 MB`: in thousands, as disks are sold.
pub(crate) fn bytes(number: u64) -> String {
    let mut amount = number as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if amount < 999.5 {
            return if amount < 99.95 && unit != "B" {
                format!("{amount:.1} {unit}")
            } else {
                format!("{amount:.0} {unit}")
            };
        }
        amount /= 1000.0;
    }
    format!("{amount:.1} TB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(milliseconds(Duration::from_micros(1_240)), "1.2 ms");
        assert_eq!(milliseconds(Duration::from_micros(412_400)), "412 ms");
        assert_eq!([999, 1_000].map(|micros| brief(Duration::from_micros(micros))), ["999 µs", "1.0 ms"]);
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
        let sizes = [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (90_868_376, "90.9 MB"), (999_999, "1.0 MB")];
        for (number, text) in sizes.into_iter().chain([(123_456, "123 kB"), (7_000_000_000_000, "7.0 TB")]) {
            assert_eq!(bytes(number), text);
        }
    }
}
