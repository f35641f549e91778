//! How many predictions wait, between two counts.

use std::collections::HashMap;

use crate::pace::Line;

/// How much waits, in all or of one tenant.
#[derive(Default)]
pub(super) struct Filled {
    pub(super) count: Count,
    /// By version; kept only for the bound on work.
    pub(super) lines: HashMap<Line, Count>,
}

/// How many wait.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    /// When they were last counted.
    counted: u64,
    /// Let in since, or so shortly before that the count may have missed them.
    since: u64,
    /// Of these, how many are still on their way into the store.
    on_the_way: u64,
    /// Of these, how many were in the store when the count that is under way began.
    settled: u64,
}

impl Count {
    /// At most so many wait, unless others let some in.
    pub(super) fn at_most(self) -> u64 {
        self.counted + self.since
    }

    pub(super) fn let_in(&mut self) {
        self.since += 1;
        self.on_the_way += 1;
    }

    pub(super) fn arrive(&mut self, is_in_queue: bool) {
        self.on_the_way -= 1;
        if !is_in_queue {
            self.since -= 1;
        }
    }

    pub(super) fn begin_counting(&mut self) {
        self.settled = self.since - self.on_the_way;
    }

    pub(super) fn end_counting(&mut self, counted: u64) {
        self.counted = counted;
        self.since = self.since.saturating_sub(std::mem::take(&mut self.settled)).max(self.on_the_way);
    }
}

impl Filled {
    /// All its counts.
    pub(super) fn counts(&mut self) -> impl Iterator<Item = &mut Count> {
        self.lines.values_mut().chain([&mut self.count])
    }

    /// Its own count and that of a line.
    pub(super) fn counts_of(&mut self, line: Option<&Line>) -> impl Iterator<Item = &mut Count> {
        let of_line = line.and_then(|line| self.lines.get_mut(line));
        of_line.into_iter().chain([&mut self.count])
    }

    pub(super) fn let_in(&mut self, line: Option<&Line>) {
        if let Some(line) = line
            && !self.lines.contains_key(line)
        {
            self.lines.insert(line.clone(), Count::default());
        }
        self.counts_of(line).for_each(Count::let_in);
    }

    /// Adds to what was counted.
    pub(super) fn add(&mut self, line: Option<&Line>, counted: u64) {
        self.count.counted += counted;
        if let Some(line) = line {
            self.lines.entry(line.clone()).or_default().counted += counted;
        }
    }

    pub(super) fn forget_empty(&mut self) -> bool {
        self.lines.retain(|_, count| count.at_most() > 0);
        self.count.at_most() > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_the_way_is_counted_until_a_count_has_surely_seen_it() {
        let mut count = Count::default();
        for _ in 0..5 {
            count.let_in();
        }
        count.arrive(true);
        count.arrive(false);
        assert_eq!(count.at_most(), 4);
        count.begin_counting();
        // One of the three arrives while the count is under way: it may have been seen or not.
        count.arrive(true);
        count.let_in();
        count.end_counting(1);
        assert_eq!(count.at_most(), 1 + 4);
        count.arrive(true);
        count.arrive(true);
        count.arrive(true);
        count.begin_counting();
        count.end_counting(5);
        assert_eq!((count.at_most(), count.since), (5, 0));
    }

    #[test]
    fn a_count_that_fails_forgets_nothing() {
        let mut count = Count::default();
        count.let_in();
        count.arrive(true);
        count.begin_counting();
        count.begin_counting();
        assert_eq!(count.at_most(), 1);
        // Refused after the count began: less than nothing is left of what was let in since.
        count.let_in();
        count.arrive(false);
        count.end_counting(0);
        assert_eq!(count.at_most(), 0);
    }
}
