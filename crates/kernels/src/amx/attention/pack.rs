//! Keys and values of one head, packed for products in tiles.

use std::arch::x86_64::{_mm512_load_si512, _mm512_setzero_si512};

use super::super::{
    PANEL, STEP, TILE,
    pack::{line_of_row, steps, store},
    step_bytes,
};
use crate::{
    Rows,
    convert::{Halves, halves, interleaved, read, transposed},
    scratch::LINE_BYTES,
};

/// Keys or values of one head of one sequence.
pub(super) trait Lined: Copy {
    /// How many rows there are.
    fn rows(self) -> usize;

    /// Columns, as steps.
    fn steps(self) -> usize;

    /// 32 numbers of a row as bf16, zeros after the last column.
    ///
    /// # Safety
    /// The machine has AVX-512 and its bf16; there are such a row and step.
    unsafe fn line<const TWO: bool>(self, row: usize, step: usize) -> Halves;
}

impl Lined for Rows<'_> {
    fn rows(self) -> usize {
        Rows::rows(&self)
    }

    fn steps(self) -> usize {
        steps(self.columns())
    }

    #[inline(always)]
    unsafe fn line<const TWO: bool>(self, row: usize, step: usize) -> Halves {
        // SAFETY: the row exists, and has so many numbers from here on.
        unsafe {
            let from = self.as_ptr().add(row * self.stride() + step * STEP);
            halves::<TWO>(read(from, STEP.min(self.columns() - step * STEP)))
        }
    }
}

/// Rows that were packed as left operands are.
#[derive(Clone, Copy)]
pub(super) struct PackedRows {
    pub(super) packed: *mut u8,
    /// The first of them.
    pub(super) first: usize,
    pub(super) rows: usize,
    pub(super) steps: usize,
}

impl Lined for PackedRows {
    fn rows(self) -> usize {
        self.rows
    }

    fn steps(self) -> usize {
        self.steps
    }

    #[inline(always)]
    unsafe fn line<const TWO: bool>(self, row: usize, step: usize) -> Halves {
        // SAFETY: the caller's promise.
        unsafe {
            let from = line_of_row(self.packed, self.steps, self.first + row, step, TWO);
            let high = _mm512_load_si512(from.cast());
            Halves {
                high,
                low: if TWO { _mm512_load_si512(from.add(2 * TILE).cast()) } else { _mm512_setzero_si512() },
            }
        }
    }
}

/// A line of a row, or zeros where there is no such row.
///
/// # Safety
/// As for [`Lined::line`], but for the row.
#[inline(always)]
unsafe fn line<const TWO: bool>(rows: impl Lined, row: usize, step: usize) -> Halves {
    // SAFETY: the caller's promise.
    unsafe {
        if row < rows.rows() {
            rows.line::<TWO>(row, step)
        } else {
            Halves { high: _mm512_setzero_si512(), low: _mm512_setzero_si512() }
        }
    }
}

/// Packs keys in panels of 32, as weights are: a line of a tile is two columns of sixteen keys.
///
/// # Safety
/// The machine has AVX-512 and its bf16; there is room for all panels.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn pack_keys<const TWO: bool>(keys: impl Lined, to: *mut u8) {
    let width_steps = keys.steps();
    // Whole panels, because both tiles are read.
    for first in (0..keys.rows().next_multiple_of(PANEL)).step_by(16) {
        for step in 0..width_steps {
            let tile = (first / PANEL * width_steps + step) * step_bytes(TWO) + first % PANEL / 16 * TILE;
            let (mut high, mut low) = ([_mm512_setzero_si512(); 16], [_mm512_setzero_si512(); 16]);
            // Where there are none, zeros need not change places.
            if first < keys.rows() {
                for key in 0..16 {
                    // SAFETY: the caller's promise; the step begins within the row.
                    let line = unsafe { line::<TWO>(keys, first + key, step) };
                    (high[key], low[key]) = (line.high, line.low);
                }
                high = transposed(high);
                low = if TWO { transposed(low) } else { high };
            }
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
pub(super) unsafe fn pack_values<const TWO: bool>(values: impl Lined, to: *mut u8) {
    let length_steps = steps(values.rows());
    for token in (0..length_steps * STEP).step_by(2) {
        for step in 0..values.steps() {
            let panel = (step * length_steps + token / STEP) * step_bytes(TWO);
            // SAFETY: the caller's promise.
            unsafe {
                let [even, odd] = [line::<TWO>(values, token, step), line::<TWO>(values, token + 1, step)];
                let [high, low] = [interleaved(even.high, odd.high), interleaved(even.low, odd.low)];
                for (tile, (high, low)) in high.into_iter().zip(low).enumerate() {
                    let at = panel + tile * TILE + token % STEP / 2 * LINE_BYTES;
                    store::<TWO>(to.add(at), Halves { high, low });
                }
            }
        }
    }
}
