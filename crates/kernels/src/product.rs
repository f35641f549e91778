//! The product at the heart of matrices and attention where there are no tiles: rows times one packed panel, with a block of
//! sums in registers.

use crate::lanes::Lanes;

/// How many steps ahead of its use a panel is asked for.
const AHEAD: usize = 16;

/// The rows of a left operand.
#[derive(Clone, Copy)]
pub(crate) struct Left {
    pub(crate) data: *const f32,
    pub(crate) stride: usize,
    pub(crate) rows: usize,
    /// Columns, which are the panel's rows.
    pub(crate) depth: usize,
}

/// Where sums go.
#[derive(Clone, Copy)]
pub(crate) struct Sums {
    pub(crate) data: *mut f32,
    pub(crate) stride: usize,
}

/// Writes `left` times a panel of `VECTORS` registers' width.
///
/// # Safety
/// The machine has the instructions of `V`. `left` can be read; `panel` holds `depth` rows of `VECTORS * V::WIDTH` numbers
/// without gaps; `sums` can take `left.rows` rows of so many.
#[inline(always)]
pub(crate) unsafe fn product<V: Lanes, const VECTORS: usize>(left: Left, panel: *const f32, sums: Sums) {
    let mut row = 0;
    // Whole blocks, then what is left in ever smaller ones: no row is computed in vain, and few rows do not wait for many.
    // SAFETY: each call takes rows that exist, in the operand and in the sums.
    unsafe {
        if V::BLOCK_ROWS >= 8 {
            row = blocks::<V, 8, VECTORS>(left, row, panel, sums);
        }
        if V::BLOCK_ROWS >= 6 {
            row = blocks::<V, 6, VECTORS>(left, row, panel, sums);
        }
        row = blocks::<V, 4, VECTORS>(left, row, panel, sums);
        row = blocks::<V, 2, VECTORS>(left, row, panel, sums);
        blocks::<V, 1, VECTORS>(left, row, panel, sums);
    }
}

/// As many blocks of `ROWS` rows as there are from `row` on; where they end.
#[inline(always)]
unsafe fn blocks<V: Lanes, const ROWS: usize, const VECTORS: usize>(
    left: Left,
    mut row: usize,
    panel: *const f32,
    sums: Sums,
) -> usize {
    while row + ROWS <= left.rows {
        // SAFETY: the rows exist, in the operand and in the sums.
        unsafe {
            let left = Left { data: left.data.wrapping_add(row * left.stride), ..left };
            let sums = Sums { data: sums.data.add(row * sums.stride), ..sums };
            block::<V, ROWS, VECTORS>(left, panel, sums);
        }
        row += ROWS;
    }
    row
}

#[inline(always)]
unsafe fn block<V: Lanes, const ROWS: usize, const VECTORS: usize>(left: Left, panel: *const f32, sums: Sums) {
    // SAFETY: `product`'s caller promises the instructions, `depth` numbers of `ROWS` rows, `depth` rows of the panel and
    // room for the sums.
    unsafe {
        let mut sum = [[V::splat(0.0); VECTORS]; ROWS];
        for step in 0..left.depth {
            let across = panel.add(step * VECTORS * V::WIDTH);
            let mut right = [V::splat(0.0); VECTORS];
            for (vector, right) in right.iter_mut().enumerate() {
                *right = V::load(across.add(vector * V::WIDTH));
            }
            V::prefetch(across.wrapping_add(AHEAD * VECTORS * V::WIDTH));
            for (row, sum) in sum.iter_mut().enumerate() {
                let factor = V::factor(left.data.add(row * left.stride), step);
                for (sum, right) in sum.iter_mut().zip(right) {
                    *sum = factor.mul_add(right, *sum);
                }
            }
        }
        for (row, sum) in sum.into_iter().enumerate() {
            for (vector, sum) in sum.into_iter().enumerate() {
                sum.store(sums.data.add(row * sums.stride + vector * V::WIDTH));
            }
        }
    }
}
