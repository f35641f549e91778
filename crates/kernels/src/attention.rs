//! Attention within each of several sequences whose rows lie one after the other, without padding:
//! softmax(Q · Kᵀ · scale + bias) · V for each head.

#[cfg(target_arch = "x86_64")]
mod bf16;
#[cfg(target_arch = "x86_64")]
mod powers;

use std::{
    ops::{Range, RangeInclusive},
    ptr,
};

use crate::{
    Cpu, Precision, Rows, RowsMut, Scratch,
    cpu::Work,
    lanes::Lanes,
    pointwise::exponentials,
    product::{Left, Sums, product},
};
#[cfg(target_arch = "x86_64")]
use crate::{Isa, amx};
#[cfg(target_arch = "x86_64")]
pub(crate) use powers::power_of_two;

/// Registers across a panel of keys or values: narrower than a matrix's, because heads are narrow.
const VECTORS: usize = 2;

/// Queries, keys and values of all sequences, a row for each token, heads side by side.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Tokens × (heads · `head_width`).
    pub query: Rows<'a>,
    /// As `query`.
    pub key: Rows<'a>,
    /// As `query`.
    pub value: Rows<'a>,
    /// Where each sequence begins, and last where the last one ends. Row 0 of the views is row `offsets[0]` here, so that a
    /// part of the sequences is a part of this list.
    pub offsets: &'a [usize],
    /// Columns of one head.
    pub head_width: usize,
    /// What products of queries and keys are multiplied with; usually 1 / √`head_width`.
    pub scale: f32,
    /// What is added to scores by how far the key stands behind the query: a row for each head, of `2 · n - 1` numbers for
    /// sequences of up to `n` rows, in which the number for `key - query` is at `n - 1 + key - query`. So the scores of one query
    /// have theirs side by side. Usually none.
    pub bias: Option<Rows<'a>>,
}

/// Writes the attention of every sequence and head to the same rows and columns of `y`. Threads share the work by taking
/// sequences (rows) or heads (columns) each.
///
/// # Panics
/// When shapes do not fit each other, the columns are not whole heads, the offsets decrease or pass the last row, or a sequence is
/// longer than the bias reaches.
pub fn attention(cpu: Cpu, precision: Precision, input: &Attention<'_>, mut y: RowsMut<'_>, scratch: &mut Scratch) {
    for (name, view) in [("queries", input.query), ("keys", input.key), ("values", input.value)] {
        assert!(
            view.rows() == y.rows() && view.columns() == y.columns(),
            "{name} of {} × {} for a result of {} × {}",
            view.rows(),
            view.columns(),
            y.rows(),
            y.columns()
        );
    }
    check(input.offsets, y.rows(), y.columns(), input.head_width, input.bias);
    let longest = in_bf16(cpu, precision, input, y.reborrow(), scratch);
    cpu.run(Attend { input, longest, y, scratch });
}

/// Panics unless so many columns are whole heads, sequences lie within so many rows, and a bias is of such heads and reaches as far.
pub(crate) fn check(offsets: &[usize], rows: usize, columns: usize, head_width: usize, bias: Option<Rows<'_>>) {
    assert!(
        head_width > 0 && columns.is_multiple_of(head_width),
        "{columns} columns are not whole heads of {head_width}"
    );
    assert!(offsets.is_sorted(), "offsets decrease");
    if let (Some(first), Some(last)) = (offsets.first(), offsets.last()) {
        assert!(last - first <= rows, "sequences of {} rows in {rows}", last - first);
    }
    if let Some(bias) = bias {
        let heads = columns / head_width;
        assert!(bias.rows() == heads, "a bias of {} heads for {heads}", bias.rows());
        assert!(!bias.columns().is_multiple_of(2), "a bias of {} numbers has none in its middle", bias.columns());
        let reach = bias.columns().div_ceil(2);
        let longest = sequences(offsets).map(|rows| rows.len()).max().unwrap_or_default();
        assert!(longest <= reach, "a bias that reaches {reach} rows for a sequence of {longest}");
    }
}

/// Does the sequences for which bf16 pays, in tiles or in registers, where there is an instruction for it; the longest of those that are
/// left.
#[cfg(target_arch = "x86_64")]
fn in_bf16(cpu: Cpu, precision: Precision, input: &Attention<'_>, y: RowsMut<'_>, scratch: &mut Scratch) -> usize {
    if cpu.isa() == Isa::Amx {
        // Packing for tiles in two parts, which are whole panels of 32 tokens, takes longer than so few products in registers. But not where
        // heads are such that `SelfAttention` may have them in tiles all along: a sequence gives the same in any company.
        let is_narrow = !input.head_width.is_multiple_of(amx::PANEL);
        let short = if precision == Precision::F32 && is_narrow { 16 } else { 0 };
        amx::attention(precision.into(), input, short + 1, y, scratch);
        return short;
    }
    if precision != Precision::F32 && cpu.precision(Precision::Bf16) == Precision::Bf16 {
        // SAFETY: without tiles, bf16 is what matrices are computed in only where AVX-512 has it.
        unsafe { bf16::attention(input, y, scratch) }
        return 0;
    }
    usize::MAX
}

#[cfg(not(target_arch = "x86_64"))]
fn in_bf16(_: Cpu, _: Precision, _: &Attention<'_>, _: RowsMut<'_>, _: &mut Scratch) -> usize {
    usize::MAX
}

impl Attention<'_> {
    /// The rows of each sequence that is so long.
    pub(crate) fn sequences(&self, lengths: RangeInclusive<usize>) -> impl Iterator<Item = Range<usize>> {
        sequences(self.offsets).filter(move |rows| lengths.contains(&rows.len()))
    }

    /// The first column of each head.
    pub(crate) fn heads(&self) -> impl ExactSizeIterator<Item = usize> {
        (0..self.query.columns()).step_by(self.head_width)
    }

    /// What is added to the scores of the head that begins at this column.
    pub(crate) fn bias_of(&self, column: usize) -> Bias {
        Bias::new(self.bias, column / self.head_width)
    }
}

/// The rows of each sequence, counted from where the first one begins.
pub(crate) fn sequences(offsets: &[usize]) -> impl Iterator<Item = Range<usize>> {
    let first = offsets.first().copied().unwrap_or(0);
    offsets.windows(2).map(move |ends| ends[0] - first..ends[1] - first)
}

/// What is added to the scores of one head.
#[derive(Clone, Copy)]
pub(crate) struct Bias {
    /// The number for a key at the place of its query; null where nothing is added.
    pub(crate) middle: *const f32,
}

impl Bias {
    /// That of one head.
    pub(crate) fn new(bias: Option<Rows<'_>>, head: usize) -> Self {
        let middle = |bias: Rows<'_>| bias.as_ptr().wrapping_add(head * bias.stride() + bias.columns() / 2);
        Self { middle: bias.map_or(ptr::null(), middle) }
    }

    /// Whether there is anything to add.
    pub(crate) fn is_some(self) -> bool {
        !self.middle.is_null()
    }

    /// What is added to the scores of this query: a number for each key of its sequence, if there is anything.
    pub(crate) fn of(self, query: usize) -> *const f32 {
        self.middle.wrapping_sub(query)
    }
}

struct Attend<'a> {
    input: &'a Attention<'a>,
    /// The longest sequence to do.
    longest: usize,
    y: RowsMut<'a>,
    scratch: &'a mut Scratch,
}

impl Work for Attend<'_> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(mut self) {
        for rows in self.input.sequences(1..=self.longest) {
            for column in self.input.heads() {
                let bias = self.input.bias_of(column);
                // SAFETY: the caller promises the instructions; `attention` checked that rows and columns exist, and that the bias
                // reaches as far.
                unsafe {
                    if bias.is_some() {
                        self.head::<V, true>(rows.clone(), column, bias);
                    } else {
                        self.head::<V, false>(rows.clone(), column, bias);
                    }
                }
            }
        }
    }
}

impl Attend<'_> {
    /// One head of one sequence.
    #[inline(always)]
    unsafe fn head<V: Lanes, const BIASED: bool>(&mut self, rows: Range<usize>, column: usize, bias: Bias) {
        let (length, depth, panel) = (rows.len(), self.input.head_width, VECTORS * V::WIDTH);
        let (score_stride, value_stride) = (length.next_multiple_of(panel), depth.next_multiple_of(panel));
        self.scratch.right.reserve(score_stride * depth + value_stride * length);
        self.scratch.sums.reserve(V::BLOCK_ROWS * (score_stride + value_stride));
        let columns = column..column + depth;
        let (keys, values) = self.scratch.right.as_mut_slice().split_at_mut(score_stride * depth);
        pack_keys(self.input.key.rows_in(rows.clone()).columns_in(columns.clone()), panel, keys);
        pack_values(self.input.value.rows_in(rows.clone()).columns_in(columns), panel, values);
        let (keys, values) = (keys.as_ptr(), values.as_ptr());
        for first in rows.clone().step_by(V::BLOCK_ROWS) {
            let count = V::BLOCK_ROWS.min(rows.end - first);
            // SAFETY: the caller promises the instructions and the rows; the scratch has room for a block of scores and one of
            // results, and holds the packed panels.
            unsafe {
                let scores = self.scratch.sums.as_mut_ptr();
                let results = scores.add(V::BLOCK_ROWS * score_stride);
                let stride = self.input.query.stride();
                let data = self.input.query.as_ptr().add(first * stride + column);
                let queries = Left { data, stride, rows: count, depth };
                for at in (0..length).step_by(panel) {
                    let sums = Sums { data: scores.add(at), stride: score_stride };
                    product::<V, VECTORS>(queries, keys.add(at * depth), sums);
                }
                let mut factors = [0.0; 8];
                for (row, factor) in factors.iter_mut().enumerate().take(count) {
                    let (scores, bias) = (scores.add(row * score_stride), bias.of(first - rows.start + row));
                    *factor = 1.0 / exponentials::<V, BIASED>(scores, length, self.input.scale, bias);
                }
                let weights = Left { data: scores, stride: score_stride, rows: count, depth: length };
                for at in (0..depth).step_by(panel) {
                    let sums = Sums { data: results.add(at), stride: value_stride };
                    product::<V, VECTORS>(weights, values.add(at * length), sums);
                }
                for (row, factor) in factors.into_iter().enumerate().take(count) {
                    let to = self.y.as_mut_ptr().add((first + row) * self.y.stride() + column);
                    scaled::<V>(results.add(row * value_stride), depth, factor, to);
                }
            }
        }
    }
}

/// Writes `factor` times `length` numbers.
///
/// # Safety
/// The machine has the instructions of `V`; whole registers can be read at `from`, `length` numbers written at `to`.
#[inline(always)]
pub(crate) unsafe fn scaled<V: Lanes>(from: *const f32, length: usize, factor: f32, to: *mut f32) {
    for at in (0..length).step_by(V::WIDTH) {
        // SAFETY: the caller's promise.
        unsafe { (V::load(from.add(at)) * V::splat(factor)).store_some(to.add(at), V::WIDTH.min(length - at)) }
    }
}

/// Panels of `width` keys, in each one row for each column of the head; zeros after the last key.
fn pack_keys(keys: Rows<'_>, width: usize, packed: &mut [f32]) {
    let depth = keys.columns();
    for (first, panel) in (0..keys.rows()).step_by(width).zip(packed.chunks_exact_mut(width * depth)) {
        let count = width.min(keys.rows() - first);
        if count < width {
            panel.fill(0.0);
        }
        for key in 0..count {
            for (row, number) in panel.chunks_exact_mut(width).zip(keys.row(first + key)) {
                row[key] = *number;
            }
        }
    }
}

/// Panels of `width` columns of the head, in each one row for each token; zeros after the last column.
fn pack_values(values: Rows<'_>, width: usize, packed: &mut [f32]) {
    let (length, depth) = (values.rows(), values.columns());
    for (first, panel) in (0..depth).step_by(width).zip(packed.chunks_exact_mut(width * length)) {
        let count = width.min(depth - first);
        for (token, row) in panel.chunks_exact_mut(width).enumerate() {
            row[..count].copy_from_slice(&values.row(token)[first..first + count]);
            row[count..].fill(0.0);
        }
    }
}
