//! Where finished sums go: to rows of f32, or packed for another product.

use std::ptr;

use super::{
    PANEL,
    pack::{line_of_row, store},
    pass::Found,
};
use crate::{
    convert::{Pair, halves},
    finish::{Function, Target},
    lanes::{Avx512, Lanes},
    scratch::LINE,
};

/// Some rows of a result, and what is added to each number.
#[derive(Clone, Copy)]
pub(super) struct Results {
    first: *mut f32,
    stride: usize,
    /// Numbers in a row.
    columns: usize,
    /// What is added in the end, if anything is.
    others: *const f32,
    others_stride: usize,
}

impl Results {
    /// The rows of a target from `row` on.
    ///
    /// # Safety
    /// There is such a row.
    pub(super) unsafe fn new(target: &mut Target<'_>, row: usize) -> Self {
        let (stride, columns) = (target.result.stride(), target.result.columns());
        // SAFETY: the caller's promise.
        let first = unsafe { target.result.as_mut_ptr().add(row * stride) };
        let others = target.epilogue.residual;
        let others_stride = others.map_or(0, |others| others.stride());
        let others = others.map_or(ptr::null(), |others| others.as_ptr().wrapping_add(row * others_stride));
        Self { first, stride, columns, others, others_stride }
    }

    /// Writes the function of a row's sums, with what is `ADDED`.
    ///
    /// # Safety
    /// The machine has AVX-512; these sums, their row and columns exist.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub(super) unsafe fn take<F: Function, const ADDED: bool>(self, found: Found) {
        let column = found.panel * PANEL;
        // SAFETY: the caller's promise.
        unsafe {
            match self.columns - column {
                PANEL.. => self.put::<F, ADDED>(found, column, [LINE; 2]),
                count => self.put::<F, ADDED>(found, column, [count.min(LINE), count.saturating_sub(LINE)]),
            }
        }
    }

    /// # Safety
    /// As for `take`; the row has so many numbers from this column on.
    #[inline(always)]
    unsafe fn put<F: Function, const ADDED: bool>(self, found: Found, column: usize, counts: [usize; 2]) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut values = [F::of(Avx512::load(found.sums)), F::of(Avx512::load(found.sums.add(LINE)))];
            if ADDED {
                let others = self.others.add(found.row * self.others_stride + column);
                values[0] = values[0] + Avx512::load_some(others, counts[0]);
                values[1] = values[1] + Avx512::load_some(others.wrapping_add(LINE), counts[1]);
            }
            let to = self.first.add(found.row * self.stride + column);
            values[0].store_some(to, counts[0]);
            values[1].store_some(to.wrapping_add(LINE), counts[1]);
        }
    }
}

/// What is between two products, packed for the second.
#[derive(Clone, Copy)]
pub(super) struct Between {
    pub(super) packed: *mut u8,
    /// In a block.
    pub(super) steps: usize,
}

impl Between {
    /// Packs the function of a row's sums: the outputs of a panel are the numbers of one step.
    ///
    /// # Safety
    /// The machine has AVX-512 and its bf16; these sums exist, and the packed rows have room for them.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub(super) unsafe fn take<F: Function, const TWO: bool>(self, found: Found) {
        // SAFETY: the caller's promise.
        unsafe {
            let [first, second] = [F::of(Avx512::load(found.sums)), F::of(Avx512::load(found.sums.add(LINE)))];
            let to = line_of_row(self.packed, self.steps, found.row, found.panel, TWO);
            store::<TWO>(to, halves::<TWO>(Pair(first.0, second.0)));
        }
    }
}
