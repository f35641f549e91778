//! NVIDIA cards, as CUDA's driver tells of them.

use kernels::{Card, CardError};

use super::{Device, DeviceError};

/// How many cards there are.
pub(super) fn count(_: Device) -> Result<usize, DeviceError> {
    Card::count().map_err(|error| DeviceError::Driver(error.reason))
}

/// The card of this index.
pub(super) fn open(index: usize) -> Result<Card, CardError> {
    Card::open(index)
}
