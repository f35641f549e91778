//! How far a download is, on one line of a terminal that is written again and again; nothing where nobody watches.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use crate::screen::bytes;

/// Between two updates: often enough to look alive.
const EVERY: Duration = Duration::from_millis(100);
/// Cells of the bar.
const WIDTH: u64 = 24;

/// The progress of several files as one.
pub(crate) struct Progress {
    is_shown: bool,
    all: u64,
    done: u64,
    /// Of `done`, what had come in earlier attempts.
    before: u64,
    begun: Instant,
    shown: Option<Instant>,
}

impl Progress {
    /// Of so many bytes.
    pub(crate) fn of(all: u64) -> Self {
        let is_shown = io::stderr().is_terminal();
        Self { is_shown, all, done: 0, before: 0, begun: Instant::now(), shown: None }
    }

    /// So many more were there already.
    pub(crate) fn had(&mut self, bytes: u64) {
        self.before += bytes;
        self.done += bytes;
    }

    /// So many more have come.
    pub(crate) fn came(&mut self, bytes: u64) {
        self.done += bytes;
        if self.shown.is_none_or(|shown| shown.elapsed() >= EVERY) {
            self.shown = Some(Instant::now());
            self.show();
        }
    }

    /// What came of a file is worth nothing: it begins again.
    pub(crate) fn lost(&mut self, bytes: u64) {
        self.done = self.done.saturating_sub(bytes);
        self.before = self.before.min(self.done);
    }

    fn show(&self) {
        if self.is_shown {
            let line = self.line(self.begun.elapsed());
            // A terminal that is gone is no reason to stop.
            let _ = write!(io::stderr(), "\r{line}\x1b[K").and_then(|()| io::stderr().flush());
        }
    }

    fn line(&self, elapsed: Duration) -> String {
        let share = |of: u64| (self.done.min(self.all) * of).checked_div(self.all).unwrap_or(of);
        let filled = share(WIDTH) as usize;
        let rate = (self.done - self.before) as f64 / elapsed.as_secs_f64().max(0.001);
        format!(
            "{}{} {:>3} %  {} of {}  {}/s",
            "█".repeat(filled),
            "░".repeat(WIDTH as usize - filled),
            share(100),
            bytes(self.done),
            bytes(self.all),
            bytes(rate as u64)
        )
    }
}

impl Drop for Progress {
    /// Leaves the line as if nothing had been there.
    fn drop(&mut self) {
        if self.is_shown && self.shown.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_far_and_how_fast() {
        let mut progress = Progress::of(2_000_000);
        progress.had(500_000);
        progress.came(1_000_000);
        let line = progress.line(Duration::from_secs(2));
        assert_eq!(line, format!("{}{}  75 %  1.5 MB of 2.0 MB  500 kB/s", "█".repeat(18), "░".repeat(6)));
        progress.lost(1_500_000);
        assert!(progress.line(Duration::from_secs(2)).contains("  0 %  0 B of 2.0 MB  0 B/s"));
        assert!(Progress::of(0).line(Duration::ZERO).contains("100 %"), "nothing to do is done");
    }
}
