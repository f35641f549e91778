//! Keys and values of one head, packed for products in tiles.

use std::arch::x86_64::{_mm512_setzero_ps, _mm512_setzero_si512};

use super::super::{
    PANEL, STEP, TILE,
    pack::{steps, store},
    step_bytes,
};
use crate::{
    Rows,
    convert::{Halves, Pair, halves, interleaved, read, transposed},
    scratch::LINE_BYTES,
};

/// Up to 32 numbers of a row from `column` on as bf16, zeros after them and where there is no such row.
///
/// # Safety
/// The machine has AVX-512 and its bf16; `column` is within the rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn line<const TWO: bool>(rows: Rows<'_>, row: usize, column: usize) -> Halves {
    if row >= rows.rows() {
        return halves::<TWO>(Pair(_mm512_setzero_ps(), _mm512_setzero_ps()));
    }
    // SAFETY: the row exists, and has `columns - column` numbers from here on.
    unsafe {
        let from = rows.as_ptr().add(row * rows.stride() + column);
        halves::<TWO>(read(from, STEP.min(rows.columns() - column)))
    }
}

/// Packs keys in panels of 32, as weights are: a line of a tile is two columns of sixteen keys.
///
/// # Safety
/// The machine has AVX-512 and its bf16; there is room for all panels.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn pack_keys<const TWO: bool>(keys: Rows<'_>, to: *mut u8) {
    let width_steps = steps(keys.columns());
    // Whole panels, because both tiles are read.
    for first in (0..keys.rows().next_multiple_of(PANEL)).step_by(16) {
        for step in 0..width_steps {
            let tile = (first / PANEL * width_steps + step) * step_bytes(TWO) + first % PANEL / 16 * TILE;
            let (mut high, mut low) = ([_mm512_setzero_si512(); 16], [_mm512_setzero_si512(); 16]);
            for key in 0..16 {
                // SAFETY: the caller's promise; the step begins within the row.
                let line = unsafe { line::<TWO>(keys, first + key, step * STEP) };
                (high[key], low[key]) = (line.high, line.low);
            }
            let high = transposed(high);
            let low = if TWO { transposed(low) } else { high };
            for (line, (high, low)) in high.into_iter().zip(low).enumerate() {
                // SAFETY: the caller's promise.
                unsafe { store::<TWO>(to.add(tile + line * LINE_BYTES), Halves { high, low }) }
            }
        }
    }
}

/// Packs values in panels of 32 columns: a line of a tile is sixteen columns of two tokens.
///
/// # Safety
/// The machine has AVX-512 and its bf16; there is room for all panels.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn pack_values<const TWO: bool>(values: Rows<'_>, to: *mut u8) {
    let length_steps = steps(values.rows());
    for token in (0..length_steps * STEP).step_by(2) {
        for column in (0..values.columns()).step_by(PANEL) {
            let panel = (column / PANEL * length_steps + token / STEP) * step_bytes(TWO);
            // SAFETY: the caller's promise; the panel begins within the row.
            unsafe {
                let [even, odd] = [line::<TWO>(values, token, column), line::<TWO>(values, token + 1, column)];
                let [high, low] = [interleaved(even.high, odd.high), interleaved(even.low, odd.low)];
                for (tile, (high, low)) in high.into_iter().zip(low).enumerate() {
                    let at = panel + tile * TILE + token % STEP / 2 * LINE_BYTES;
                    store::<TWO>(to.add(at), Halves { high, low });
                }
            }
        }
    }
}
