//! The threads of a loaded model, and what each keeps between batches.

use std::{
    array, io, iter, mem,
    num::NonZeroUsize,
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
};

use kernels::{Cpu, Precision, Scratch};

use super::{
    crew::Crew,
    deal::{Deal, deal},
    threads::Threads,
};
use crate::{Machine, turn::Turn};

/// Batches under way at most: one that ends and the next.
pub(crate) const UNDER_WAY: usize = 2;

/// Who computes, and where.
pub(crate) struct Room<S> {
    cpu: Cpu,
    precision: Precision,
    threads: Threads,
    /// Of each thread.
    desks: Vec<Mutex<Desk<S>>>,
}

/// What one thread computes with.
#[derive(Default)]
struct Desk<S> {
    /// What is between two steps.
    states: S,
    scratch: Scratch,
}

impl<S: Default + Send> Room<S> {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system gives none.
    pub(crate) fn new(machine: Machine, precision: Precision) -> io::Result<Self> {
        let threads = Threads::new(machine.threads.get())?;
        let desks = iter::repeat_with(Mutex::default).take(threads.team.members()).collect();
        Ok(Self { cpu: machine.cpu, precision, threads, desks })
    }

    /// Other threads, so many, that compute as these do.
    ///
    /// # Errors
    /// When the system gives none.
    pub(crate) fn beside(&self, threads: NonZeroUsize) -> io::Result<Self> {
        Self::new(Machine { cpu: self.cpu, threads, ..Machine::default() }, self.precision)
    }

    /// What `forward` gives for each item of a batch, in order: of groups of items, which it is told by their places, each
    /// computed by one thread or each by all of them, whichever ends sooner. `lengths` says how many rows each item is. `None`
    /// when `forward` stopped before its end. Where groups are computed by one thread each, the turn is passed once some thread
    /// would have nothing to do.
    pub(crate) fn run<T: Send>(
        &self,
        lengths: &[usize],
        turn: &mut Turn<'_>,
        forward: impl Fn(&[usize], &mut Crew<'_>, &mut S) -> Option<Vec<T>> + Sync,
    ) -> Option<Vec<T>> {
        let mut results: Vec<Option<T>> = lengths.iter().map(|_| None).collect();
        let mut put = |group: &[usize], found: Vec<T>| {
            group.iter().zip(found).for_each(|(item, result)| results[*item] = Some(result));
        };
        match deal(lengths, &self.threads.shares()) {
            Deal::Apart(portions) => {
                let mut members: Vec<usize> = self.members().collect();
                let portions =
                    portions.into_iter().map(|groups| groups.into_iter().map(|group| (group, None)).collect());
                let rows = |(group, _): &(Vec<usize>, _)| group.iter().map(|item| lengths[*item]).sum();
                let work = |member: &mut usize, (group, found): &mut (Vec<usize>, _)| {
                    let Desk { states, scratch } = &mut *self.desk(*member);
                    *found = forward(group, &mut self.crew(None, array::from_mut(scratch)), states);
                };
                let done = self.threads.share_until(&mut members, portions.collect(), rows, work, || turn.pass());
                for (group, found) in done {
                    put(&group, found?);
                }
            }
            Deal::Together(groups) => {
                // What is left of the batch before is done first, by whoever is free: its desks are needed.
                self.threads.team.help();
                let mut states = mem::take(&mut self.desk(0).states);
                let mut scratch: Vec<_> =
                    self.members().map(|member| mem::take(&mut self.desk(member).scratch)).collect();
                let mut crew = self.crew(Some(&self.threads), &mut scratch);
                for group in groups {
                    let Some(found) = forward(&group, &mut crew, &mut states) else { break };
                    put(&group, found);
                }
                self.desk(0).states = states;
                self.members().zip(scratch).for_each(|(member, scratch)| self.desk(member).scratch = scratch);
            }
        }
        results.into_iter().collect()
    }

    fn members(&self) -> Range<usize> {
        0..self.desks.len()
    }

    fn crew<'a>(&self, threads: Option<&'a Threads>, scratch: &'a mut [Scratch]) -> Crew<'a> {
        Crew { cpu: self.cpu, precision: self.precision, threads, scratch, keeps_context: false }
    }

    /// What a panic left there is written anew before it is read.
    fn desk(&self, member: usize) -> MutexGuard<'_, Desk<S>> {
        self.desks[member].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
