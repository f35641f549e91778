//! How fast threads are beside each other. Processors of a machine may differ, most of all virtual ones: whoever else uses a core takes half of
//! it, or more of its matrix units, and for how long is not known.

use std::{ops::Range, time::Duration};

/// A piece of work that took so long is believed as much as all before it.
const MEMORY: Duration = Duration::from_millis(3);

/// Shares that differ less from equal ones, in parts of these, are measured as unequal by chance.
const CHANCE: f32 = 0.1;

/// No share is smaller, in parts of an equal one: who gets nothing could not show that it has become faster.
const LEAST: f32 = 0.25;

/// The share of a piece of work of each thread with which all end at the same time; together they are 1.
#[derive(Clone, Debug)]
pub(crate) struct Pace(Vec<f32>);

/// What a thread did, and how long that took it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    pub(crate) units: usize,
    pub(crate) time: Duration,
}

impl Pace {
    /// Of so many threads, at least one, of which nothing is known.
    pub(crate) fn even(threads: usize) -> Self {
        Self(vec![1.0 / threads as f32; threads])
    }

    /// The share of each thread.
    pub(crate) fn shares(&self) -> Vec<f32> {
        let even = 1.0 / self.0.len() as f32;
        let is_chance = self.0.iter().all(|share| (share - even).abs() < CHANCE * even);
        if is_chance { vec![even; self.0.len()] } else { self.0.clone() }
    }

    /// Cuts so many units into what each thread gets, one after the other.
    pub(crate) fn cut(&self, units: usize) -> Vec<Range<usize>> {
        let (mut sum, mut begin) = (0.0, 0);
        let shares = self.shares();
        let last = shares.len() - 1;
        let cut = shares.iter().enumerate().map(|(thread, share)| {
            sum += share;
            // Rounding may make the sum of all less than 1.
            let end = if thread == last { units } else { ((sum * units as f32).round() as usize).min(units) };
            let range = begin..end;
            begin = end;
            range
        });
        cut.collect()
    }

    /// Learns from a piece of work, if every thread did something of it.
    pub(crate) fn learn(&mut self, done: &[Done]) {
        if done.iter().any(|done| done.units == 0 || done.time.is_zero()) {
            return;
        }
        let speed = |done: &Done| done.units as f32 / done.time.as_secs_f32();
        let all: f32 = done.iter().map(speed).sum();
        let least = LEAST / self.0.len() as f32;
        let longest = done.iter().map(|done| done.time).max().unwrap_or_default().as_secs_f32();
        let believed = longest / (longest + MEMORY.as_secs_f32());
        for (share, done) in self.0.iter_mut().zip(done) {
            *share = (*share * (1.0 - believed) + speed(done) / all * believed).max(least);
        }
        let all: f32 = self.0.iter().sum();
        self.0.iter_mut().for_each(|share| *share /= all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What threads of these speeds, in units a millisecond, do of a piece, each with 50 microseconds of preparing it.
    fn run(pace: &Pace, units: usize, speeds: &[f32]) -> Vec<Done> {
        let run = |(range, speed): (Range<usize>, &f32)| {
            let micros = 50.0 + range.len() as f32 * 1e3 / speed;
            Done { units: range.len(), time: Duration::from_nanos((micros * 1e3) as u64) }
        };
        pace.cut(units).into_iter().zip(speeds).map(run).collect()
    }

    const UNITS: usize = 1000;

    /// What each gets of twelve units after so many pieces of about a millisecond.
    fn learned(pace: &mut Pace, pieces: usize, speeds: &[f32]) -> Vec<usize> {
        for _ in 0..pieces {
            let done = run(pace, UNITS, speeds);
            pace.learn(&done);
        }
        pace.cut(12).into_iter().map(|range| range.len()).collect()
    }

    #[test]
    fn everything_is_cut_once() {
        for threads in [1, 2, 3, 16] {
            let mut pace = Pace::even(threads);
            for step in 0..20 {
                for units in [0, 1, 2, 12, 48, 1000] {
                    let cut = pace.cut(units);
                    assert_eq!(cut.len(), threads);
                    assert!(cut.iter().cloned().flatten().eq(0..units), "{cut:?}");
                }
                let speeds: Vec<f32> =
                    (0..threads).map(|thread| 100.0 + (thread * 7 + step) as f32 % 5.0 * 100.0).collect();
                pace.learn(&run(&pace, UNITS, &speeds));
            }
        }
    }

    #[test]
    fn threads_get_what_they_do_in_the_same_time_and_lose_it_when_they_slow_down() {
        let mut pace = Pace::even(2);
        assert_eq!(learned(&mut pace, 0, &[]), [6, 6]);
        assert_eq!(learned(&mut pace, 20, &[1000.0, 500.0]), [8, 4]);
        assert_eq!(learned(&mut pace, 20, &[500.0, 1500.0]), [3, 9]);
        assert_eq!(learned(&mut pace, 20, &[1000.0, 1000.0]), [6, 6]);
        let mut pace = Pace::even(3);
        assert_eq!(learned(&mut pace, 20, &[500.0, 500.0, 1000.0]), [3, 3, 6]);
    }

    #[test]
    fn small_differences_are_chance() {
        let mut pace = Pace::even(2);
        for speed in [920.0, 1080.0, 1050.0, 900.0, 950.0] {
            pace.learn(&run(&pace, UNITS, &[1000.0, speed]));
            assert_eq!(pace.cut(UNITS), [0..UNITS / 2, UNITS / 2..UNITS]);
        }
    }

    #[test]
    fn short_pieces_say_little() {
        let mut pace = Pace::even(2);
        let done = |micros| Done { units: 10, time: Duration::from_micros(micros) };
        pace.learn(&[done(10), done(40)]);
        assert_eq!(pace.cut(UNITS), [0..UNITS / 2, UNITS / 2..UNITS]);
        pace.learn(&[done(10_000), done(40_000)]);
        assert!(pace.cut(UNITS)[0].len() > UNITS * 3 / 4);
    }

    #[test]
    fn a_thread_that_stood_still_comes_back() {
        let mut pace = Pace::even(2);
        for _ in 0..50 {
            pace.learn(&run(&pace, UNITS, &[1000.0, 1.0]));
        }
        assert!(!pace.cut(12)[1].is_empty(), "it would never get anything again");
        assert_eq!(learned(&mut pace, 40, &[1000.0, 1000.0]), [6, 6]);
    }

    #[test]
    fn nothing_is_learned_from_work_that_one_thread_did() {
        let mut pace = Pace::even(2);
        let time = Duration::from_millis(100);
        pace.learn(&[Done { units: 10, time }, Done::default()]);
        assert_eq!(pace.cut(10), [0..5, 5..10]);
    }
}
