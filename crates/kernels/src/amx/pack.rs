//! Matrices in tiles: packed weights and packed rows; `docs/kernels.md` draws both.

use std::arch::x86_64::{__m512i, _mm512_mul_ps, _mm512_set1_ps, _mm512_store_si512};

use super::{
    INT8_STEP, PANEL, Parts, STEP, TILE, step_bytes,
    tiles::{Int8, Operands},
};
use crate::{
    Arena, Rows,
    convert::{Halves, Pair, halves, parts as bf16_parts, read},
    quantise::WeightGrids,
    scratch::{LINE_BYTES, Lines},
};

/// Steps of a product over `depth` numbers; at least one, of zeros.
pub(super) fn steps(depth: usize) -> usize {
    depth.div_ceil(STEP).max(1)
}

/// The same for whole numbers.
pub(super) fn int8_steps(depth: usize) -> usize {
    depth.div_ceil(INT8_STEP).max(1)
}

/// Packs weights in panels: for each step the tiles of their high parts, then of their low parts, if there are two.
pub(crate) fn pack(arena: Option<&Arena>, weights: Rows<'_>, parts: Parts) -> Lines {
    let (steps, step_bytes) = (steps(weights.columns()), step_bytes(parts == Parts::Two));
    let mut packed = Lines::zeroed_in(arena, weights.rows().div_ceil(PANEL) * steps * step_bytes / size_of::<f32>());
    let bytes = packed.as_mut_ptr().cast::<u8>();
    for output in 0..weights.rows() {
        for (input, weight) in weights.row(output).iter().enumerate() {
            let at = place_of_weight::<2>(output, input, steps, step_bytes);
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

/// Packs weights that are whole numbers in panels likewise: for each step two tiles.
pub(super) fn pack_int8(arena: Option<&Arena>, weights: Rows<'_>) -> (Lines, WeightGrids) {
    let (steps, step_bytes) = (int8_steps(weights.columns()), Int8::STEP_BYTES);
    let mut packed = Lines::zeroed_in(arena, weights.rows().div_ceil(PANEL) * steps * step_bytes / size_of::<f32>());
    let bytes = packed.as_mut_bytes();
    let grids = WeightGrids::new(weights, PANEL, |output, input, weight| {
        bytes[place_of_weight::<4>(output, input, steps, step_bytes)] = weight.cast_unsigned();
    });
    (packed, grids)
}

/// Where a weight lies, of which `GROUP` are in 32 bits: a line of a tile is so many inputs of sixteen outputs.
fn place_of_weight<const GROUP: usize>(output: usize, input: usize, steps: usize, step_bytes: usize) -> usize {
    let step = 16 * GROUP;
    (output / PANEL * steps + input / step) * step_bytes
        + output % PANEL / 16 * TILE
        + input % step / GROUP * LINE_BYTES
        + output % 16 * 4
        + input % GROUP * (4 / GROUP)
}

/// Packs rows, multiplied with a factor if there is one, in blocks: for each step the tiles of their high parts, then of their low
/// parts, if there are two. Rows after the last stay whatever they were: each row of a product depends on its own row alone.
///
/// # Safety
/// The machine has AVX-512 and its bf16; `to` has room for all blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn pack_rows<const TWO: bool>(rows: Rows<'_>, factor: Option<f32>, to: *mut u8) {
    let (columns, steps) = (rows.columns(), steps(rows.columns()));
    for row in 0..rows.rows() {
        for step in 0..steps {
            // SAFETY: the caller's promise; the numbers are those of the row.
            unsafe {
                let from = rows.as_ptr().wrapping_add(row * rows.stride() + step * STEP);
                let mut numbers = read(from, STEP.min(columns - step * STEP));
                if let Some(factor) = factor {
                    let factor = _mm512_set1_ps(factor);
                    numbers = Pair(_mm512_mul_ps(numbers.0, factor), _mm512_mul_ps(numbers.1, factor));
                }
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
