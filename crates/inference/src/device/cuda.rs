//! What only the CUDA driver tells: how many cards there are, how much memory is free, and what its errors mean.

use std::error::Error;

use candle_core::{
    Device as Tensors, Result,
    cuda::{
        CudaError, WrapErr,
        cudarc::{
            cublas::{result::CublasError, sys::cublasStatus_t},
            driver::{CudaContext, DriverError, sys::CUresult},
        },
    },
};

use super::{Device, DeviceError};

/// How many cards there are.
pub(super) fn count(_: Device) -> std::result::Result<usize, DeviceError> {
    match CudaContext::device_count() {
        Ok(count) => Ok(usize::try_from(count).unwrap_or(0)),
        Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => Ok(0),
        Err(error) => Err(DeviceError::Driver(error.to_string())),
    }
}

/// Bytes of a card's memory that are free.
pub(super) fn free_bytes(device: &Tensors) -> Result<u64> {
    let (free, _) = device.as_cuda_device()?.cuda_stream().context().mem_get_info().w()?;
    Ok(free as u64)
}

/// Whether an error of CUDA means that memory was too little: the driver's own, or that of its library of products.
pub(super) fn is_out_of_memory(error: &(dyn Error + 'static)) -> bool {
    match error.downcast_ref::<CudaError>() {
        Some(CudaError::Cuda(DriverError(result))) => *result == CUresult::CUDA_ERROR_OUT_OF_MEMORY,
        Some(CudaError::Cublas(CublasError(status))) => *status == cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED,
        _ => false,
    }
}
