//! The product of rows with blocks in registers: a block of whole sums at a time, which then become what they stand for.

use std::ops::Range;

use super::{
    BlockForm, Packed,
    panel::{Panel, finish, finish_lows},
    rows::{Beside, ROW_BLOCK, in_steps},
};
use crate::{
    Rows, Scratch,
    bytes::{Bytes, IN_LANE},
    cpu::BytesWork,
    finish::{Block, Target},
    lanes::Lanes,
    matrix::{LEFT_BYTES, OnLines, SUMS},
    product::Sums,
    scratch::{LINE_BYTES, Lines},
};

/// How many bytes ahead of its use a panel is asked for.
const AHEAD: usize = 2048;

/// The product of rows with some outputs, in registers.
pub(super) struct Multiply<'a> {
    pub(super) packed: &'a Packed,
    pub(super) bias: &'a Lines,
    pub(super) x: Rows<'a>,
    pub(super) outputs: Range<usize>,
    pub(super) target: Target<'a>,
    pub(super) scratch: &'a mut Scratch,
}

/// Packed rows.
#[derive(Clone, Copy)]
struct PackedRows {
    data: *const u8,
    /// Bytes from row to row.
    stride: usize,
    rows: usize,
    /// One for each block of each row.
    beside: *const Beside,
    /// Blocks of a row.
    blocks: usize,
}

impl BytesWork for Multiply<'_> {
    #[inline(always)]
    unsafe fn run<B: Bytes>(mut self) {
        let (all, together) = (self.x.rows(), B::Floats::BLOCK_ROWS);
        let stride = self.x.columns().next_multiple_of(LINE_BYTES);
        let most = (LEFT_BYTES / stride.max(1)).max(together);
        // As in the product of f32: parts as equal as can be, of whole blocks.
        let most = all.div_ceil(all.div_ceil(most)).next_multiple_of(together);
        for first in (0..all).step_by(most) {
            let rows = first..all.min(first + most);
            // SAFETY: the caller's promise.
            unsafe {
                let left = self.pack(rows, stride);
                match (self.packed.form.block, self.packed.form.is_narrow) {
                    (16, false) => self.across::<B, 4, false>(first, left),
                    (16, true) => self.across::<B, 4, true>(first, left),
                    (_, false) => self.across::<B, 8, false>(first, left),
                    (_, true) => self.across::<B, 8, true>(first, left),
                }
            }
        }
    }
}

impl Multiply<'_> {
    /// Packs some rows.
    #[inline(always)]
    fn pack(&mut self, rows: Range<usize>, stride: usize) -> PackedRows {
        let (count, block) = (rows.len(), self.packed.form.block);
        let blocks = self.x.columns() / block;
        let Scratch { left, beside, .. } = &mut *self.scratch;
        left.reserve(count * stride / size_of::<f32>());
        beside.clear();
        let bytes = left.as_mut_bytes();
        for (place, row) in rows.enumerate() {
            let (numbers, _) = self.x.row(row).as_chunks::<ROW_BLOCK>();
            let (to, _) = bytes[place * stride..].as_chunks_mut::<ROW_BLOCK>();
            for (numbers, to) in numbers.iter().zip(to) {
                beside.extend(in_steps(numbers, to, block));
            }
        }
        PackedRows { data: left.as_ptr().cast(), stride, rows: count, beside: beside.as_ptr(), blocks }
    }

    #[inline(always)]
    unsafe fn across<B: Bytes, const GROUPS: usize, const NARROW: bool>(&mut self, first: usize, left: PackedRows) {
        // SAFETY: the caller's promise.
        unsafe {
            match B::Floats::BLOCK_VECTORS {
                3 => self.panels::<B, 3, GROUPS, NARROW>(first, left),
                2 => self.panels::<B, 2, GROUPS, NARROW>(first, left),
                _ => self.panels::<B, 1, GROUPS, NARROW>(first, left),
            }
        }
    }

    /// The product of packed rows, which are those from `first` on, with all panels.
    #[inline(always)]
    unsafe fn panels<B: Bytes, const VECTORS: usize, const GROUPS: usize, const NARROW: bool>(
        &mut self,
        first: usize,
        left: PackedRows,
    ) {
        const { assert!(B::Floats::BLOCK_ROWS * B::Floats::BLOCK_VECTORS * B::Floats::WIDTH <= SUMS) };
        let (width, block) = (VECTORS * B::Floats::WIDTH, B::Floats::BLOCK_ROWS);
        let mut sums = OnLines([0.0; SUMS]);
        for column in (0..self.outputs.len()).step_by(width) {
            let output = self.outputs.start + column;
            for row in (0..left.rows).step_by(block) {
                let rows = block.min(left.rows - row);
                // SAFETY: `multiply` of the matrix checked the shapes; a panel begins every `width` outputs and is padded, as is the
                // bias; those rows were packed.
                unsafe {
                    debug_assert!(output + width <= self.bias.len());
                    let panel = self.packed.panel(output, self.x.columns());
                    let data = left.data.add(row * left.stride);
                    let some = PackedRows { data, rows, beside: left.beside.add(row * left.blocks), ..left };
                    let to = Sums { data: sums.0.as_mut_ptr(), stride: width };
                    product::<B, VECTORS, GROUPS, NARROW>(some, panel, &self.packed.form, to);
                    self.target.take::<B::Floats>(Block {
                        sums: sums.0.as_ptr(),
                        stride: width,
                        row: first + row,
                        rows,
                        column,
                        columns: width.min(self.outputs.len() - column),
                        bias: self.bias.as_ptr().add(output),
                    });
                }
            }
        }
    }
}

/// Writes rows times a panel of `VECTORS` registers' width.
///
/// # Safety
/// The machine has the instructions of `B`. Rows and what is beside them can be read; the panel is of that form, which has blocks of
/// `GROUPS` lanes; `to` can take `left.rows` rows of that width.
#[inline(always)]
unsafe fn product<B: Bytes, const VECTORS: usize, const GROUPS: usize, const NARROW: bool>(
    left: PackedRows,
    panel: *const u8,
    form: &BlockForm,
    to: Sums,
) {
    let mut row = 0;
    // As in `crate::product`: whole blocks, then what is left in ever smaller ones.
    // SAFETY: each call takes rows that exist.
    unsafe {
        if B::Floats::BLOCK_ROWS >= 8 {
            row = some::<B, 8, VECTORS, GROUPS, NARROW>(left, row, panel, form, to);
        }
        if B::Floats::BLOCK_ROWS >= 6 {
            row = some::<B, 6, VECTORS, GROUPS, NARROW>(left, row, panel, form, to);
        }
        row = some::<B, 4, VECTORS, GROUPS, NARROW>(left, row, panel, form, to);
        row = some::<B, 2, VECTORS, GROUPS, NARROW>(left, row, panel, form, to);
        some::<B, 1, VECTORS, GROUPS, NARROW>(left, row, panel, form, to);
    }
}

/// As many times `ROWS` rows as there are from `row` on; where they end.
#[inline(always)]
unsafe fn some<B: Bytes, const ROWS: usize, const VECTORS: usize, const GROUPS: usize, const NARROW: bool>(
    left: PackedRows,
    mut row: usize,
    panel: *const u8,
    form: &BlockForm,
    to: Sums,
) -> usize {
    while row + ROWS <= left.rows {
        // SAFETY: the rows exist, in the operand and in the result.
        unsafe {
            let data = left.data.add(row * left.stride);
            let rows = PackedRows { data, beside: left.beside.add(row * left.blocks), ..left };
            let to = Sums { data: to.data.add(row * to.stride), ..to };
            block::<B, ROWS, VECTORS, GROUPS, NARROW>(rows, panel, form, to);
        }
        row += ROWS;
    }
    row
}

#[inline(always)]
unsafe fn block<B: Bytes, const ROWS: usize, const VECTORS: usize, const GROUPS: usize, const NARROW: bool>(
    left: PackedRows,
    panel: *const u8,
    form: &BlockForm,
    to: Sums,
) {
    let mut panel = Panel::<VECTORS>::new(form, panel);
    for index in 0..left.blocks {
        // SAFETY: `product`'s caller promises the instructions, `ROWS` rows, all blocks of the panel, and room.
        unsafe {
            let levels = panel.next::<B>();
            let beside = left.beside.add(index);
            let mut sums = [[B::splat(0); VECTORS]; ROWS];
            for (row, sums) in sums.iter_mut().enumerate() {
                let total = (*beside.add(row * left.blocks)).total;
                *sums = [B::splat(-i32::from(form.zero) * total); VECTORS];
            }
            let data = left.data.add(index * GROUPS * IN_LANE);
            for group in 0..if NARROW { GROUPS / 2 } else { GROUPS } {
                let levels = levels.add(group * Panel::<VECTORS>::lane_bytes::<B>());
                let mut weights = [B::splat(0); VECTORS];
                for (vector, weights) in weights.iter_mut().enumerate() {
                    let from = levels.add(vector * B::Floats::WIDTH * IN_LANE);
                    *weights = B::load(from);
                    B::Floats::prefetch(from.wrapping_add(AHEAD).cast());
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let data = data.add(row * left.stride);
                    let numbers = B::group(data.add(group * IN_LANE));
                    for (sums, weights) in sums.iter_mut().zip(weights) {
                        let weights = if NARROW { B::lower(weights) } else { weights };
                        *sums = B::add(*sums, weights, numbers);
                    }
                    if NARROW {
                        let numbers = B::group(data.add((GROUPS / 2 + group) * IN_LANE));
                        for (sums, weights) in sums.iter_mut().zip(weights) {
                            *sums = B::add(*sums, B::upper(weights), numbers);
                        }
                    }
                }
            }
            let steps = panel.steps::<B>();
            for (row, sums) in sums.into_iter().enumerate() {
                let (beside, to) = (*beside.add(row * left.blocks), to.data.add(row * to.stride));
                if index == 0 {
                    finish::<B, VECTORS, true>(sums, steps, beside, to);
                } else {
                    finish::<B, VECTORS, false>(sums, steps, beside, to);
                }
            }
            if let Some(lows) = panel.lows::<B>() {
                finish_lows::<B, VECTORS>(lows, ROWS, beside, left.blocks, to);
            }
        }
    }
}
