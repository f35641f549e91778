//! cuBLAS' products on one stream.

use std::{ffi::c_int, sync::Arc};

use cudarc::{
    cublas::{result, sys},
    driver::{CudaSlice, CudaStream, DevicePtr, sys::CUdeviceptr},
};

use super::{broken, record};
use crate::{Precision, card::Result};

/// Bytes that cuBLAS wants on the largest cards.
const WORKSPACE: usize = 32 << 20;

/// A handle of cuBLAS'. Whoever drops it has bound the card's context.
pub(super) struct Blas {
    handle: sys::cublasHandle_t,
    /// What products use between their beginning and their end.
    workspace: CudaSlice<u8>,
}

// SAFETY: any thread may use a handle, and several at once that do not change how it is set, which only `new` does.
unsafe impl Send for Blas {}
// SAFETY: as above.
unsafe impl Sync for Blas {}

/// The product of each row of `x` with each row of `weights`, written to `y`: where they lie, and how long they are.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub(super) x: CUdeviceptr,
    pub(super) weights: CUdeviceptr,
    pub(super) y: CUdeviceptr,
    pub(super) rows: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) precision: Precision,
}

impl Product {
    fn kind(self) -> sys::cudaDataType {
        match self.precision {
            Precision::Bf16 => sys::cudaDataType::CUDA_R_16BF,
            _ => sys::cudaDataType::CUDA_R_32F,
        }
    }

    /// All that it is called with.
    pub(super) fn words(self) -> [u64; 8] {
        let [rows, inputs, outputs] = [self.rows, self.inputs, self.outputs].map(|count| count as u64);
        [0, self.kind() as u64, self.x, self.weights, self.y, rows, inputs, outputs]
    }
}

impl Blas {
    /// For the work of one stream, whose context is bound.
    pub(super) fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        // SAFETY: this library of CUDA's may be loaded at any time.
        if !unsafe { sys::is_culib_present() } {
            return Err(broken("libcublas is not found".into()));
        }
        // SAFETY: cuBLAS writes before it reads.
        let workspace = unsafe { stream.alloc(WORKSPACE) }?;
        let alone = record::alone();
        let handle = result::create_handle()?;
        drop(alone);
        let blas = Self { handle, workspace };
        let at = blas.workspace.device_ptr(stream).0 as *mut _;
        // Sums of products in bf16 stay in f32 where several blocks have a part of them.
        let exactly = sys::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
        // SAFETY: the stream and the workspace, which has so many bytes, live as long as what uses them.
        unsafe {
            result::set_stream(blas.handle, stream.cu_stream() as _)?;
            sys::cublasSetWorkspace_v2(blas.handle, at, WORKSPACE).result()?;
            sys::cublasSetMathMode(blas.handle, exactly).result()?;
        }
        Ok(blas)
    }

    /// Begins a product.
    ///
    /// # Safety
    /// All are as long as is said, and the context is bound.
    pub(super) unsafe fn multiply(&self, product: Product) -> Result<()> {
        let size = |count: usize| c_int::try_from(count).expect("cuBLAS counts in 31 bits");
        let [rows, inputs, outputs] = [product.rows, product.inputs, product.outputs].map(size);
        let (kind, one, nothing) = (product.kind(), 1.0f32, 0.0f32);
        // SAFETY: cuBLAS has columns where we have rows: it multiplies the weights, transposed, with x, and all are as long as is said.
        // In f32 it multiplies in f32, because it was not told that it may do otherwise.
        unsafe {
            result::gemm_ex(
                self.handle,
                sys::cublasOperation_t::CUBLAS_OP_T,
                sys::cublasOperation_t::CUBLAS_OP_N,
                outputs,
                rows,
                inputs,
                (&raw const one).cast(),
                product.weights as *const _,
                kind,
                inputs,
                product.x as *const _,
                kind,
                inputs,
                (&raw const nothing).cast(),
                product.y as *mut _,
                kind,
                outputs,
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }?;
        Ok(())
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        let _alone = record::alone();
        // SAFETY: nobody else has the handle. On a card that is broken cuBLAS says so here too, and nobody could do anything.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}
