//! Matrices in tiles: packing weights and rows, and the product of both.

use std::{
    arch::x86_64::{__m512i, _mm512_store_si512},
    ops::Range,
};

use super::{
    PANEL, Parts, STEP, TILE, step_bytes,
    tiles::{AHEAD_LINES, Product, Tiles, multiply as multiply_tiles},
};
use crate::{
    Rows, Scratch,
    convert::{Halves, halves, parts as bf16_parts, read},
    finish::{Block, Target},
    lanes::Avx512,
    scratch::{LINE_BYTES, Lines},
};

/// Bytes of a panel's part that stays in the first-level cache (48 KiB) while all rows pass by.
const NEAR_BYTES: usize = 24 << 10;

/// Bytes of packed rows that stay in the second-level cache (2 MiB) while all panels pass by.
const LEFT_BYTES: usize = 1 << 20;

/// Sums of one block and panel.
pub(super) const SUMS: usize = 32 * PANEL;

/// Packed weights and their bias.
#[derive(Clone, Copy)]
pub(crate) struct Packed<'a> {
    pub(crate) weights: &'a Lines,
    pub(crate) bias: &'a Lines,
    pub(crate) inputs: usize,
}

/// Steps of a product over `depth` numbers; at least one, of zeros.
pub(super) fn steps(depth: usize) -> usize {
    depth.div_ceil(STEP).max(1)
}

/// Packs weights in panels: for each step the tiles of their high parts, then of their low parts, if there are two.
pub(crate) fn pack(weights: Rows<'_>, parts: Parts) -> Lines {
    let (steps, step_bytes) = (steps(weights.columns()), step_bytes(parts == Parts::Two));
    let mut packed = Lines::zeroed(weights.rows().div_ceil(PANEL) * steps * step_bytes / size_of::<f32>());
    let bytes = packed.as_mut_ptr().cast::<u8>();
    for output in 0..weights.rows() {
        for (input, weight) in weights.row(output).iter().enumerate() {
            // A line of a tile is two inputs of sixteen outputs.
            let at = (output / PANEL * steps + input / STEP) * step_bytes
                + output % PANEL / 16 * TILE
                + input % STEP / 2 * LINE_BYTES
                + output % 16 * 4
                + input % 2 * 2;
            let [high, low] = bf16_parts(*weight);
            // SAFETY: panel, step, tile, line and place within it are within what was allocated for all of them.
            unsafe {
                bytes.add(at).cast::<u16>().write(high);
                if parts == Parts::Two {
                    bytes.add(at + 2 * TILE).cast::<u16>().write(low);
                }
            }
        }
    }
    packed
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
        let (rows, steps) = (self.x.rows(), steps(self.packed.inputs));
        let block_bytes = steps * step_bytes(TWO);
        let all = rows.div_ceil(PANEL);
        // Parts as equal as can be, so that none is so small that the weights are read for little.
        let parts = all.div_ceil((LEFT_BYTES / block_bytes).max(1));
        let most = all.div_ceil(parts);
        scratch.left.reserve(most * block_bytes / size_of::<f32>());
        scratch.sums.reserve(most * SUMS);
        // SAFETY: the caller's promise; nothing below configures tiles again.
        let _tiles = unsafe { Tiles::configure() };
        for first in (0..rows).step_by(most * PANEL) {
            let count = rows.min(first + most * PANEL) - first;
            // SAFETY: the caller's promise; the rows exist, and the scratch has room for so many blocks.
            unsafe {
                pack_rows::<TWO>(self.x.rows_in(first..first + count), scratch.left.as_mut_ptr().cast());
                self.panels::<TWO>(first, count, scratch);
            }
        }
    }

    /// The product of `count` packed rows, which are those from `first` on, with all panels.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn panels<const TWO: bool>(&mut self, first: usize, count: usize, scratch: &mut Scratch) {
        let (steps, step) = (steps(self.packed.inputs), step_bytes(TWO));
        let blocks = count.div_ceil(PANEL);
        // With one block nothing is read twice, so nothing needs to stay near.
        let near = if blocks == 1 { steps } else { steps.div_ceil(steps.div_ceil(NEAR_BYTES / step)) };
        let (left, sums) = (scratch.left.as_ptr().cast::<u8>(), scratch.sums.as_mut_ptr());
        for column in (0..self.outputs.len()).step_by(PANEL) {
            let output = self.outputs.start + column;
            for begin in (0..steps).step_by(near) {
                let depth = near.min(steps - begin);
                // SAFETY: packed weights, packed rows and sums are as large as panels, blocks and steps say; `multiply` of the
                // matrix checked the shapes.
                unsafe {
                    let right = self.packed.weights.as_ptr().cast::<u8>().add((output / PANEL * steps + begin) * step);
                    for block in 0..blocks {
                        let rows = PANEL.min(count - block * PANEL);
                        let sums = sums.add(block * SUMS);
                        debug_assert!(
                            (output / PANEL * steps + begin + depth) * step <= self.packed.weights.bytes()
                                && (block * steps + begin + depth) * step <= scratch.left.bytes()
                                && (block + 1) * SUMS * size_of::<f32>() <= scratch.sums.bytes()
                                && output + PANEL <= self.packed.bias.len()
                        );
                        let (ahead, ahead_stride) = ahead(right.wrapping_add(depth * step), depth, step, block);
                        multiply_tiles::<TWO>(&Product {
                            left: left.add((block * steps + begin) * step),
                            right,
                            depth,
                            sums,
                            sums_stride: PANEL * size_of::<f32>(),
                            rows,
                            accumulates: begin > 0,
                            ahead,
                            ahead_stride,
                        });
                        if begin + depth == steps {
                            self.target.take::<Avx512>(Block {
                                sums,
                                stride: PANEL,
                                row: first + block * PANEL,
                                rows,
                                column,
                                columns: PANEL.min(self.outputs.len() - column),
                                bias: self.packed.bias.as_ptr().add(output),
                            });
                        }
                    }
                }
            }
        }
    }
}

/// What the product with this block asks for ahead of its use: its share of the next `depth` steps of weights, which follow
/// the current ones in memory.
fn ahead(next: *const u8, depth: usize, step: usize, block: usize) -> (*const u8, usize) {
    let share = depth * AHEAD_LINES * LINE_BYTES;
    if (block + 1) * share <= depth * step { (next.wrapping_add(block * share), LINE_BYTES) } else { (next, 0) }
}

/// Packs rows in blocks: for each step the tiles of their high parts, then of their low parts, if there are two. Rows after the
/// last stay whatever they were: each row of a product depends on its own row alone.
///
/// # Safety
/// The machine has AVX-512 and its bf16; `to` has room for all blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn pack_rows<const TWO: bool>(rows: Rows<'_>, to: *mut u8) {
    let (columns, steps) = (rows.columns(), steps(rows.columns()));
    for row in 0..rows.rows() {
        for step in 0..steps {
            // SAFETY: the caller's promise; the numbers are those of the row.
            unsafe {
                let from = rows.as_ptr().wrapping_add(row * rows.stride() + step * STEP);
                let numbers = read(from, STEP.min(columns - step * STEP));
                store::<TWO>(line_of_row(to, steps, row, step, TWO), halves::<TWO>(numbers));
            }
        }
    }
}

/// Where the high parts of one row and step lie in packed rows.
#[inline(always)]
pub(super) fn line_of_row(packed: *mut u8, steps: usize, row: usize, step: usize, two: bool) -> *mut u8 {
    let tile = (row / PANEL * steps + step) * step_bytes(two) + row % PANEL / 16 * TILE;
    packed.wrapping_add(tile + row % 16 * LINE_BYTES)
}

/// Stores a line of high parts, and where there are two parts, that of the low ones, two tiles further.
///
/// # Safety
/// The machine has AVX-512; the lines can be written and are aligned.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn store<const TWO: bool>(to: *mut u8, halves: Halves) {
    // SAFETY: the caller's promise.
    unsafe {
        _mm512_store_si512(to.cast::<__m512i>(), halves.high);
        if TWO {
            _mm512_store_si512(to.add(2 * TILE).cast::<__m512i>(), halves.low);
        }
    }
}
