//! The kernels, compiled for a card by CUDA's compiler at run time: once in a process for each kind of card, and attention for each
//! width of heads when it is first asked for.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use cudarc::{
    driver::{CudaContext, CudaFunction, CudaModule, sys::CUfunction_attribute},
    nvrtc::{self, CompileError, CompileOptions, Ptx, compile_ptx_with_opts},
};

use super::{broken, number};
use crate::{
    Precision,
    card::{CardError, Result, WIDEST_HEAD},
};

const ROWS: &str = concat!(include_str!("../numbers.cu"), include_str!("../rows.cu"));
const ATTENTION: &str =
    concat!(include_str!("../numbers.cu"), include_str!("../attention.cu"), include_str!("../narrow.cu"));

/// Queries of a block of attention, and its threads.
pub(super) const QUERIES: usize = 64;
pub(super) const THREADS: u32 = 128;

/// Columns that attention is compiled for.
const HEADS: [usize; 3] = [32, 64, WIDEST_HEAD];

/// What a card can, as CUDA counts it.
type Capability = (i32, i32);

/// One for each precision; cards before compute capability 8.0 have the first alone.
pub(super) struct Of<T> {
    f32: T,
    bf16: Option<T>,
}

impl<T> Of<T> {
    pub(super) fn of(&self, precision: Precision) -> &T {
        match precision {
            Precision::Bf16 => self.bf16.as_ref().expect("no bf16 on this card"),
            _ => &self.f32,
        }
    }

    fn load(capability: Capability, load: impl Fn(&str) -> Result<T>) -> Result<Self> {
        let bf16 = (capability >= (8, 0)).then(|| load("bf16")).transpose()?;
        Ok(Self { f32: load("f32")?, bf16 })
    }
}

/// Steps on rows that read so many numbers at once.
pub(super) struct Rows {
    pub(super) finish: CudaFunction,
    pub(super) norm: CudaFunction,
    pub(super) at_once: usize,
}

/// The same for rows of some multiple of numbers, and for all others.
pub(super) struct Widths {
    pub(super) wide: Rows,
    pub(super) odd: Rows,
}

/// What a card runs.
pub(super) struct Kernels {
    pub(super) rows: Of<Widths>,
    pub(super) means: Of<CudaFunction>,
    attention: [OnceLock<Of<CudaFunction>>; HEADS.len()],
    context: Arc<CudaContext>,
    capability: Capability,
}

impl Kernels {
    /// Compiles and loads all but attention.
    pub(super) fn new(context: Arc<CudaContext>, capability: Capability) -> Result<Self> {
        let module = context.load_module(compiled(capability, None)?)?;
        let rows = |kind: &str, at_once: usize| -> Result<Rows> {
            Ok(Rows {
                finish: function(&module, &format!("finish_{kind}"))?,
                norm: function(&module, &format!("norm_{kind}"))?,
                at_once,
            })
        };
        let widths = |kind: &str| -> Result<Widths> {
            let at_once = if kind == "bf16" { 8 } else { 4 };
            Ok(Widths { wide: rows(kind, at_once)?, odd: rows(&format!("{kind}_odd"), 1)? })
        };
        Ok(Self {
            rows: Of::load(capability, widths)?,
            means: Of::load(capability, |kind| function(&module, &format!("means_{kind}")))?,
            attention: Default::default(),
            context,
            capability,
        })
    }

    /// Attention of heads so wide, and the bytes of shared memory that a block of it needs in f32.
    pub(super) fn attention(&self, width: usize) -> Result<(&Of<CudaFunction>, usize)> {
        let place = HEADS.iter().position(|columns| width <= *columns).expect("no wider head");
        let (head, compiled_one) = (HEADS[place], &self.attention[place]);
        let shared = exact_bytes(head);
        if let Some(kernels) = compiled_one.get() {
            return Ok((kernels, shared));
        }
        let module = self.context.load_module(compiled(self.capability, Some(head))?)?;
        let kernels = Of::load(self.capability, |kind| function(&module, &format!("attention_{kind}")))?;
        let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        kernels.f32.set_attribute(most, number(shared).cast_signed()).map_err(|error| {
            let what = format!("heads of {width} columns want {shared} bytes of shared memory for a block");
            broken(format!("{what}, as cards have them from compute capability 8.0 on: {error}"))
        })?;
        Ok((compiled_one.get_or_init(|| kernels), shared))
    }
}

/// The size of `Exact` in attention for heads of so many columns.
fn exact_bytes(head: usize) -> usize {
    let keys = if head > 32 { 32 } else { 64 };
    (head * (QUERIES + 4) + head * (keys + 4) + keys * head + keys * (QUERIES + 4)) * size_of::<f32>()
}

fn function(module: &Arc<CudaModule>, name: &str) -> Result<CudaFunction> {
    Ok(module.load_function(name)?)
}

/// Steps on rows, or attention of heads of so many columns, for cards of this capability.
fn compiled(capability: Capability, head: Option<usize>) -> Result<Ptx> {
    static DONE: Mutex<BTreeMap<(Capability, Option<usize>), Ptx>> = Mutex::new(BTreeMap::new());
    let mut done = DONE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(ptx) = done.get(&(capability, head)) {
        return Ok(ptx.clone());
    }
    // SAFETY: this library of CUDA's may be loaded at any time.
    if !unsafe { nvrtc::sys::is_culib_present() } {
        return Err(broken("libnvrtc, CUDA's compiler, is not found".into()));
    }
    let mut options = vec![
        format!("--gpu-architecture=compute_{}{}", capability.0, capability.1),
        "--std=c++17".to_owned(),
        "--device-as-default-execution-space".to_owned(),
    ];
    options.extend(head.map(|columns| format!("--define-macro=HEAD={columns}")));
    let source = if head.is_some() { ATTENTION } else { ROWS };
    let ptx = compile_ptx_with_opts(source, CompileOptions { options, ..CompileOptions::default() })?;
    done.insert((capability, head), ptx.clone());
    Ok(ptx)
}

impl From<CompileError> for CardError {
    fn from(error: CompileError) -> Self {
        broken(match error {
            CompileError::CompileError { log, .. } => format!("the kernels do not compile: {}", log.to_string_lossy()),
            error => format!("CUDA's compiler does not work: {error}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::skip, *};

    #[test]
    fn cuda_kernels_compile_for_every_card_from_turing_on() {
        // SAFETY: this library of CUDA's may be loaded at any time.
        if !unsafe { nvrtc::sys::is_culib_present() } {
            return skip("cuda_kernels_compile_for_every_card_from_turing_on", "CUDA's compiler, libnvrtc");
        }
        for capability in [(7, 5), (8, 0), (8, 9), (9, 0)] {
            for head in [None, Some(32), Some(64), Some(128)] {
                let ptx = compiled(capability, head).expect("compiles").to_src();
                let of = |name: &str| ptx.contains(&format!(".entry {name}("));
                let names =
                    if head.is_some() { ["attention_f32", "attention_bf16"] } else { ["norm_f32", "norm_bf16"] };
                assert_eq!(names.map(of), [true, capability >= (8, 0)], "{capability:?}, {head:?}");
            }
        }
    }

    #[test]
    fn shared_memory_is_within_what_cards_have() {
        // Without asking for more, and at most on cards since compute capability 8.0.
        assert!(exact_bytes(32) <= 48 << 10 && exact_bytes(64) <= 48 << 10 && exact_bytes(WIDEST_HEAD) <= 99 << 10);
    }
}
