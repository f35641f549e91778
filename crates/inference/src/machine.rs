//! What models compute on: which instructions, how many threads.

use std::{num::NonZeroUsize, thread::available_parallelism};

use kernels::{Cpu, IsaError};

/// What each model computes on.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// The instructions of products and all else that takes long.
    pub cpu: Cpu,
    /// Threads that share each batch.
    pub threads: NonZeroUsize,
}

impl Default for Machine {
    /// All that this process may use.
    fn default() -> Self {
        Self { cpu: Cpu::best(), threads: available_parallelism().unwrap_or(NonZeroUsize::MIN) }
    }
}

impl Machine {
    /// All that this process may use, but of the instructions those with this name, if one is given.
    ///
    /// # Errors
    /// When no instructions have the name, or the machine does not have them.
    pub fn with_isa(name: Option<&str>) -> Result<Self, IsaError> {
        let machine = Self::default();
        match name {
            Some(name) => Ok(Self { cpu: Cpu::with(name.parse()?)?, ..machine }),
            None => Ok(machine),
        }
    }
}
