//! Products of packed rows with packed weights: of one matrix, and of two with a function between them.

use std::ops::Range;

use super::{
    PANEL, Parts,
    pack::{pack_rows, steps},
    pass::{Pass, SUMS, parts_of},
    results::{Between, Results},
    step_bytes,
    tiles::{Begin, Bf16, Operands, Tiles},
};
use crate::{
    Activation, Epilogue, Rows, Scratch,
    finish::{Same, Target, with_function},
    scratch::Lines,
};

/// Steps of what is between two products that are computed before they are used: for 256 rows they stay in the second-level cache beside
/// the rest.
const SLICE: usize = 12;

/// Packed weights and their bias.
#[derive(Clone, Copy)]
pub(crate) struct Packed<'a> {
    pub(crate) weights: &'a Lines,
    pub(crate) bias: &'a Lines,
    pub(crate) inputs: usize,
}

/// Multiplies rows with packed weights.
pub(crate) fn multiply(
    parts: Parts,
    packed: Packed<'_>,
    x: Rows<'_>,
    outputs: Range<usize>,
    target: Target<'_>,
    scratch: &mut Scratch,
) {
    let job = Job { packed, x, outputs, target };
    // SAFETY: weights in tiles are packed only for a `Cpu` that has them.
    unsafe {
        match parts {
            Parts::One => job.run::<false>(scratch),
            Parts::Two => job.run::<true>(scratch),
        }
    }
}

/// Multiplies rows with packed weights, and what an activation makes of that with others: what is between them stays in tiles.
/// `target` is for the result of the second; its outputs are all of `down`'s.
pub(crate) fn multiply_both(
    parts: Parts,
    up: Packed<'_>,
    activation: Activation,
    down: Packed<'_>,
    x: Rows<'_>,
    target: Target<'_>,
    scratch: &mut Scratch,
) {
    let job = Both { up, activation, down, x, target };
    // SAFETY: weights in tiles are packed only for a `Cpu` that has them.
    unsafe {
        match parts {
            Parts::One => job.run::<false>(scratch),
            Parts::Two => job.run::<true>(scratch),
        }
    }
}

struct Job<'a> {
    packed: Packed<'a>,
    x: Rows<'a>,
    outputs: Range<usize>,
    target: Target<'a>,
}

impl Job<'_> {
    /// # Safety
    /// The machine has AVX-512, tiles, and leave to use them.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn run<const TWO: bool>(mut self, scratch: &mut Scratch)
    where
        Bf16<TWO>: Operands,
    {
        let (steps, step) = (steps(self.packed.inputs), step_bytes(TWO));
        let panels = self.outputs.len().div_ceil(PANEL);
        let first_panel = self.outputs.start / PANEL;
        // SAFETY: the caller's promise; nothing below configures tiles again.
        let _tiles = unsafe { Tiles::configure() };
        for rows in parts_of(self.x.rows(), steps * step) {
            let blocks = rows.len().div_ceil(PANEL);
            scratch.left.reserve(blocks * steps * step / size_of::<f32>());
            scratch.sums.reserve(blocks.max(2) * SUMS);
            debug_assert!((first_panel + panels) * steps * step <= self.packed.weights.bytes());
            debug_assert!((first_panel + panels) * PANEL <= self.packed.bias.len());
            // SAFETY: the caller's promise; the rows exist, and the scratch has room for so many blocks; packed weights are as
            // large as panels and steps say, because `multiply` of the matrix checked the shapes.
            unsafe {
                pack_rows::<TWO>(self.x.rows_in(rows.clone()), None, scratch.left.as_mut_ptr().cast());
                let pass = Pass {
                    left: scratch.left.as_ptr().cast(),
                    rows: rows.len(),
                    right: self.packed.weights.as_ptr().cast::<u8>().add(first_panel * steps * step),
                    panels,
                    panel_bytes: steps * step,
                    steps,
                    then: self.packed.weights.as_ptr().cast(),
                    sums: scratch.sums.as_mut_ptr(),
                    kept: 0,
                    begin: Begin::Bias(self.packed.bias.as_ptr().add(self.outputs.start)),
                    bias_stride: PANEL,
                };
                let results = Results::new(&mut self.target, rows.start);
                let Epilogue { activation, residual } = self.target.epilogue;
                with_function!(activation, !TWO, F => match residual {
                    Some(_) => pass.run::<Bf16<TWO>>(|found| results.take::<F, true>(found)),
                    None => pass.run::<Bf16<TWO>>(|found| results.take::<F, false>(found)),
                });
            }
        }
    }
}

struct Both<'a> {
    up: Packed<'a>,
    activation: Activation,
    down: Packed<'a>,
    x: Rows<'a>,
    target: Target<'a>,
}

impl Both<'_> {
    /// # Safety
    /// The machine has AVX-512, tiles, and leave to use them.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn run<const TWO: bool>(mut self, scratch: &mut Scratch)
    where
        Bf16<TWO>: Operands,
    {
        let step = step_bytes(TWO);
        let (steps_up, steps_down) = (steps(self.up.inputs), steps(self.down.inputs));
        let panels = self.target.result.columns().div_ceil(PANEL);
        // SAFETY: the caller's promise; nothing below configures tiles again.
        let _tiles = unsafe { Tiles::configure() };
        for rows in parts_of(self.x.rows(), steps_up * step) {
            let blocks = rows.len().div_ceil(PANEL);
            scratch.left.reserve(blocks * steps_up * step / size_of::<f32>());
            scratch.right.reserve(blocks * SLICE * step / size_of::<f32>());
            // Those of all panels of the second product, and then those of the first.
            scratch.sums.reserve((panels * blocks + blocks.max(2)) * SUMS);
            debug_assert!(steps_down * steps_up * step <= self.up.weights.bytes());
            debug_assert!(steps_down * PANEL <= self.up.bias.len());
            debug_assert!(panels * steps_down * step <= self.down.weights.bytes());
            debug_assert!(panels * PANEL <= self.down.bias.len());
            // SAFETY: the caller's promise; the rows exist; the scratch has room for packed rows, for a slice of what is between,
            // and for sums; packed weights are as large as panels and steps say, because the matrix's method checked the shapes.
            unsafe {
                pack_rows::<TWO>(self.x.rows_in(rows.clone()), None, scratch.left.as_mut_ptr().cast());
                let between = scratch.right.as_mut_ptr().cast::<u8>();
                let (sums, up, down) =
                    (scratch.sums.as_mut_ptr(), self.up.weights.as_ptr(), self.down.weights.as_ptr());
                for slice in (0..steps_down).step_by(SLICE) {
                    let depth = SLICE.min(steps_down - slice);
                    let first = Pass {
                        left: scratch.left.as_ptr().cast(),
                        rows: rows.len(),
                        right: up.cast::<u8>().add(slice * steps_up * step),
                        panels: depth,
                        panel_bytes: steps_up * step,
                        steps: steps_up,
                        then: down.cast::<u8>().add(slice * step),
                        sums: sums.add(panels * blocks * SUMS),
                        kept: 0,
                        begin: Begin::Bias(self.up.bias.as_ptr().add(slice * PANEL)),
                        bias_stride: PANEL,
                    };
                    let to = Between { packed: between, steps: depth };
                    with_function!(self.activation, !TWO, F => first.run::<Bf16<TWO>>(|found| to.take::<F, TWO>(found)));
                    let second = Pass {
                        left: between,
                        rows: rows.len(),
                        right: down.cast::<u8>().add(slice * step),
                        panels,
                        panel_bytes: steps_down * step,
                        steps: depth,
                        then: up.cast::<u8>().wrapping_add((slice + depth) * steps_up * step),
                        sums,
                        kept: panels,
                        begin: if slice > 0 { Begin::Sums } else { Begin::Bias(self.down.bias.as_ptr()) },
                        bias_stride: PANEL,
                    };
                    if slice + depth < steps_down {
                        second.run::<Bf16<TWO>>(|_| ());
                        continue;
                    }
                    let results = Results::new(&mut self.target, rows.start);
                    match self.target.epilogue.residual {
                        Some(_) => second.run::<Bf16<TWO>>(|found| results.take::<Same, true>(found)),
                        None => second.run::<Bf16<TWO>>(|found| results.take::<Same, false>(found)),
                    }
                }
            }
        }
    }
}
