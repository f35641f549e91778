//! Attention with AVX-512 BF16: scores and results are products of bf16 in registers; their sums and softmax are f32.

use std::{arch::x86_64::*, f32::consts::LOG2_E, ops::Range, ptr};

use super::{Attention, Bias, power_of_two, scaled};
use crate::{
    Rows, RowsMut, Scratch,
    convert::{Pair, bf16, interleaved, read, transposed},
    dots::{Avx512Bf16, Columns, GROUP_BYTES, PackedRows, product},
    lanes::{Avx512, Lanes, first_of_16},
    product::Sums,
    scratch::{LINE, LINE_BYTES, Lines},
};

/// Keys, or columns of values, in a panel: two registers.
const PANEL: usize = 2 * LINE;

/// Numbers of bf16 in a line, which is sixteen groups.
const NARROW: usize = 2 * LINE;

/// Queries that are weighed together.
const BLOCK: usize = 8;

/// As [`crate::attention()`], which checked everything.
///
/// # Safety
/// The machine has AVX-512 F, BW, DQ, VL and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn attention(input: &Attention<'_>, mut y: RowsMut<'_>, scratch: &mut Scratch) {
    let operands = [input.query, input.key, input.value];
    for rows in input.sequences(1..=usize::MAX) {
        for column in input.heads() {
            let columns = column..column + input.head_width;
            let [query, key, value] = operands.map(|all| all.rows_in(rows.clone()).columns_in(columns.clone()));
            let (head, bias) = (Head::new(rows.len(), input.head_width, scratch), input.bias_of(column));
            // SAFETY: the caller's promise; the scratch has room for this head; these rows and columns exist, and their bias.
            unsafe {
                pack_keys(key, head.keys);
                pack_values(value, head.values);
                pack_queries(query, input.scale, head.queries);
                for first in (0..rows.len()).step_by(BLOCK) {
                    let count = BLOCK.min(rows.len() - first);
                    let queries = first..first + count;
                    let sums = if bias.is_some() {
                        head.weigh::<true>(queries, bias)
                    } else {
                        head.weigh::<false>(queries, bias)
                    };
                    head.collect(count);
                    for (row, sum) in sums.into_iter().enumerate().take(count) {
                        let from = head.results.data.add(row * head.results.stride);
                        let to = y.as_mut_ptr().add((rows.start + first + row) * y.stride() + column);
                        scaled::<Avx512>(from, input.head_width, 1.0 / sum, to);
                    }
                }
            }
        }
    }
}

/// Where one head of one sequence lies in the scratch.
struct Head {
    /// Tokens.
    length: usize,
    /// Columns.
    width: usize,
    /// Panels of keys: in each a row for each two columns.
    keys: *mut u8,
    /// Panels of columns: in each a row for each two tokens.
    values: *mut u8,
    /// A row of whole lines for each token.
    queries: *mut u8,
    /// What softmax makes of scores, a row of whole lines for each query of a block.
    weights: *mut u8,
    scores: Sums,
    results: Sums,
}

impl Head {
    /// Makes room.
    fn new(length: usize, width: usize, scratch: &mut Scratch) -> Self {
        let bytes = |lines: &mut Lines, count: usize| {
            lines.reserve(count / size_of::<f32>());
            lines.as_mut_ptr().cast::<u8>()
        };
        let (all_keys, all_columns) = (length.next_multiple_of(PANEL), width.next_multiple_of(PANEL));
        let (key_bytes, value_bytes) =
            (all_keys * groups(width) * GROUP_BYTES, all_columns * groups(length) * GROUP_BYTES);
        let keys = bytes(&mut scratch.right, key_bytes + value_bytes);
        let query_bytes = length * row_bytes(width);
        let queries = bytes(&mut scratch.left, query_bytes + BLOCK * row_bytes(length));
        scratch.sums.reserve(BLOCK * (all_keys + all_columns));
        let sums = scratch.sums.as_mut_ptr();
        Self {
            length,
            width,
            keys,
            values: keys.wrapping_add(key_bytes),
            queries,
            weights: queries.wrapping_add(query_bytes),
            scores: Sums { data: sums, stride: all_keys },
            results: Sums { data: sums.wrapping_add(BLOCK * all_keys), stride: all_columns },
        }
    }

    /// Packs what softmax makes of the scores of some queries, at most a block of them, but for the sum by which each row is to be
    /// divided, which is returned.
    ///
    /// # Safety
    /// As for [`attention`]; keys and queries are packed, and where scores are `BIASED`, the bias reaches as far as the sequence.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn weigh<const BIASED: bool>(&self, queries: Range<usize>, bias: Bias) -> [f32; BLOCK] {
        let mut sums = [0.0; BLOCK];
        // SAFETY: the caller's promise; the scratch has room for a block.
        unsafe {
            let stride = row_bytes(self.width);
            let data = self.queries.add(queries.start * stride);
            let left = operand(data, stride, queries.len(), groups(self.width));
            multiply(left, self.keys, self.length, self.scores);
            for (row, sum) in sums.iter_mut().enumerate().take(queries.len()) {
                *sum = self.soften::<BIASED>(row, bias.of(queries.start + row));
            }
        }
        sums
    }

    /// Packs 2^(score - m) of one row, where m is its largest score; their sum. Where it is `BIASED`, `bias` is what is added to
    /// its scores, which is of powers of e.
    ///
    /// # Safety
    /// As for [`attention`]; the scores of this row are there, and where it counts, its bias.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn soften<const BIASED: bool>(&self, row: usize, bias: *const f32) -> f32 {
        // SAFETY: there are `length` scores, and room to a whole panel; there is room for whole lines of weights.
        unsafe {
            let scores = self.scores.data.add(row * self.scores.stride);
            let to = self.weights.add(row * row_bytes(self.length));
            let least = _mm512_set1_ps(f32::NEG_INFINITY);
            let to_powers_of_two = Avx512::splat(LOG2_E);
            let at = |token: usize| {
                let there = first_of_16((self.length - token).min(LINE));
                let score = Avx512(_mm512_mask_loadu_ps(least, there, scores.add(token)));
                if BIASED {
                    return Avx512(_mm512_maskz_loadu_ps(there, bias.add(token))).mul_add(to_powers_of_two, score);
                }
                score
            };
            let mut largest = Avx512(least);
            for token in (0..self.length).step_by(LINE) {
                largest = at(token).max(largest);
            }
            let largest = Avx512::splat(largest.largest());
            let mut sum = Avx512::splat(0.0);
            for token in (0..self.length).step_by(NARROW) {
                let first = power_of_two::<false>(at(token) - largest);
                let mut second = Avx512::splat(0.0);
                if token + LINE < self.length {
                    second = power_of_two::<false>(at(token + LINE) - largest);
                }
                sum = sum + (first + second);
                store(to.add(token * size_of::<u16>()), bf16(first.0, second.0));
            }
            sum.sum()
        }
    }

    /// Multiplies the packed weights of so many queries with the values.
    ///
    /// # Safety
    /// As for [`attention`]; weights and values are packed.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn collect(&self, queries: usize) {
        let left = operand(self.weights, row_bytes(self.length), queries, groups(self.length));
        // SAFETY: the caller's promise; the scratch has room for a block.
        unsafe { multiply(left, self.values, self.width, self.results) }
    }
}

/// Groups of so many numbers.
fn groups(count: usize) -> usize {
    count.div_ceil(2)
}

/// Bytes of a row of so many packed numbers.
fn row_bytes(count: usize) -> usize {
    count.next_multiple_of(NARROW) * size_of::<u16>()
}

/// So many packed rows.
fn operand(data: *const u8, stride: usize, rows: usize, groups: usize) -> PackedRows {
    PackedRows { data, stride, rows, groups, grids: ptr::null() }
}

/// Writes rows times all panels, of which the last may be one register wide.
///
/// # Safety
/// As for [`attention`]; `right` holds panels for `outputs`, `sums` can take as many, to whole registers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn multiply(left: PackedRows, right: *const u8, outputs: usize, sums: Sums) {
    for output in (0..outputs).step_by(PANEL) {
        // SAFETY: the caller's promise.
        unsafe {
            let panel = right.add(output * left.groups * GROUP_BYTES);
            let sums = Sums { data: sums.data.add(output), ..sums };
            if outputs - output > LINE {
                product::<Avx512Bf16, 2>(left, panel, Columns::NONE, sums);
            } else {
                product::<Avx512Bf16, 1>(left, panel, Columns::NONE, sums);
            }
        }
    }
}

/// # Safety
/// The machine has AVX-512 F; a line can be written.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store(to: *mut u8, line: __m512i) {
    // SAFETY: the caller's promise.
    unsafe { _mm512_storeu_si512(to.cast(), line) }
}

/// Up to 32 numbers of a row from `column` on as bf16, zeros after them and where there is no such row.
///
/// # Safety
/// As for [`attention`]; `column` is within the rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn line(rows: Rows<'_>, row: usize, column: usize, factor: f32) -> __m512i {
    if row >= rows.rows() {
        return _mm512_setzero_si512();
    }
    // SAFETY: the row exists, and has `columns - column` numbers from here on.
    let Pair(first, second) =
        unsafe { read(rows.as_ptr().add(row * rows.stride() + column), NARROW.min(rows.columns() - column)) };
    let factor = _mm512_set1_ps(factor);
    bf16(_mm512_mul_ps(first, factor), _mm512_mul_ps(second, factor))
}

/// Packs queries, multiplied so that scores are powers of two: `scale` is that of powers of e.
///
/// # Safety
/// As for [`attention`]; there is room for whole lines of each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn pack_queries(queries: Rows<'_>, scale: f32, to: *mut u8) {
    let stride = row_bytes(queries.columns());
    for row in 0..queries.rows() {
        for column in (0..queries.columns()).step_by(NARROW) {
            // SAFETY: the caller's promise; the column is within the row.
            unsafe {
                let packed = line(queries, row, column, scale * LOG2_E);
                store(to.add(row * stride + column * size_of::<u16>()), packed);
            }
        }
    }
}

/// Packs keys in panels: a row is two columns of each key.
///
/// # Safety
/// As for [`attention`]; there is room for whole panels.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn pack_keys(keys: Rows<'_>, to: *mut u8) {
    let groups = groups(keys.columns());
    for panel in (0..keys.rows()).step_by(PANEL) {
        let registers = (keys.rows() - panel).min(PANEL).div_ceil(LINE);
        for register in 0..registers {
            for column in (0..keys.columns()).step_by(NARROW) {
                let mut lines = [_mm512_setzero_si512(); LINE];
                for (key, packed) in lines.iter_mut().enumerate() {
                    // SAFETY: the caller's promise; the column is within the row.
                    *packed = unsafe { line(keys, panel + register * LINE + key, column, 1.0) };
                }
                let first = column / 2;
                for (group, packed) in transposed(lines).into_iter().enumerate().take(groups - first) {
                    let at = panel * groups * GROUP_BYTES + ((first + group) * registers + register) * LINE_BYTES;
                    // SAFETY: the caller's promise.
                    unsafe { store(to.add(at), packed) }
                }
            }
        }
    }
}

/// Packs values in panels: a row is all columns of two tokens.
///
/// # Safety
/// As for [`attention`]; there is room for whole panels.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn pack_values(values: Rows<'_>, to: *mut u8) {
    let groups = groups(values.rows());
    for panel in (0..values.columns()).step_by(PANEL) {
        let registers = (values.columns() - panel).min(PANEL).div_ceil(LINE);
        for group in 0..groups {
            // SAFETY: the caller's promise; the panel begins within the row.
            unsafe {
                let [even, odd] = [line(values, 2 * group, panel, 1.0), line(values, 2 * group + 1, panel, 1.0)];
                let at = to.add(panel * groups * GROUP_BYTES + group * registers * LINE_BYTES);
                for (register, packed) in interleaved(even, odd).into_iter().enumerate().take(registers) {
                    store(at.add(register * LINE_BYTES), packed);
                }
            }
        }
    }
}
