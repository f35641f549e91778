//! Products of packed rows with packed weights: of one matrix, and of two with a function between them.

use std::ops::Range;

use super::{
    PANEL, Parts,
    pack::{line_of_row, pack_rows, steps, store},
    step_bytes,
    tiles::{AHEAD_LINES, Product, Tiles, multiply as multiply_tiles},
};
use crate::{
    Activation, Rows, Scratch,
    convert::{Pair, halves},
    finish::{Block, Target},
    lanes::{Avx512, Lanes},
    scratch::{LINE_BYTES, Lines},
};

/// Bytes of a panel's part that stays in the first-level cache (48 KiB) while all rows pass by.
const NEAR_BYTES: usize = 24 << 10;

/// Bytes of packed rows that stay in the second-level cache (2 MiB) while all panels pass by.
const LEFT_BYTES: usize = 1 << 20;

/// Sums of one block and panel.
const SUMS: usize = 32 * PANEL;

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
    unsafe fn run<const TWO: bool>(mut self, scratch: &mut Scratch) {
        let (steps, step) = (steps(self.packed.inputs), step_bytes(TWO));
        let panels = self.outputs.len().div_ceil(PANEL);
        let first_panel = self.outputs.start / PANEL;
        // SAFETY: the caller's promise; nothing below configures tiles again.
        let _tiles = unsafe { Tiles::configure() };
        for rows in parts_of(self.x.rows(), steps * step) {
            let blocks = rows.len().div_ceil(PANEL);
            scratch.left.reserve(blocks * steps * step / size_of::<f32>());
            // With one block its next sums would overwrite the last ones before they are finished.
            let kept = if blocks == 1 { 2 } else { 1 };
            scratch.sums.reserve(kept * blocks * SUMS);
            debug_assert!((first_panel + panels) * steps * step <= self.packed.weights.bytes());
            debug_assert!((first_panel + panels) * PANEL <= self.packed.bias.len());
            // SAFETY: the caller's promise; the rows exist, and the scratch has room for so many blocks; packed weights are as
            // large as panels and steps say, because `multiply` of the matrix checked the shapes.
            unsafe {
                pack_rows::<TWO>(self.x.rows_in(rows.clone()), scratch.left.as_mut_ptr().cast());
                let bias = self.packed.bias.as_ptr().add(self.outputs.start);
                let pass = Pass {
                    left: scratch.left.as_ptr().cast(),
                    rows: rows.len(),
                    right: self.packed.weights.as_ptr().cast::<u8>().add(first_panel * steps * step),
                    panels,
                    panel_bytes: steps * step,
                    steps,
                    then: self.packed.weights.as_ptr().cast(),
                    sums: scratch.sums.as_mut_ptr(),
                    kept,
                    accumulates: false,
                };
                let outputs = self.outputs.len();
                pass.run::<TWO>(|found| self.target.take::<Avx512>(found.block(rows.start, outputs, bias)));
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
    unsafe fn run<const TWO: bool>(mut self, scratch: &mut Scratch) {
        let (step, outputs) = (step_bytes(TWO), self.target.result.columns());
        let (steps_up, steps_down) = (steps(self.up.inputs), steps(self.down.inputs));
        let panels = outputs.div_ceil(PANEL);
        // SAFETY: the caller's promise; nothing below configures tiles again.
        let _tiles = unsafe { Tiles::configure() };
        for rows in parts_of(self.x.rows(), steps_up * step) {
            let blocks = rows.len().div_ceil(PANEL);
            scratch.left.reserve(blocks * steps_up * step / size_of::<f32>());
            scratch.right.reserve(blocks * SLICE * step / size_of::<f32>());
            // Those of all panels of the second product, and then those of one or two of the first.
            let kept = if blocks == 1 { 2 } else { 1 };
            scratch.sums.reserve((panels + kept) * blocks * SUMS);
            debug_assert!(steps_down * steps_up * step <= self.up.weights.bytes());
            debug_assert!(steps_down * PANEL <= self.up.bias.len());
            debug_assert!(panels * steps_down * step <= self.down.weights.bytes());
            debug_assert!(panels * PANEL <= self.down.bias.len());
            // SAFETY: the caller's promise; the rows exist; the scratch has room for packed rows, for a slice of what is between,
            // and for sums; packed weights are as large as panels and steps say, because the matrix's method checked the shapes.
            unsafe {
                pack_rows::<TWO>(self.x.rows_in(rows.clone()), scratch.left.as_mut_ptr().cast());
                let between = scratch.right.as_mut_ptr().cast::<u8>();
                let (sums, up, down) =
                    (scratch.sums.as_mut_ptr(), self.up.weights.as_ptr(), self.down.weights.as_ptr());
                for slice in (0..steps_down).step_by(SLICE) {
                    let depth = SLICE.min(steps_down - slice);
                    let bias = self.up.bias.as_ptr().add(slice * PANEL);
                    let first = Pass {
                        left: scratch.left.as_ptr().cast(),
                        rows: rows.len(),
                        right: up.cast::<u8>().add(slice * steps_up * step),
                        panels: depth,
                        panel_bytes: steps_up * step,
                        steps: steps_up,
                        then: down.cast::<u8>().add(slice * step),
                        sums: sums.add(panels * blocks * SUMS),
                        kept,
                        accumulates: false,
                    };
                    first.run::<TWO>(|found| {
                        // The outputs of a panel are the numbers of one step.
                        let bias = bias.add(found.panel * PANEL);
                        let bias = [Avx512::load(bias), Avx512::load(bias.add(16))];
                        for row in 0..found.rows {
                            let from = found.sums.add(row * PANEL);
                            let [first, second] = [Avx512::load(from), Avx512::load(from.add(16))];
                            let first = self.activation.of(first + bias[0]);
                            let second = self.activation.of(second + bias[1]);
                            let to = line_of_row(between, depth, found.row + row, found.panel, TWO);
                            store::<TWO>(to, halves::<TWO>(Pair(first.0, second.0)));
                        }
                    });
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
                        accumulates: slice > 0,
                    };
                    let is_last = slice + depth == steps_down;
                    second.run::<TWO>(|found| {
                        if is_last {
                            let bias = self.down.bias.as_ptr();
                            self.target.take::<Avx512>(found.block(rows.start, outputs, bias));
                        }
                    });
                }
            }
        }
    }
}

/// Rows in parts whose packed blocks, of so many bytes each, stay in the second-level cache: parts as equal as can be, so that none is
/// so small that the weights are read for little.
fn parts_of(rows: usize, block_bytes: usize) -> impl Iterator<Item = Range<usize>> {
    let all = rows.div_ceil(PANEL);
    let parts = all.div_ceil((LEFT_BYTES / block_bytes).max(1)).max(1);
    let most = all.div_ceil(parts).max(1) * PANEL;
    (0..rows).step_by(most).map(move |first| first..rows.min(first + most))
}

/// The product of packed rows with some panels, over steps that follow each other in both.
struct Pass {
    /// Blocks of so many steps.
    left: *const u8,
    rows: usize,
    /// The first step of the first panel.
    right: *const u8,
    panels: usize,
    /// From one panel to the next.
    panel_bytes: usize,
    steps: usize,
    sums: *mut f32,
    /// The weights that are read after these.
    then: *const u8,
    /// Of how many panels sums are kept: of one more than those that are multiplied, if a panel has one block.
    kept: usize,
    /// Whether to add to the sums that are there.
    accumulates: bool,
}

/// Sums of one block and panel.
#[derive(Clone, Copy)]
struct Found {
    sums: *const f32,
    panel: usize,
    row: usize,
    rows: usize,
}

impl Found {
    /// Where they go in a result of so many outputs, whose biases begin at `bias`; `first` is the result's row of the pass's first one.
    fn block(self, first: usize, outputs: usize, bias: *const f32) -> Block {
        let column = self.panel * PANEL;
        Block {
            sums: self.sums,
            stride: PANEL,
            row: first + self.row,
            rows: self.rows,
            column,
            columns: PANEL.min(outputs - column),
            bias: bias.wrapping_add(column),
        }
    }
}

impl Pass {
    /// Has `finish` take all sums, those of a block while the next one is multiplied: tiles that were just stored cannot be read at
    /// once, and the units of tiles and of registers work at the same time.
    ///
    /// # Safety
    /// As for `Job::run`, and there is a `Tiles`; operands and sums are as large as the pass says, and the sums are initialised if it
    /// accumulates.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn run<const TWO: bool>(&self, mut finish: impl FnMut(Found)) {
        let (step, blocks) = (step_bytes(TWO), self.rows.div_ceil(PANEL));
        // With one block nothing is read twice, so nothing needs to stay near.
        let near = if blocks == 1 { self.steps } else { self.steps.div_ceil(self.steps.div_ceil(NEAR_BYTES / step)) };
        let mut waiting: Option<Found> = None;
        for panel in 0..self.panels {
            for begin in (0..self.steps).step_by(near) {
                let depth = near.min(self.steps - begin);
                let is_last = begin + depth == self.steps;
                // SAFETY: the caller's promise.
                unsafe {
                    let right = self.right.add(panel * self.panel_bytes + begin * step);
                    let next = match (is_last, panel + 1 == self.panels) {
                        (true, true) => self.then,
                        (true, false) => right.wrapping_add(self.panel_bytes - begin * step),
                        (false, _) => right.wrapping_add(depth * step),
                    };
                    for block in 0..blocks {
                        let rows = PANEL.min(self.rows - block * PANEL);
                        let sums = self.sums.add((panel % self.kept * blocks + block) * SUMS);
                        let (ahead, ahead_stride) = ahead(next, depth, step, block);
                        multiply_tiles::<TWO>(&Product {
                            left: self.left.add((block * self.steps + begin) * step),
                            right,
                            depth,
                            sums,
                            sums_stride: PANEL * size_of::<f32>(),
                            rows,
                            accumulates: self.accumulates || begin > 0,
                            ahead,
                            ahead_stride,
                        });
                        if let Some(found) = waiting.take() {
                            finish(found);
                        }
                        if is_last {
                            waiting = Some(Found { sums, panel, row: block * PANEL, rows });
                        }
                    }
                }
            }
        }
        if let Some(found) = waiting {
            finish(found);
        }
    }
}

/// What the product with this block asks for ahead of its use: its share of the next `depth` steps of weights.
fn ahead(next: *const u8, depth: usize, step: usize, block: usize) -> (*const u8, usize) {
    let share = depth * AHEAD_LINES * LINE_BYTES;
    if (block + 1) * share <= depth * step { (next.wrapping_add(block * share), LINE_BYTES) } else { (next, 0) }
}
