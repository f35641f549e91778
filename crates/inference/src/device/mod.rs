//! What text encoders compute on: the processor, or an NVIDIA card.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(not(feature = "cuda"))]
#[path = "without_cuda.rs"]
mod cuda;

use std::{fmt, str::FromStr};

use kernels::{Card, CardError};

/// What text encoders compute on. Other models, which have no path on a card, compute on the processor whatever this says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The processor, by our own kernels.
    #[default]
    Cpu,
    /// The processor, by the steps of a card in plain loops: many times slower than our kernels, and there so that all of a card's
    /// path but the card can be tested.
    Plain,
    /// The NVIDIA card of this index, as the CUDA driver counts them.
    Cuda(usize),
}

/// A device cannot be computed on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// No device is called so.
    #[error("no device is called {0:?}: cpu, cuda or cuda:N, N from 0")]
    Unknown(String),
    /// This program was built without CUDA.
    #[error("this build has no CUDA, so nothing can run on {0}: build with --features cuda, or choose --device cpu")]
    NotBuilt(Device),
    /// The machine has no such card.
    #[error("there is no device {device}: CUDA finds {count} on this machine, counted from 0")]
    Missing {
        /// What was asked for.
        device: Device,
        /// Cards that there are.
        count: usize,
    },
    /// CUDA or its driver does not work here.
    #[error("CUDA does not start on this machine: {0}")]
    Driver(String),
}

impl FromStr for Device {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", index)) if index.bytes().all(|byte| byte.is_ascii_digit()) => {
                index.parse().map(Self::Cuda).map_err(|_| DeviceError::Unknown(text.to_owned()))
            }
            _ => Err(DeviceError::Unknown(text.to_owned())),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Plain => f.write_str("cpu, as a card"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl Device {
    /// The same, once it is known to be there.
    ///
    /// # Errors
    /// When it is a card and this build has no CUDA, CUDA does not start, or there is no such card.
    pub fn checked(self) -> Result<Self, DeviceError> {
        let Self::Cuda(index) = self else { return Ok(self) };
        let count = cuda::count(self)?;
        if index < count { Ok(self) } else { Err(DeviceError::Missing { device: self, count }) }
    }

    /// What takes a card's steps, for one model: a card gives each a stream of work of its own, so that they run side by side.
    ///
    /// # Errors
    /// When the card, its driver or a library of CUDA's does not work.
    pub(crate) fn open(self) -> Result<Card, CardError> {
        match self {
            Self::Cpu | Self::Plain => Ok(Card::plain()),
            Self::Cuda(index) => cuda::open(index),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named() {
        for (name, device) in [("cpu", Device::Cpu), ("cuda", Device::Cuda(0)), ("cuda:12", Device::Cuda(12))] {
            assert_eq!(name.parse(), Ok(device));
        }
        for name in ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:+1", "cuda:0:0", "cuda:99999999999999999999", "cpu:0"]
        {
            assert_eq!(name.parse::<Device>(), Err(DeviceError::Unknown(name.to_owned())));
        }
    }

    #[test]
    fn what_is_there_is_told_from_what_is_not() {
        assert_eq!(Device::Cpu.checked(), Ok(Device::Cpu));
        let error = Device::Cuda(999).checked().expect_err("no machine has so many").to_string();
        if cfg!(feature = "cuda") {
            assert!(error.contains("cuda:999") || error.contains("does not start"), "{error}");
        } else {
            assert!(error.contains("this build has no CUDA") && error.contains("--features cuda"), "{error}");
        }
    }
}
