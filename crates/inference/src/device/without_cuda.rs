//! In the place of CUDA where it is not built in: there are no cards.

use kernels::{Card, CardError};

use super::{Device, DeviceError};

/// Says why there is none.
pub(super) fn count(asked: Device) -> Result<usize, DeviceError> {
    Err(DeviceError::NotBuilt(asked))
}

/// Says why not.
pub(super) fn open(index: usize) -> Result<Card, CardError> {
    let reason = DeviceError::NotBuilt(Device::Cuda(index)).to_string();
    Err(CardError { is_out_of_memory: false, reason })
}
