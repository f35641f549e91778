//! In the place of CUDA where it is not built in: there are no cards, and nothing of theirs can fail.

use std::error::Error;

use candle_core::{Device as Tensors, Error as Fault, Result};

use super::{Device, DeviceError};

/// Says why there is none.
pub(super) fn count(asked: Device) -> std::result::Result<usize, DeviceError> {
    Err(DeviceError::NotBuilt(asked))
}

pub(super) fn free_bytes(_: &Tensors) -> Result<u64> {
    Err(Fault::NotCompiledWithCudaSupport)
}

pub(super) fn is_out_of_memory(_: &(dyn Error + 'static)) -> bool {
    false
}
