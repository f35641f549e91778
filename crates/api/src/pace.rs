//! How fast predictions are served: what runs have ended of late, counted bit by bit, so that each is counted once.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use prediction::{ModelName, Version};
use store::VersionCount;
use time::OffsetDateTime;

/// The time that is looked back on.
const WINDOW: Duration = Duration::from_secs(60);
/// Ends are counted this long after their time: until then the transactions that write them may not have committed.
const LAG: Duration = Duration::from_millis(500);
/// A line that had work for less than this says too little: what was taken first has not ended yet.
const TELLING: Duration = Duration::from_secs(3);

/// The line of a version.
pub(crate) type Line = (ModelName, Version);

/// How fast a line is served, in predictions per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Rate {
    /// Over the last minute.
    pub(crate) last_minute: f64,
    /// Over those parts of it in which predictions waited, if these say enough: what workers can do. Where nothing has ended for a minute
    /// and something has waited all the time, what this was when something ended last.
    pub(crate) at_work: Option<f64>,
}

impl Rate {
    /// The rate at which what waits is expected to be served, if anything is: a guess, good enough to tell people.
    pub(crate) fn expected(self) -> Option<f64> {
        (self.last_minute > 0.0).then(|| self.at_work.unwrap_or(self.last_minute))
    }

    /// What workers can do, if they do anything.
    pub(crate) fn served(self) -> Option<f64> {
        self.at_work.filter(|_| self.last_minute > 0.0)
    }
}

/// What ended within the last minute.
#[derive(Default)]
pub(crate) struct Pace {
    spans: VecDeque<Span>,
    /// By the database's clock, what ended until here has been counted.
    until: Option<OffsetDateTime>,
    /// The lines in which predictions waited at the last look.
    at_work: HashSet<Line>,
    /// Of these, the rates at work when something ended last: they outlast the minute in which nothing ends any more, so that a line which
    /// nobody serves grows no further than one that is served.
    last_at_work: HashMap<Line, f64>,
}

/// A stretch of time, and what ended in it.
struct Span {
    took: Duration,
    finished: HashMap<Line, u64>,
    /// The lines in which predictions waited when it began and when it ended.
    at_work: HashSet<Line>,
}

impl Pace {
    /// The stretch to count next, when the database's clock shows `now`: from the end of the last one, at most a minute long.
    /// None when that clock has been set back.
    pub(crate) fn next(&mut self, now: OffsetDateTime) -> Option<(OffsetDateTime, OffsetDateTime)> {
        let until = now - LAG;
        let since = self.until.map_or(until - WINDOW, |last| last.max(until - WINDOW));
        if since >= until {
            self.until = None;
            return None;
        }
        Some((since, until))
    }

    /// Takes what ended in a stretch, and which lines have work now.
    pub(crate) fn count<'a>(
        &mut self,
        (since, until): (OffsetDateTime, OffsetDateTime),
        finished: Vec<VersionCount>,
        waiting: impl IntoIterator<Item = &'a VersionCount>,
    ) {
        let finished = finished.into_iter().map(|line| ((line.model, line.version), line.count)).collect();
        let waiting: HashSet<Line> =
            waiting.into_iter().map(|line| (line.model.clone(), line.version.clone())).collect();
        let at_work = self.at_work.intersection(&waiting).cloned().collect();
        self.spans.push_back(Span { took: (until - since).unsigned_abs(), finished, at_work });
        self.at_work = waiting;
        self.until = Some(until);
        let mut took: Duration = self.spans.iter().map(|span| span.took).sum();
        while let Some(oldest) = self.spans.front()
            && took - oldest.took >= WINDOW
        {
            took -= oldest.took;
            self.spans.pop_front();
        }
        let found = self.found();
        let ended = self.spans.back().into_iter().flat_map(|span| &span.finished).map(|(line, _)| line);
        let rate = |line: &Line| Some((line.clone(), found.get(line)?.at_work?));
        self.last_at_work.extend(ended.filter_map(rate));
        self.last_at_work.retain(|line, _| self.at_work.contains(line));
    }

    /// The rates of all lines that anything is known of.
    pub(crate) fn rates(&self) -> HashMap<Line, Rate> {
        let mut rates = self.found();
        for (line, rate) in &self.last_at_work {
            rates.entry(line.clone()).or_default().at_work.get_or_insert(*rate);
        }
        rates
    }

    /// What the last minute says.
    fn found(&self) -> HashMap<Line, Rate> {
        let took: Duration = self.spans.iter().map(|span| span.took).sum();
        let mut finished: HashMap<&Line, u64> = HashMap::new();
        let mut at_work: HashMap<&Line, (u64, Duration)> = HashMap::new();
        for span in &self.spans {
            for (line, count) in &span.finished {
                *finished.entry(line).or_default() += count;
            }
            for line in &span.at_work {
                let (count, busy) = at_work.entry(line).or_default();
                *count += span.finished.get(line).copied().unwrap_or(0);
                *busy += span.took;
            }
        }
        let rate = |(line, count): (&Line, u64)| {
            let telling = at_work.get(line).filter(|(count, busy)| *count > 0 && *busy >= TELLING);
            let at_work = telling.map(|(count, busy)| *count as f64 / busy.as_secs_f64());
            (line.clone(), Rate { last_minute: count as f64 / took.as_secs_f64(), at_work })
        };
        finished.into_iter().map(rate).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(count: u64) -> Vec<VersionCount> {
        let (model, version) = line();
        vec![VersionCount { model, version, count }]
    }

    fn line() -> Line {
        ("augur/echo".parse().expect("a name"), "a".repeat(64).parse().expect("a version"))
    }

    /// Lets so many seconds pass, in which so many end; afterwards `waiting` wait.
    fn pass(pace: &mut Pace, now: &mut OffsetDateTime, seconds: u64, finished: u64, waiting: u64) {
        *now += Duration::from_secs(seconds);
        let stretch = pace.next(*now).expect("time goes on");
        let some = |number| if number > 0 { count(number) } else { Vec::new() };
        pace.count(stretch, some(finished), &some(waiting));
    }

    #[test]
    fn idle_time_does_not_slow_workers_down() {
        let (mut pace, mut now) = (Pace::default(), OffsetDateTime::UNIX_EPOCH);
        pass(&mut pace, &mut now, 0, 0, 0);
        pass(&mut pace, &mut now, 50, 0, 10);
        pass(&mut pace, &mut now, 2, 20, 10);
        // What was served in 52 of 112 seconds; two seconds of work say too little.
        assert_eq!(pace.rates()[&line()], Rate { last_minute: 20.0 / 112.0, at_work: None });
        pass(&mut pace, &mut now, 2, 20, 10);
        assert_eq!(pace.rates()[&line()].at_work, Some(10.0));
        assert_eq!(pace.rates()[&line()].expected(), Some(10.0));
        pass(&mut pace, &mut now, 2, 0, 10);
        assert_eq!(pace.rates()[&line()].at_work, Some(40.0 / 6.0));
    }

    #[test]
    fn what_workers_could_do_is_remembered_while_nobody_does_it() {
        let (mut pace, mut now) = (Pace::default(), OffsetDateTime::UNIX_EPOCH);
        pass(&mut pace, &mut now, 0, 0, 10);
        pass(&mut pace, &mut now, 4, 40, 10);
        for _ in 0..300 {
            pass(&mut pace, &mut now, 1, 0, 10);
        }
        let rate = pace.rates()[&line()];
        assert_eq!(rate, Rate { last_minute: 0.0, at_work: Some(10.0) });
        assert_eq!((rate.expected(), rate.served()), (None, None), "nobody is told when it ends");
        // Once it is served again only that counts, and who has nothing to do is forgotten.
        for _ in 0..60 {
            pass(&mut pace, &mut now, 1, 3, 10);
        }
        assert_eq!(pace.rates()[&line()].at_work, Some(3.0));
        for _ in 0..61 {
            pass(&mut pace, &mut now, 1, 0, 0);
        }
        assert_eq!(pace.rates().get(&line()), None);
    }

    #[test]
    fn a_minute_is_remembered_and_each_end_counted_once() {
        let (mut pace, mut now) = (Pace::default(), OffsetDateTime::UNIX_EPOCH);
        let first = pace.next(now).expect("time goes on");
        assert_eq!(first.1 - first.0, WINDOW);
        pass(&mut pace, &mut now, 0, 60, 0);
        assert_eq!(pace.rates()[&line()].last_minute, 1.0);
        let second = pace.next(now + Duration::from_secs(1)).expect("time goes on");
        assert_eq!(second.0, first.1);
        for _ in 0..60 {
            pass(&mut pace, &mut now, 1, 3, 0);
        }
        assert_eq!(pace.rates()[&line()], Rate { last_minute: 3.0, at_work: None });
        // After a long silence only the last minute is counted.
        let late = pace.next(now + Duration::from_secs(3600)).expect("time goes on");
        assert_eq!(late.1 - late.0, WINDOW);
    }

    #[test]
    fn a_clock_that_is_set_back_begins_anew() {
        let (mut pace, mut now) = (Pace::default(), OffsetDateTime::UNIX_EPOCH);
        pass(&mut pace, &mut now, 10, 1, 0);
        now -= Duration::from_secs(5);
        assert_eq!(pace.next(now), None);
        assert!(pace.next(now).is_some());
    }
}
