//! Sums of products of narrow numbers: one interface over the instructions that multiply a group of them and add the products
//! to a sum of 32 bits, and the block of sums that the product of rows with a packed panel keeps in registers.

#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::{
    lanes::Lanes,
    product::Sums,
    quantise::{Grid, SPAN},
};

#[cfg(target_arch = "aarch64")]
pub(crate) use neon::{NeonBf16, NeonDots, NeonWords};
pub(crate) use portable::PortableWords;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2Vnni, Avx2Words, Avx512Bf16, Avx512Vnni, Avx512Words};

/// How many steps ahead of its use a panel is asked for.
const AHEAD: usize = 16;

/// Bytes of a group of numbers of a row: one lane of a register.
pub(crate) const GROUP_BYTES: usize = 4;

/// Instructions for narrow numbers. A row of x is a sequence of groups; a panel has, for each group, the weights of that group
/// for each of its outputs.
///
/// # Safety of the unsafe methods
/// The machine has the instructions. `weights` reads `WEIGHT_BYTES` for each lane of `Floats`, `group` reads
/// `GROUP_BYTES`, `numbers` reads whole registers of the columns, `put` writes `GROUP_BYTES / GROUP` for each lane. No alignment
/// is needed.
pub(crate) trait Dots {
    /// Registers with as many lanes.
    type Floats: Lanes;
    /// One sum in each lane.
    type Sums: Copy;
    /// A group in each lane.
    type Groups: Copy;

    /// Numbers in a group.
    const GROUP: usize;
    /// Bytes of the weights of one group and output in a panel.
    const WEIGHT_BYTES: usize;
    /// Whether numbers are whole ones on a grid.
    const IS_WHOLE: bool;

    unsafe fn zeros() -> Self::Sums;
    /// The weights of a group for as many outputs as there are lanes.
    unsafe fn weights(from: *const u8) -> Self::Groups;
    /// A group of a row, in all lanes or where `add` finds it.
    unsafe fn group(from: *const u8) -> Self::Groups;
    /// Adds the products of each lane to its sum.
    unsafe fn add(sums: Self::Sums, row: Self::Groups, weights: Self::Groups) -> Self::Sums;
    /// What the sums of a span stand for.
    unsafe fn numbers(sums: Self::Sums, row: Grid, columns: Columns) -> Self::Floats;
    /// Packs numbers of a row.
    unsafe fn put(numbers: Self::Floats, row: Grid, to: *mut u8);
}

/// What is known of the weights of each output in one span of inputs, from some output on. Not read unless numbers are whole.
#[derive(Clone, Copy)]
pub(crate) struct Columns {
    /// What a step of its grid is.
    pub(crate) scales: *const f32,
    /// The sum of its weights, in steps.
    pub(crate) totals: *const f32,
}

impl Columns {
    /// Of numbers that are not whole, in attention.
    #[cfg(target_arch = "x86_64")]
    pub(crate) const NONE: Self = Self { scales: std::ptr::null(), totals: std::ptr::null() };

    #[inline(always)]
    fn after(self, count: usize) -> Self {
        Self { scales: self.scales.wrapping_add(count), totals: self.totals.wrapping_add(count) }
    }
}

/// What whole sums of one span stand for: `(sums - zero · totals) · scales · scale`. The difference is exact, fused or not, because a
/// span has so few numbers; the rest is rounded alike everywhere.
///
/// # Safety
/// The machine has the instructions of `V`; whole registers of the columns can be read.
#[inline(always)]
unsafe fn finished<V: Lanes>(sums: V, row: Grid, columns: Columns) -> V {
    const { assert!(255 * 127 * SPAN < 1 << f32::MANTISSA_DIGITS) };
    // SAFETY: the caller's promise.
    unsafe {
        let whole = V::load(columns.totals).mul_add(V::splat(-row.zero), sums);
        whole * V::load(columns.scales) * V::splat(row.scale)
    }
}

/// Packed rows.
#[derive(Clone, Copy)]
pub(crate) struct PackedRows {
    pub(crate) data: *const u8,
    /// Bytes from row to row.
    pub(crate) stride: usize,
    pub(crate) rows: usize,
    /// Groups in each.
    pub(crate) groups: usize,
    /// For each row one for each span. Not read unless numbers are whole.
    pub(crate) grids: *const Grid,
}

/// Groups of numbers that are summed before sums become what they stand for: those of a span, or all.
pub(crate) const fn summed<D: Dots>(groups: usize) -> usize {
    if D::IS_WHOLE { SPAN / D::GROUP } else { groups }
}

/// Bytes of a panel's weights for one group of inputs.
pub(crate) const fn across<D: Dots>(vectors: usize) -> usize {
    vectors * D::Floats::WIDTH * D::WEIGHT_BYTES
}

/// Writes what rows times a panel of `VECTORS` registers' width stand for.
///
/// # Safety
/// The machine has the instructions of `D`. Rows and their grids can be read; `panel` holds the weights of all groups, without
/// gaps; `columns` are the panel's, a row of its width for each span; `to` can take
/// `left.rows` rows of that width.
#[inline(always)]
pub(crate) unsafe fn product<D: Dots, const VECTORS: usize>(
    left: PackedRows,
    panel: *const u8,
    columns: Columns,
    to: Sums,
) {
    let mut row = 0;
    // As in `crate::product`: whole blocks, then what is left in ever smaller ones.
    // SAFETY: each call takes rows that exist.
    unsafe {
        if D::Floats::BLOCK_ROWS >= 8 {
            row = blocks::<D, 8, VECTORS>(left, row, panel, columns, to);
        }
        if D::Floats::BLOCK_ROWS >= 6 {
            row = blocks::<D, 6, VECTORS>(left, row, panel, columns, to);
        }
        row = blocks::<D, 4, VECTORS>(left, row, panel, columns, to);
        row = blocks::<D, 2, VECTORS>(left, row, panel, columns, to);
        blocks::<D, 1, VECTORS>(left, row, panel, columns, to);
    }
}

/// As many blocks of `ROWS` rows as there are from `row` on; where they end.
#[inline(always)]
unsafe fn blocks<D: Dots, const ROWS: usize, const VECTORS: usize>(
    left: PackedRows,
    mut row: usize,
    panel: *const u8,
    columns: Columns,
    to: Sums,
) -> usize {
    while row + ROWS <= left.rows {
        // SAFETY: the rows exist, in the operand and in the result.
        unsafe {
            let data = left.data.add(row * left.stride);
            let spans = left.groups.div_ceil(summed::<D>(left.groups));
            let rows = PackedRows { data, grids: left.grids.wrapping_add(row * spans), ..left };
            let to = Sums { data: to.data.add(row * to.stride), ..to };
            block::<D, ROWS, VECTORS>(rows, panel, columns, to);
        }
        row += ROWS;
    }
    row
}

#[inline(always)]
unsafe fn block<D: Dots, const ROWS: usize, const VECTORS: usize>(
    left: PackedRows,
    panel: *const u8,
    columns: Columns,
    to: Sums,
) {
    let (width, step, most) = (D::Floats::WIDTH, across::<D>(VECTORS), summed::<D>(left.groups));
    let spans = left.groups.div_ceil(most);
    for span in 0..spans {
        let groups = span * most..left.groups.min((span + 1) * most);
        let columns = columns.after(span * VECTORS * width);
        // SAFETY: `product`'s caller promises the instructions, `ROWS` rows and their grids, all groups of the panel, and room.
        unsafe {
            let mut sums = [[D::zeros(); VECTORS]; ROWS];
            for group in groups {
                let from = panel.add(group * step);
                let mut weights = [D::weights(from); VECTORS];
                for (vector, weights) in weights.iter_mut().enumerate().skip(1) {
                    *weights = D::weights(from.add(vector * width * D::WEIGHT_BYTES));
                }
                D::Floats::prefetch(from.wrapping_add(AHEAD * step).cast());
                for (row, sums) in sums.iter_mut().enumerate() {
                    let numbers = D::group(left.data.add(row * left.stride + group * GROUP_BYTES));
                    for (sums, weights) in sums.iter_mut().zip(weights) {
                        *sums = D::add(*sums, numbers, weights);
                    }
                }
            }
            let grids = Grids { first: left.grids.wrapping_add(span), stride: spans };
            if span == 0 {
                finish::<D, ROWS, VECTORS, true>(sums, grids, columns, to);
            } else {
                finish::<D, ROWS, VECTORS, false>(sums, grids, columns, to);
            }
        }
    }
}

/// The grids of one span of some rows.
#[derive(Clone, Copy)]
pub(crate) struct Grids {
    pub(crate) first: *const Grid,
    /// From one row's to the next one's.
    pub(crate) stride: usize,
}

/// Writes what sums of the first span stand for, or adds that of another one: there are too few registers for sums of both kinds.
///
/// # Safety
/// The machine has the instructions of `D`; there are so many grids, columns and places in the result, which can also be read unless this is
/// the first span.
#[inline(always)]
pub(crate) unsafe fn finish<D: Dots, const ROWS: usize, const VECTORS: usize, const IS_FIRST: bool>(
    sums: [[D::Sums; VECTORS]; ROWS],
    grids: Grids,
    columns: Columns,
    to: Sums,
) {
    let width = D::Floats::WIDTH;
    for (row, sums) in sums.into_iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            let grid = if D::IS_WHOLE { *grids.first.add(row * grids.stride) } else { Grid::default() };
            for (vector, sums) in sums.into_iter().enumerate() {
                let to = to.data.add(row * to.stride + vector * width);
                let numbers = D::numbers(sums, grid, columns.after(vector * width));
                let numbers = if IS_FIRST { numbers } else { D::Floats::load(to) + numbers };
                numbers.store(to);
            }
        }
    }
}
