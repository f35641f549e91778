//! The steps of a card on NVIDIA cards: cuBLAS' products, and the kernels beside this file. Each [`Cuda`] has one stream of work, on
//! which its memory is taken, used and given back, so that nothing else has to be ordered. CUDA's libraries are loaded when a card is first
//! asked for: a program that is built with this runs where there are none.

mod blas;
mod compile;
mod record;
#[cfg(test)]
mod tests;

use std::{ffi::c_void, sync::Arc};

use cudarc::{
    cublas::{result::CublasError, sys::cublasStatus_t},
    driver::{
        CudaContext, CudaFunction, CudaSlice, CudaStream, DevicePtr, DriverError, result,
        sys::{self, CUdeviceptr, CUresult},
    },
};

use self::{
    blas::{Blas, Product},
    compile::{Kernels, Of, QUERIES},
    record::Recorder,
};
use super::{
    CardError, CardIndices, CardNorm, CardRows, Finish, PAGE, Part, Result,
    memory::Memory,
    steps::{Attend, Means, Steps, Term},
};
use crate::{Activation, Precision, narrow::nearest_bf16};

/// Rows of a block of the kernel `finish` where there are many and where there are so few, and its threads.
const FINISHED: usize = 8;
const FEW: usize = 1024;
const FINISHERS: u32 = 64;

/// Numbers of shared memory that a block of the kernel `norm` may have.
const SUMS: usize = 12_288;

/// A card, and a stream of work on it.
pub(super) struct Cuda {
    /// Goes before what it recorded.
    recorder: Recorder,
    kernels: Kernels,
    blas: Blas,
    has_bf16: bool,
    stream: Arc<CudaStream>,
}

/// Memory of a card.
pub(super) struct Buffer {
    bytes: CudaSlice<u8>,
    stream: Arc<CudaStream>,
}

impl Buffer {
    /// Waits until nothing of its stream's work goes on. What failed is said later, by what can.
    pub(super) fn wait(&self) {
        bind(self.stream.context());
        // SAFETY: it lives as long as this.
        self.stream.context().record_err(unsafe { result::stream::synchronize(self.stream.cu_stream()) });
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // What follows gives memory back in the context of whatever thread this is.
        bind(self.stream.context());
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // Nobody is left who could be told of a kept error, and it would keep the rest from being done.
        let _ = self.stream.context().check_err();
        // With this the thread has the context too, in which all that follows is given back.
        let _ = self.stream.synchronize();
    }
}

/// Has this thread use the context, for what cannot fail: errors are kept, and an earlier one keeps nothing from being done.
fn bind(context: &CudaContext) {
    let kept = context.check_err();
    context.record_err(context.bind_to_thread());
    context.record_err(kept);
}

impl From<DriverError> for CardError {
    fn from(error: DriverError) -> Self {
        Self { is_out_of_memory: error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY, reason: error.to_string() }
    }
}

impl From<CublasError> for CardError {
    fn from(error: CublasError) -> Self {
        let is_out_of_memory = error.0 == cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED;
        Self { is_out_of_memory, reason: format!("cuBLAS: {error}") }
    }
}

fn broken(reason: String) -> CardError {
    CardError { is_out_of_memory: false, reason }
}

/// As [`Card::count`](super::Card::count).
pub(super) fn count() -> Result<usize> {
    // SAFETY: NVIDIA's driver may be loaded at any time.
    if !unsafe { sys::is_culib_present() } {
        return Err(broken("libcuda, a part of NVIDIA's driver, is not found".into()));
    }
    match CudaContext::device_count() {
        Ok(count) => Ok(usize::try_from(count).unwrap_or(0)),
        Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

impl Cuda {
    pub(super) fn open(index: usize) -> Result<Self> {
        if index >= count()? {
            return Err(broken(format!("there is no card {index}")));
        }
        let context = CudaContext::new(index)?;
        // SAFETY: the stream that memory is taken on is the only one that uses it, so there is nothing for events to order.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream()?;
        let capability = context.compute_capability()?;
        let blas = Blas::new(&stream)?;
        let kernels = Kernels::new(context, capability)?;
        Ok(Self { recorder: Recorder::default(), kernels, blas, has_bf16: capability >= (8, 0), stream })
    }

    /// Begins a kernel, unless steps are only listed.
    ///
    /// # Safety
    /// Parameters are the kernel's, each in the lowest bytes of one.
    unsafe fn launch(
        &self,
        kernel: &CudaFunction,
        (x, y): (usize, usize),
        block: (u32, u32),
        shared: usize,
        parameters: &mut [u64],
    ) -> Result<()> {
        let (grid, shared) = ((number(x), number(y), 1), number(shared));
        let what = [kernel.cu_function() as u64, x as u64, y as u64, block.0.into(), block.1.into(), shared.into()];
        if self.recorder.lists(&[&what, parameters]) {
            return Ok(());
        }
        self.stream.context().bind_to_thread()?;
        let mut places: Vec<*mut c_void> =
            parameters.iter_mut().map(|parameter| (&raw mut *parameter).cast()).collect();
        let (block, stream) = ((block.0, block.1, 1), self.stream.cu_stream());
        // SAFETY: the caller's promise.
        Ok(unsafe { result::launch_kernel(kernel.cu_function(), grid, block, shared, stream, &mut places) }?)
    }

    /// Waits for all that was begun, whatever error was kept: until then the card has to do with memory here. The context is bound.
    fn wait(&self) -> Result<()> {
        // SAFETY: it is this card's stream.
        Ok(unsafe { result::stream::synchronize(self.stream.cu_stream()) }?)
    }

    /// Where memory of so many numbers begins.
    ///
    /// # Panics
    /// When it is another card's or stream's, or there is none.
    fn at(&self, memory: &Memory, count: usize) -> CUdeviceptr {
        match memory {
            Memory::Cuda(buffer) => {
                assert!(Arc::ptr_eq(&buffer.stream, &self.stream), "numbers of another card");
                buffer.bytes.device_ptr(&self.stream).0
            }
            Memory::Plain(_) => panic!("numbers of another card"),
            Memory::Nothing => {
                assert_eq!(count, 0, "numbers that lie nowhere");
                0
            }
        }
    }

    fn of(&self, rows: &CardRows) -> CUdeviceptr {
        self.at(&rows.memory, rows.count * rows.columns)
    }

    fn of_indices(&self, indices: &CardIndices) -> CUdeviceptr {
        self.at(&indices.memory, indices.numbers.len())
    }

    fn of_part(&self, part: Part<'_>) -> CUdeviceptr {
        self.of_indices(part.indices) + (part.begin() * size_of::<u32>()) as u64
    }

    /// A term's rows, and its indices or 0.
    fn of_term(&self, term: Option<Term<'_>>) -> (CUdeviceptr, CUdeviceptr) {
        match term {
            Some(Term::Each(rows) | Term::One(rows)) => (self.of(rows), 0),
            Some(Term::Chosen(rows, chosen)) => (self.of(rows), self.of_part(chosen)),
            None => (0, 0),
        }
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).expect("a card's indices have 32 bits")
}

/// The kernel for rows so wide: that which reads several numbers at once, if it divides them.
fn kernel_for<'a>(kernels: &'a Of<compile::Widths>, rows: &CardRows) -> &'a compile::Rows {
    let kernels = kernels.of(rows.precision);
    if rows.columns.is_multiple_of(16 / rows.number_bytes()) { &kernels.wide } else { &kernels.odd }
}

impl Steps for Cuda {
    fn has_bf16(&self) -> bool {
        self.has_bf16
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        let (free, _) = self.stream.context().mem_get_info()?;
        Ok(Some(free as u64))
    }

    fn synchronize(&self) -> Result<()> {
        Ok(self.stream.synchronize()?)
    }

    fn reserve(&self, memory: &mut Memory, bytes: usize, multiple: usize) -> Result<()> {
        if matches!(memory, Memory::Cuda(buffer) if buffer.bytes.len() >= bytes) || bytes == 0 {
            return Ok(());
        }
        if self.recorder.is_recording() {
            return Err(broken("memory is taken while steps are recorded".into()));
        }
        // What was there is free for what comes.
        *memory = Memory::Nothing;
        // SAFETY: steps write before they read.
        let bytes = unsafe { self.stream.alloc(bytes.next_multiple_of(multiple)) }?;
        *memory = Memory::Cuda(Buffer { bytes, stream: self.stream.clone() });
        Ok(())
    }

    fn write(&self, numbers: &[f32], to: &mut CardRows) -> Result<()> {
        self.stream.context().bind_to_thread()?;
        let (at, stream) = (self.of(to), self.stream.cu_stream());
        if to.precision == Precision::Bf16 {
            let narrow: Vec<u16> = numbers.iter().copied().map(nearest_bf16).collect();
            // SAFETY: there is room for as many, which stay until they are waited for.
            unsafe { result::memcpy_htod_async(at, &narrow, stream) }?;
            return self.wait();
        }
        // SAFETY: as above.
        unsafe { result::memcpy_htod_async(at, numbers, stream) }?;
        self.wait()
    }

    fn write_indices(&self, indices: &mut CardIndices) -> Result<()> {
        self.reserve(&mut indices.memory, size_of_val(indices.numbers.as_slice()), PAGE)?;
        self.stream.context().bind_to_thread()?;
        // SAFETY: there is room for as many, and they wait for the card before they change or go.
        Ok(unsafe { result::memcpy_htod_async(self.of_indices(indices), &indices.numbers, self.stream.cu_stream()) }?)
    }

    fn read(&self, rows: &CardRows) -> Result<Vec<f32>> {
        let mut numbers = vec![0.0; rows.count * rows.columns];
        self.stream.context().bind_to_thread()?;
        // SAFETY: there are as many, and they are waited for.
        unsafe { result::memcpy_dtoh_async(&mut numbers, self.of(rows), self.stream.cu_stream()) }?;
        self.wait()?;
        Ok(numbers)
    }

    fn multiply(&self, x: &CardRows, weights: &CardRows, y: &mut CardRows) -> Result<()> {
        if x.count == 0 {
            return Ok(());
        }
        let product = Product {
            x: self.of(x),
            weights: self.of(weights),
            y: self.of(y),
            rows: x.count,
            inputs: x.columns,
            outputs: weights.count,
            precision: x.precision,
        };
        if self.recorder.lists(&[&product.words()]) {
            return Ok(());
        }
        self.stream.context().bind_to_thread()?;
        // SAFETY: lengths were checked.
        unsafe { self.blas.multiply(product) }
    }

    fn finish(&self, y: &mut CardRows, bias: &CardRows, finish: Finish) -> Result<()> {
        let (rows, columns) = (y.count, number(y.columns));
        if rows == 0 {
            return Ok(());
        }
        let activation: u32 = match finish {
            Finish::By(Activation::None) => 0,
            Finish::By(Activation::GeluErf) => 1,
            Finish::By(Activation::GeluTanh) => 2,
            Finish::By(Activation::Relu) => 3,
            Finish::By(Activation::Silu) => 4,
            Finish::Tanh => 5,
        };
        let kernel = kernel_for(&self.kernels.rows, y);
        let each = if rows <= FEW { 1 } else { FINISHED };
        let grid = (rows.div_ceil(each), y.columns.div_ceil(FINISHERS as usize * kernel.at_once));
        let mut parameters = [self.of(y), self.of(bias), rows as u64, columns.into(), each as u64, activation.into()];
        // SAFETY: as they are there, of lengths that were checked.
        unsafe { self.launch(&kernel.finish, grid, (FINISHERS, 1), 0, &mut parameters) }
    }

    fn norm(&self, [a, b, c]: [Option<Term<'_>>; 3], norm: &CardNorm, y: &mut CardRows) -> Result<()> {
        let (rows, columns) = (y.count, number(y.columns));
        assert!(y.columns <= SUMS, "a norm over {columns} columns, of at most {SUMS}");
        let warps = (SUMS / y.columns).clamp(1, 4);
        let kernel = &kernel_for(&self.kernels.rows, y).norm;
        let ((a, of_a), (b, of_b), (c, of_c)) = (self.of_term(a), self.of_term(b), self.of_term(c));
        let (weight, bias, to) = (self.of(&norm.weight), self.of(&norm.bias), self.of(y));
        let epsilon = norm.epsilon.to_bits().into();
        let mut parameters = [a, of_a, b, of_b, c, of_c, weight, bias, epsilon, to, rows as u64, columns.into()];
        let (grid, block) = ((rows.div_ceil(warps), 1), (32, number(warps)));
        // SAFETY: as they are there, of lengths and with indices that were checked.
        unsafe { self.launch(kernel, grid, block, warps * y.columns * size_of::<f32>(), &mut parameters) }
    }

    fn means(&self, x: &CardRows, means: Means<'_>, y: &mut CardRows) -> Result<()> {
        let (begins, ends) = match means {
            Means::OfTexts(begins) => (self.of_part(begins), self.of_part(begins) + size_of::<u32>() as u64),
            Means::Firsts(begins) => (self.of_part(begins), 0),
            Means::Each => (0, 0),
        };
        let mut parameters = [self.of(x), begins, ends, self.of(y), x.columns as u64];
        let grid = (y.count, x.columns.div_ceil(32));
        // SAFETY: as they are there, of lengths and with indices that were checked.
        unsafe { self.launch(self.kernels.means.of(x.precision), grid, (32, 8), 0, &mut parameters) }
    }

    fn attention(&self, input: Attend<'_>, y: &mut CardRows) -> Result<()> {
        let Attend { states, bias, begins, heads, width } = input;
        let (kernels, shared) = self.kernels.attention(width)?;
        let tiles = begins.lengths().max().unwrap_or_default().div_ceil(QUERIES);
        let scale = std::f32::consts::LOG2_E / (width as f32).sqrt();
        let mut parameters = [
            self.of(states),
            self.of(bias),
            self.of_part(begins),
            heads.by_distance.map_or(0, |rows| self.of(rows)),
            heads.by_distance.map_or(0, |rows| rows.columns as u64),
            heads.count as u64,
            width as u64,
            tiles as u64,
            scale.to_bits().into(),
            self.of(y),
        ];
        let blocks = begins.lengths().count() * heads.count * tiles;
        let shared = if states.precision == Precision::Bf16 { 0 } else { shared };
        let kernel = kernels.of(states.precision);
        // SAFETY: as they are there, of lengths that were checked.
        unsafe { self.launch(kernel, (blocks, 1), (compile::THREADS, 1), shared, &mut parameters) }
    }

    fn repeat(&self, steps: &mut dyn FnMut() -> Result<bool>) -> Result<bool> {
        self.recorder.repeat(&self.stream, steps)
    }
}
