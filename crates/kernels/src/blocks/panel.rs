//! A panel's blocks, one after the other, and what sums of a block stand for.

use super::{BlockForm, rows::Beside};
use crate::{
    bytes::{Bytes, IN_LANE},
    lanes::Lanes,
    product::Sums,
};

/// A walk along a panel of `VECTORS` registers' width.
pub(super) struct Panel<'a, const VECTORS: usize> {
    form: &'a BlockForm,
    /// Where the next block begins, and how many there were.
    at: *const u8,
    index: usize,
    steps: *const u8,
    lows: *const u8,
    fine: *const u8,
}

impl<'a, const VECTORS: usize> Panel<'a, VECTORS> {
    /// From the beginning of a panel of this form.
    pub(super) fn new(form: &'a BlockForm, at: *const u8) -> Self {
        Self { form, at, index: 0, steps: at, lows: at, fine: at }
    }

    /// The levels of the next block: for each lane's bytes those of each output, or of two lanes in halves of bytes.
    ///
    /// # Safety
    /// There is another block.
    #[inline(always)]
    pub(super) unsafe fn next<B: Bytes>(&mut self) -> *const u8 {
        let width = VECTORS * B::Floats::WIDTH;
        let BlockForm { block, blocks, is_narrow, has_fine, has_lows, .. } = *self.form;
        // SAFETY: the caller's promise; so lie the parts of a panel.
        unsafe {
            if self.index.is_multiple_of(blocks) {
                self.steps = self.at;
                self.at = self.at.add(width * size_of::<f32>());
                if has_lows {
                    self.lows = self.at;
                    self.at = self.at.add(width * size_of::<f32>());
                }
            }
            self.index += 1;
            self.fine = self.at;
            if has_fine {
                self.at = self.at.add(if has_lows { 2 * width } else { width });
            }
            let levels = self.at;
            self.at = self.at.add(width * if is_narrow { block / 2 } else { block });
            levels
        }
    }

    /// The steps of the block before the next.
    ///
    /// # Safety
    /// The machine has the instructions of `B`; there is such a block.
    #[inline(always)]
    pub(super) unsafe fn steps<B: Bytes>(&self) -> [B::Floats; VECTORS] {
        // SAFETY: the caller's promise.
        unsafe { self.scaled::<B>(self.steps, self.fine) }
    }

    /// Its lows, if its form has such.
    ///
    /// # Safety
    /// As for [`steps`](Self::steps).
    #[inline(always)]
    pub(super) unsafe fn lows<B: Bytes>(&self) -> Option<[B::Floats; VECTORS]> {
        // SAFETY: the caller's promise.
        self.form
            .has_lows
            .then(|| unsafe { self.scaled::<B>(self.lows, self.fine.wrapping_add(VECTORS * B::Floats::WIDTH)) })
    }

    /// # Safety
    /// As for [`steps`](Self::steps).
    #[inline(always)]
    unsafe fn scaled<B: Bytes>(&self, shared: *const u8, fine: *const u8) -> [B::Floats; VECTORS] {
        // SAFETY: the caller's promise; there is one for each output of the panel.
        unsafe {
            let mut scaled = [B::Floats::splat(0.0); VECTORS];
            for (vector, scaled) in scaled.iter_mut().enumerate() {
                let first = vector * B::Floats::WIDTH;
                *scaled = B::Floats::load(shared.cast::<f32>().add(first));
                if self.form.has_fine {
                    *scaled = *scaled * B::small(fine.add(first).cast());
                }
            }
            scaled
        }
    }

    /// Bytes of a lane's levels, of all outputs.
    pub(super) const fn lane_bytes<B: Bytes>() -> usize {
        VECTORS * B::Floats::WIDTH * IN_LANE
    }
}

/// Writes what the sums of a row's first block stand for, or adds that of another one: there are too few registers for sums of both kinds.
///
/// # Safety
/// The machine has the instructions of `B`; `to` can take so many registers, and be read unless this is the first block.
#[inline(always)]
pub(super) unsafe fn finish<B: Bytes, const VECTORS: usize, const IS_FIRST: bool>(
    sums: [B::Whole; VECTORS],
    steps: [B::Floats; VECTORS],
    beside: Beside,
    to: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let step = B::Floats::splat(beside.step);
        for (vector, sums) in sums.into_iter().enumerate() {
            let to = to.add(vector * B::Floats::WIDTH);
            let before = if IS_FIRST { B::Floats::splat(0.0) } else { B::Floats::load(to) };
            B::floats(sums).mul_add(steps[vector] * step, before).store(to);
        }
    }
}

/// Adds what the lows of a block stand for, for some rows.
///
/// # Safety
/// The machine has the instructions of `B`; each of the rows, whose blocks are `stride` apart, has so many registers in `to`.
#[inline(always)]
pub(super) unsafe fn finish_lows<B: Bytes, const VECTORS: usize>(
    lows: [B::Floats; VECTORS],
    rows: usize,
    beside: *const Beside,
    stride: usize,
    to: Sums,
) {
    for row in 0..rows {
        // SAFETY: the caller's promise.
        unsafe {
            let beside = *beside.add(row * stride);
            let total = B::Floats::splat(beside.step * beside.total as f32);
            for (vector, low) in lows.into_iter().enumerate() {
                let to = to.data.add(row * to.stride + vector * B::Floats::WIDTH);
                low.mul_add(total, B::Floats::load(to)).store(to);
            }
        }
    }
}
