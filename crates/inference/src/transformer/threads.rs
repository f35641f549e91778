//! Threads that share work in proportion to how fast each is.

use std::{
    io,
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use kernels::Team;

use super::pace::{Done, Pace};

/// A team, and how fast its members are.
pub(crate) struct Threads {
    pub(crate) team: Team,
    pace: Mutex<Pace>,
}

/// One that does portions.
struct Member<'a, M> {
    place: usize,
    own: &'a mut M,
    done: Done,
}

impl Threads {
    /// So many, at least one; the caller is one of them.
    ///
    /// # Errors
    /// When the system gives none.
    pub(crate) fn new(threads: usize) -> io::Result<Self> {
        let team = Team::new(threads)?;
        let pace = Mutex::new(Pace::even(team.members()));
        Ok(Self { team, pace })
    }

    /// The share of each thread of what all have to do, together 1.
    pub(crate) fn shares(&self) -> Vec<f32> {
        self.pace().shares()
    }

    /// Cuts so many units into what each thread does in the same time, one after the other.
    pub(crate) fn cut(&self, units: usize) -> Vec<Range<usize>> {
        self.pace().cut(units)
    }

    /// Does every portion once; gives all of them back when they are done, in any order. There are portions for each thread, first to last: it
    /// takes its own, and when these are done, others'. Each has an item of `members` to itself. How fast threads are is learned from the
    /// `units` of portions.
    ///
    /// # Panics
    /// As [`Team::share`].
    pub(crate) fn share<M: Send, P: Send>(
        &self,
        members: &mut [M],
        portions: Vec<Vec<P>>,
        units: impl Fn(&P) -> usize + Sync,
        work: impl Fn(&mut M, &mut P) + Sync,
    ) -> Vec<P> {
        self.share_until(members, portions, units, work, || false)
    }

    /// The same, where the caller may leave the last portions to others, as with [`Team::share_until`].
    ///
    /// # Panics
    /// As [`Team::share_until`].
    pub(crate) fn share_until<M: Send, P: Send>(
        &self,
        members: &mut [M],
        portions: Vec<Vec<P>>,
        units: impl Fn(&P) -> usize + Sync,
        work: impl Fn(&mut M, &mut P) + Sync,
        leaves: impl FnMut() -> bool,
    ) -> Vec<P> {
        let mut parts: Vec<Option<P>> = portions.iter().flatten().map(|_| None).collect();
        let portions = Mutex::new(portions);
        let mut members: Vec<_> =
            members.iter_mut().enumerate().map(|(place, own)| Member { place, own, done: Done::default() }).collect();
        let does = |member: &mut Member<'_, M>, part: &mut Option<P>| {
            // There are as many as there are parts.
            let Some(portion) = take(&mut lock(&portions), member.place) else { return };
            let portion = part.insert(portion);
            let begun = Instant::now();
            work(member.own, portion);
            member.done.time += begun.elapsed();
            member.done.units += units(portion);
        };
        self.team.share_until(&mut members, &mut parts, does, leaves);
        let done: Vec<Done> = members.iter().map(|member| member.done).collect();
        self.pace().learn(&done);
        parts.into_iter().flatten().collect()
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        lock(&self.pace)
    }
}

/// A thread's first portion, or if it has none the last one of whoever has most.
fn take<P>(portions: &mut [Vec<P>], thread: usize) -> Option<P> {
    match portions.get_mut(thread) {
        Some(own) if !own.is_empty() => Some(own.remove(0)),
        _ => portions.iter_mut().max_by_key(|others| others.len())?.pop(),
    }
}

/// Nothing is left half done where a lock is held.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn every_portion_is_done_once_whoever_it_was_meant_for() {
        let threads = Threads::new(3).expect("threads");
        let portions = |count: usize| (0..3).map(|place| (place * count..(place + 1) * count).collect()).collect();
        for round in 0..300 {
            let count = round % 7;
            let mut done = threads.share(&mut [(); 3], portions(count), |_| 1, |(), portion: &mut usize| *portion += 1);
            done.sort_unstable();
            assert!(done.into_iter().eq(1..=3 * count));
        }
        // All of them are one thread's.
        let mut done = threads.share(&mut [(); 3], vec![vec![], vec![], vec![1, 2, 3]], |_| 1, |(), _| ());
        done.sort_unstable();
        assert_eq!(done, [1, 2, 3]);
    }

    #[test]
    fn threads_begin_with_their_own_and_go_on_with_others() {
        let threads = Threads::new(2).expect("threads");
        let [caller_ended, helper_came] = [const { AtomicBool::new(false) }; 2];
        let wait_for = |flag: &AtomicBool| {
            while !flag.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        };
        // The helper stays with its first portion until the caller has done all others.
        let work = |place: &mut usize, (portion, by): &mut (char, usize)| {
            *by = *place;
            if *place == 1 {
                helper_came.store(true, Ordering::SeqCst);
                wait_for(&caller_ended);
            } else {
                wait_for(&helper_came);
                caller_ended.fetch_or(*portion == 'd', Ordering::SeqCst);
            }
        };
        let portions = vec![vec![('a', 9), ('b', 9)], vec![('c', 9), ('d', 9), ('e', 9)]];
        let mut done = threads.share(&mut [0, 1], portions, |_| 1, work);
        done.sort_unstable();
        assert_eq!(done, [('a', 0), ('b', 0), ('c', 1), ('d', 0), ('e', 0)]);
    }

    #[test]
    fn shares_follow_how_fast_threads_are() {
        let threads = Threads::new(2).expect("threads");
        assert_eq!(threads.cut(12), [0..6, 6..12]);
        let both_are_there = std::sync::Barrier::new(2);
        for _ in 0..8 {
            let portions = threads.cut(1000).into_iter().map(|range| vec![range]).collect();
            // The second sleeps three times as long for each unit.
            let work = |slowness: &mut u64, range: &mut Range<usize>| {
                both_are_there.wait();
                std::thread::sleep(std::time::Duration::from_micros(*slowness * 20 * range.len() as u64));
            };
            threads.share(&mut [1, 3], portions, ExactSizeIterator::len, work);
        }
        let shares = threads.shares();
        assert!(shares[0] > 0.6 && (shares[0] + shares[1] - 1.0).abs() < 1e-3, "{shares:?}");
    }
}
