//! What models compute on: which instructions, how many threads, and whether text encoders have a card.

use std::{
    num::NonZeroUsize,
    panic::resume_unwind,
    sync::atomic::{AtomicUsize, Ordering},
    thread::{self, available_parallelism},
};

use kernels::{Cpu, IsaError};

use crate::{
    LoadError,
    device::{Device, DeviceError},
};

/// What each model computes on.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// The instructions of products and all else that takes long.
    pub cpu: Cpu,
    /// Threads that share each batch.
    pub threads: NonZeroUsize,
    /// What text encoders compute on; for others it is the processor.
    pub device: Device,
}

/// The machine has not what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MachineError {
    /// No such instructions.
    #[error(transparent)]
    Isa(#[from] IsaError),
    /// No such device.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl Default for Machine {
    /// All that this process may use, without a card.
    fn default() -> Self {
        let threads = available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self { cpu: Cpu::best(), threads, device: Device::Cpu }
    }
}

impl Machine {
    /// All that this process may use, but of the instructions those with this name, if one is given; text encoders compute on the
    /// device with this name.
    ///
    /// # Errors
    /// When no instructions or no device have the name, or the machine does not have them.
    pub fn chosen(isa: Option<&str>, device: &str) -> Result<Self, MachineError> {
        let mut machine = Self { device: device.parse::<Device>()?.checked()?, ..Self::default() };
        if let Some(name) = isa {
            machine.cpu = Cpu::with(name.parse()?)?;
        }
        Ok(machine)
    }

    /// What is made of each number below `count`, in order, by all threads.
    ///
    /// # Errors
    /// One that a thread meets; none begins another number then.
    pub(crate) fn each<T: Send>(
        self,
        count: usize,
        make: impl Fn(usize) -> Result<T, LoadError> + Sync,
    ) -> Result<Vec<T>, LoadError> {
        let next = AtomicUsize::new(0);
        let work = || {
            let mut made = Vec::new();
            loop {
                match next.fetch_add(1, Ordering::Relaxed) {
                    index if index < count => {
                        let one = make(index).inspect_err(|_| next.store(count, Ordering::Relaxed))?;
                        made.push((index, one));
                    }
                    _ => return Ok::<_, LoadError>(made),
                }
            }
        };
        let mut all = thread::scope(|scope| {
            let others: Vec<_> = (1..self.threads.get().min(count)).map(|_| scope.spawn(work)).collect();
            let mut all = work()?;
            for other in others {
                all.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic))?);
            }
            Ok(all)
        })?;
        all.sort_by_key(|(index, _)| *index);
        Ok(all.into_iter().map(|(_, made)| made).collect())
    }
}
