//! The threads of a loaded model, and what each keeps between batches.

use std::{io, iter};

use kernels::{Cpu, Precision, Scratch, Team};

use super::{
    crew::Crew,
    deal::{Deal, deal},
};
use crate::Machine;

/// Who computes, and where.
pub(crate) struct Room<S> {
    cpu: Cpu,
    precision: Precision,
    team: Team,
    /// What is between two steps: of each member, for items that it takes alone; the first is also for what all share.
    states: Vec<S>,
    /// Of each member.
    scratch: Vec<Scratch>,
}

impl<S: Default + Send> Room<S> {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system gives none.
    pub(crate) fn new(machine: Machine, precision: Precision) -> io::Result<Self> {
        let threads = machine.threads.get();
        Ok(Self {
            cpu: machine.cpu,
            precision,
            team: Team::new(threads)?,
            states: iter::repeat_with(S::default).take(threads).collect(),
            scratch: vec![Scratch::default(); threads],
        })
    }

    /// What `forward` gives for each item of a batch, in order: of groups of items, which it is told by their places, each
    /// computed by one thread or each by all of them, whichever ends sooner. `lengths` says how many rows each item is. `None`
    /// when `forward` stopped before its end.
    pub(crate) fn run<T: Send>(
        &mut self,
        lengths: &[usize],
        forward: impl Fn(&[usize], &mut Crew<'_>, &mut S) -> Option<Vec<T>> + Sync,
    ) -> Option<Vec<T>> {
        let Self { cpu, precision, team, states, scratch } = self;
        let (cpu, precision) = (*cpu, *precision);
        let mut results: Vec<Option<T>> = lengths.iter().map(|_| None).collect();
        let mut put = |group: &[usize], found: Vec<T>| {
            group.iter().zip(found).for_each(|(item, result)| results[*item] = Some(result));
        };
        match deal(lengths, team.members()) {
            Deal::Apart(groups) => {
                let mut members: Vec<_> = states.iter_mut().zip(scratch).collect();
                let mut parts: Vec<_> = groups.into_iter().map(|group| (group, None)).collect();
                team.share(&mut members, &mut parts, |(states, scratch), (group, found)| {
                    let mut crew = Crew { cpu, precision, team: None, scratch: std::slice::from_mut(scratch) };
                    *found = forward(group, &mut crew, states);
                });
                for (group, found) in parts {
                    put(&group, found?);
                }
            }
            Deal::Together(groups) => {
                let mut crew = Crew { cpu, precision, team: Some(team), scratch };
                for group in groups {
                    let found = forward(&group, &mut crew, &mut states[0])?;
                    put(&group, found);
                }
            }
        }
        results.into_iter().collect()
    }
}
