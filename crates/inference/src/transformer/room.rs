//! The threads of a loaded model, and what each keeps between batches.

use std::{
    io, iter,
    sync::{Mutex, PoisonError},
};

use kernels::{Cpu, Precision, Scratch, Team};

use super::{
    crew::Crew,
    deal::{Deal, deal},
};
use crate::{Machine, turn::Turn};

/// Batches under way at most: one that ends and the next.
pub(crate) const UNDER_WAY: usize = 2;

/// Who computes, and where.
pub(crate) struct Room<S> {
    cpu: Cpu,
    precision: Precision,
    team: Team,
    /// Those that no batch uses.
    desks: Mutex<Vec<Desk<S>>>,
}

/// What a batch is computed with.
struct Desk<S> {
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
        let team = Team::new(machine.threads.get())?;
        Ok(Self { cpu: machine.cpu, precision, team, desks: Mutex::default() })
    }

    /// What `forward` gives for each item of a batch, in order: of groups of items, which it is told by their places, each
    /// computed by one thread or each by all of them, whichever ends sooner. `lengths` says how many rows each item is. `None`
    /// when `forward` stopped before its end. Once some thread would have nothing to do, the turn is passed.
    pub(crate) fn run<T: Send>(
        &self,
        lengths: &[usize],
        turn: &mut Turn<'_>,
        forward: impl Fn(&[usize], &mut Crew<'_>, &mut S) -> Option<Vec<T>> + Sync,
    ) -> Option<Vec<T>> {
        let (cpu, precision, team) = (self.cpu, self.precision, &self.team);
        // One that a panic left is not put back.
        let mut desk = self.desks().pop().unwrap_or_else(|| Desk::new(team.members()));
        let Desk { states, scratch } = &mut desk;
        let mut results: Vec<Option<T>> = lengths.iter().map(|_| None).collect();
        let mut put = |group: &[usize], found: Option<Vec<T>>| {
            group.iter().zip(found.into_iter().flatten()).for_each(|(item, result)| results[*item] = Some(result));
        };
        match deal(lengths, team.members()) {
            Deal::Apart(groups) => {
                let mut members: Vec<_> = states.iter_mut().zip(scratch).collect();
                let mut parts: Vec<_> = groups.into_iter().map(|group| (group, None)).collect();
                let work = |(states, scratch): &mut (&mut S, &mut Scratch), (group, found): &mut (Vec<usize>, _)| {
                    let mut crew = Crew { cpu, precision, team: None, scratch: std::slice::from_mut(scratch) };
                    *found = forward(group, &mut crew, states);
                };
                team.share_until(&mut members, &mut parts, work, || turn.pass());
                parts.into_iter().for_each(|(group, found)| put(&group, found));
            }
            Deal::Together(groups) => {
                let mut crew = Crew { cpu, precision, team: Some(team), scratch };
                groups.into_iter().for_each(|group| put(&group, forward(&group, &mut crew, &mut states[0])));
            }
        }
        self.desks().push(desk);
        results.into_iter().collect()
    }

    fn desks(&self) -> std::sync::MutexGuard<'_, Vec<Desk<S>>> {
        self.desks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Default> Desk<S> {
    fn new(members: usize) -> Self {
        let states = iter::repeat_with(S::default).take(members).collect();
        Self { states, scratch: vec![Scratch::default(); members] }
    }
}
