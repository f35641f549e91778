//! Measurements for people, a line each with two bars, and for programs.

use std::time::Duration;

use serde_json::{Value, json};

use crate::screen::{brief, thousands};

/// Cells of the longest bar.
const WIDTH: f64 = 16.0;

/// One measurement.
pub(super) struct Row {
    pub(super) words: Option<usize>,
    /// Tokens of the input.
    pub(super) tokens: Option<u32>,
    /// Tokens that a text generator wrote for each prompt, on average.
    pub(super) written: Option<f64>,
    pub(super) at_once: usize,
    /// Predictions in the batch that one was in, on average.
    pub(super) batch: f64,
    pub(super) median: Duration,
    pub(super) p99: Duration,
    pub(super) per_second: f64,
}

impl Row {
    /// Tokens a second: those that were written, where more than the first one was, else those that were read.
    fn tokens_per_second(&self) -> Option<f64> {
        let written = self.written.filter(|written| *written > 1.0);
        written.or(self.tokens.map(f64::from)).map(|tokens| tokens * self.per_second)
    }

    pub(super) fn as_json(&self) -> Value {
        json!({
            "words": self.words,
            "tokens": self.tokens,
            "written_tokens": self.written,
            "at_once": self.at_once,
            "mean_batch": self.batch,
            "median_seconds": self.median.as_secs_f64(),
            "p99_seconds": self.p99.as_secs_f64(),
            "per_second": self.per_second,
            "tokens_per_second": self.tokens_per_second(),
        })
    }
}

/// A heading and a line for each measurement: numbers under their names, but for those that none has, and the two bars, each beside the
/// longest of all.
pub(super) fn table(rows: &[Row]) -> Vec<String> {
    let column = |name: &str, cell: &dyn Fn(&Row) -> Option<String>| {
        let cells: Vec<_> = rows.iter().map(cell).collect();
        let is_empty = cells.iter().all(Option::is_none);
        let cells = cells.into_iter().map(|cell| cell.unwrap_or_else(|| "-".to_owned()));
        let lines: Vec<_> = [name.to_owned()].into_iter().chain(cells).collect();
        let width = lines.iter().map(|line| line.chars().count()).max().unwrap_or_default();
        (!is_empty).then(|| lines.iter().map(|line| format!("{line:>width$}")).collect::<Vec<_>>())
    };
    let most = rows.iter().map(|row| row.per_second).fold(0.0, f64::max);
    let longest = rows.iter().map(|row| row.p99).max().unwrap_or_default().as_secs_f64();
    let cells = |number: f64, most: f64| (number / most.max(f64::MIN_POSITIVE) * WIDTH).round() as usize;
    let throughput = |row: &Row| Some(padded("█".repeat(cells(row.per_second, most))));
    let latency = |row: &Row| {
        let [median, p99] = [row.median, row.p99].map(|time| cells(time.as_secs_f64(), longest));
        Some(padded("█".repeat(median) + &"░".repeat(p99 - median)))
    };
    let columns = [
        column("WORDS", &|row| row.words.map(|words| words.to_string())),
        column("TOKENS", &|row| row.tokens.map(|tokens| tokens.to_string())),
        column("WRITTEN", &|row| row.written.map(|written| format!("{written:.0}"))),
        column("AT ONCE", &|row| Some(row.at_once.to_string())),
        column("BATCH", &|row| Some(format!("{:.1}", row.batch))),
        column("MEDIAN", &|row| Some(brief(row.median))),
        column("P99", &|row| Some(brief(row.p99))),
        column("PER SECOND", &|row| Some(thousands(row.per_second as u64))),
        column("TOKENS/S", &|row| row.tokens_per_second().map(|tokens| thousands(tokens as u64))),
        column(&padded("THROUGHPUT".to_owned()), &throughput),
        column(&padded("LATENCY ░ TO P99".to_owned()), &latency),
    ];
    let columns: Vec<_> = columns.into_iter().flatten().collect();
    let line = |place: usize| columns.iter().map(|column| column[place].as_str()).collect::<Vec<_>>().join("  ");
    (0..=rows.len()).map(|place| line(place).trim_end().to_owned()).collect()
}

/// From the left, as wide as the longest bar.
fn padded(bar: String) -> String {
    format!("{bar:<width$}", width = WIDTH as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(tokens: Option<u32>, written: Option<f64>, per_second: f64) -> Row {
        let [median, p99] = [4, 8].map(|rounds| Duration::from_secs_f64(f64::from(rounds) / per_second));
        Row { words: tokens.map(|_| 8), tokens, written, at_once: 4, batch: 3.5, median, p99, per_second }
    }

    #[test]
    fn bars_are_as_long_as_numbers_are_large() {
        let lines = table(&[row(None, None, 200.0), row(None, None, 50.0)]);
        assert_eq!(
            lines,
            [
                "AT ONCE  BATCH  MEDIAN     P99  PER SECOND  THROUGHPUT        LATENCY ░ TO P99",
                "      4    3.5   20 ms   40 ms         200  ████████████████  ██░░",
                "      4    3.5   80 ms  160 ms          50  ████              ████████░░░░░░░░",
            ]
        );
    }

    #[test]
    fn what_is_written_counts_once_there_is_more_than_the_first_token() {
        let rates = [(None, 90.0), (Some(1.0), 90.0), (Some(24.0), 240.0)];
        for (written, tokens_per_second) in rates {
            assert_eq!(row(Some(9), written, 10.0).tokens_per_second(), Some(tokens_per_second));
        }
        assert_eq!(row(None, None, 10.0).tokens_per_second(), None);
        let lines = table(&[row(Some(9), Some(24.0), 10.0)]);
        assert!(lines[0].starts_with("WORDS  TOKENS  WRITTEN  AT ONCE") && lines[1].contains(" 240 "), "{lines:?}");
    }
}
