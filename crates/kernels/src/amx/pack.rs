//! Matrices in tiles: packed weights and packed rows; `docs/kernels.md` draws both.

use std::arch::x86_64::{__m512i, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_si512, _mm512_store_si512};

use super::{
    INT8_STEP, PANEL, Parts, STEP, TILE, step_bytes,
    tiles::{Int8, Operands},
};
use crate::{
    Rows,
    convert::{Halves, Pair, halves, read, transposed},
    quantise::WeightGrids,
    scratch::{LINE_BYTES, Lines},
    source::Source,
};

/// Steps of a product over `depth` numbers; at least one, of zeros.
pub(super) fn steps(depth: usize) -> usize {
    depth.div_ceil(STEP).max(1)
}

/// The same for whole numbers.
pub(super) fn int8_steps(depth: usize) -> usize {
    depth.div_ceil(INT8_STEP).max(1)
}

/// Numbers, of 32 bits, that have room for the panels of a matrix.
fn length(outputs: usize, inputs: usize, parts: Parts) -> usize {
    outputs.div_ceil(PANEL) * steps(inputs) * step_bytes(parts == Parts::Two) / size_of::<f32>()
}

/// The same of whole numbers.
fn int8_length(outputs: usize, inputs: usize) -> usize {
    outputs.div_ceil(PANEL) * int8_steps(inputs) * Int8::STEP_BYTES / size_of::<f32>()
}

/// Weights in panels: for each step the tiles of their high parts, then of their low parts, if there are two. `None` where what was kept
/// is not as long.
pub(crate) fn pack(source: &mut Source<'_>, parts: Parts) -> Option<Lines> {
    let (outputs, inputs) = source.shape();
    let mut packed = source.take(length(outputs, inputs, parts))?;
    if let Some(weights) = source.rows() {
        let to = packed.as_mut_ptr().cast::<u8>();
        // SAFETY: whoever has tiles has those instructions; that many steps of panels were allocated.
        unsafe {
            match parts {
                Parts::One => pack_weights::<false>(weights, to),
                Parts::Two => pack_weights::<true>(weights, to),
            }
        }
    }
    Some(packed)
}

/// Packs weights a tile at a time, of which each line is a pair of inputs of sixteen outputs. Tiles of no output are not written.
///
/// # Safety
/// The machine has AVX-512 and its bf16; `to` has room for all panels, and is aligned to lines.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pack_weights<const TWO: bool>(weights: Rows<'_>, to: *mut u8) {
    let (inputs, steps) = (weights.columns(), steps(weights.columns()));
    for first in (0..weights.rows()).step_by(16) {
        for step in 0..steps {
            let mut lines = [Halves { high: _mm512_setzero_si512(), low: _mm512_setzero_si512() }; 16];
            for (output, line) in (first..weights.rows()).zip(&mut lines) {
                let from = weights.as_ptr().wrapping_add(output * weights.stride() + step * STEP);
                // SAFETY: the numbers are those of the row.
                *line = halves::<TWO>(unsafe { read(from, STEP.min(inputs - step * STEP)) });
            }
            let tile = before_tile(first, step, steps, step_bytes(TWO));
            let (high, low) = (transposed(lines.map(|line| line.high)), transposed(lines.map(|line| line.low)));
            for (pair, (high, low)) in high.into_iter().zip(low).enumerate() {
                // SAFETY: the caller's promise.
                unsafe { store::<TWO>(to.wrapping_add(tile + pair * LINE_BYTES), Halves { high, low }) };
            }
        }
    }
}

/// Weights that are whole numbers in panels likewise: for each step two tiles.
pub(super) fn pack_int8(source: &mut Source<'_>) -> Option<(Lines, WeightGrids)> {
    let (outputs, inputs) = source.shape();
    let steps = int8_steps(inputs);
    let mut packed = source.take(int8_length(outputs, inputs))?;
    let grids = WeightGrids::new(source, PANEL, |output, first, weights| {
        let bytes = packed.as_mut_bytes();
        for (four, input) in weights.chunks(4).zip((first..).step_by(4)) {
            let place = &mut bytes[place_of_fours(output, input, steps)..][..4];
            place.iter_mut().zip(four).for_each(|(byte, weight)| *byte = weight.cast_unsigned());
        }
    })?;
    Some((packed, grids))
}

/// Where the weights of four inputs lie, of which this is the first: a line of a tile is those of sixteen outputs.
fn place_of_fours(output: usize, input: usize, steps: usize) -> usize {
    before_tile(output, input / INT8_STEP, steps, Int8::STEP_BYTES)
        + input % INT8_STEP / 4 * LINE_BYTES
        + output % 16 * 4
}

/// Bytes before a tile, of high parts where there are two: that of one step and of the sixteen rows, or outputs, of which this is one.
#[inline(always)]
fn before_tile(row: usize, step: usize, steps: usize, step_bytes: usize) -> usize {
    (row / PANEL * steps + step) * step_bytes + row % PANEL / 16 * TILE
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
    packed.wrapping_add(before_tile(row, step, steps, step_bytes(two)) + row % 16 * LINE_BYTES)
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
