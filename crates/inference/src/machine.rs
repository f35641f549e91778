//! What models compute on: which instructions, how many threads, and whether text encoders have a card.

use std::{num::NonZeroUsize, thread::available_parallelism};

use kernels::{Cpu, IsaError};

use crate::device::{Device, DeviceError};

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
}
