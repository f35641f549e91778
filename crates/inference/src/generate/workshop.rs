//! The threads of a model's engine, and what each needs to compute with.

use std::io;

use kernels::{Precision, Scratch};

use crate::{
    Machine,
    transformer::{Crew, Threads},
};

/// Threads and their scratch.
pub(super) struct Workshop {
    machine: Machine,
    threads: Threads,
    scratch: Vec<Scratch>,
    /// Scores of attention, one vector for each member.
    scores: Vec<Vec<f32>>,
}

impl Workshop {
    /// As many threads as the machine gives each model; the caller is one of them.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn new(machine: Machine) -> io::Result<Self> {
        let members = machine.threads.get();
        let scratch = (0..members).map(|_| Scratch::default()).collect();
        Ok(Self { machine, threads: Threads::new(members)?, scratch, scores: vec![Vec::new(); members] })
    }

    /// Those who multiply.
    pub(super) fn crew(&mut self) -> Crew<'_> {
        Crew {
            cpu: self.machine.cpu,
            precision: Precision::F32,
            threads: Some(&self.threads),
            scratch: &mut self.scratch,
            keeps_context: false,
        }
    }

    /// Does every part, each by whichever thread is free.
    pub(super) fn share<P: Send>(&mut self, parts: &mut [P], work: impl Fn(&mut Vec<f32>, &mut P) + Sync) {
        self.threads.team.share(&mut self.scores, parts, work);
    }
}
