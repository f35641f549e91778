//! Attention in tiles: scores are a product of queries with packed keys, results one of packed weights with values.

use std::arch::x86_64::{_mm512_mask_mov_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512};

use super::{
    PANEL, Parts, STEP, TILE,
    pack::{line_of_row, pack_rows, steps, store},
    step_bytes,
    tiles::{OnePart, Operands, Product, Tiles, TwoParts, multiply},
};
use crate::{
    Attention, Rows, RowsMut, Scratch,
    attention::{Bias, scaled},
    convert::{Halves, Pair, halves, interleaved, read, transposed},
    lanes::{Avx512, Lanes, exp, first_of_16},
    scratch::{LINE_BYTES, Lines},
};

/// Numbers between rows of scores beyond whole panels: without them all rows would lie in the same sets of the cache.
const GAP: usize = 16;

/// As [`crate::attention()`], which checked everything, on a machine with tiles, for sequences of at least `shortest` tokens.
pub(crate) fn attention(parts: Parts, input: &Attention<'_>, shortest: usize, y: RowsMut<'_>, scratch: &mut Scratch) {
    let job = Job { input, shortest, y };
    // SAFETY: the caller has a `Cpu` with tiles.
    unsafe {
        match parts {
            Parts::One => job.run::<OnePart, false>(scratch),
            Parts::Two => job.run::<TwoParts, true>(scratch),
        }
    }
}

struct Job<'a> {
    input: &'a Attention<'a>,
    shortest: usize,
    y: RowsMut<'a>,
}

impl Job<'_> {
    /// # Safety
    /// The machine has AVX-512, tiles, and leave to use them.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn run<N: Operands, const TWO: bool>(mut self, scratch: &mut Scratch) {
        let Attention { query, key, value, head_width, scale, .. } = *self.input;
        // SAFETY: the caller's promise; nothing below configures tiles again.
        let _tiles = unsafe { Tiles::configure() };
        for rows in self.input.sequences(self.shortest..=usize::MAX) {
            for column in self.input.heads() {
                let (head, bias) = (Head::new::<TWO>(rows.len(), head_width, scratch), self.input.bias_of(column));
                let columns = column..column + head_width;
                // SAFETY: the caller's promise; the scratch has room for this head; these rows and columns exist, and their bias.
                unsafe {
                    pack_keys::<TWO>(key.rows_in(rows.clone()).columns_in(columns.clone()), head.keys);
                    pack_values::<TWO>(value.rows_in(rows.clone()).columns_in(columns.clone()), head.values);
                    for first in rows.clone().step_by(PANEL) {
                        let block = first..rows.end.min(first + PANEL);
                        let queries = query.rows_in(block.clone()).columns_in(columns.clone());
                        let place = first - rows.start;
                        let factors = if bias.is_some() {
                            head.weigh::<N, TWO, true>(queries, place, scale, bias)
                        } else {
                            head.weigh::<N, TWO, false>(queries, place, scale, bias)
                        };
                        head.collect::<N, TWO>(block.len());
                        for (row, factor) in block.zip(factors) {
                            let from = head.results.add((row - first) * head.result_stride);
                            let to = self.y.as_mut_ptr().add(row * self.y.stride() + column);
                            scaled::<Avx512>(from, head_width, factor, to);
                        }
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
    /// Steps over tokens; also panels of keys.
    length_steps: usize,
    /// Steps over columns; also panels of values.
    width_steps: usize,
    /// Packed: panels of 32 keys.
    keys: *mut u8,
    /// Packed: panels of 32 columns.
    values: *mut u8,
    /// A packed block of 32 queries.
    queries: *mut u8,
    /// A packed block of what softmax makes of scores.
    weights: *mut u8,
    /// 32 rows.
    scores: *mut f32,
    score_stride: usize,
    /// 32 rows.
    results: *mut f32,
    result_stride: usize,
}

impl Head {
    /// Makes room.
    fn new<const TWO: bool>(length: usize, width: usize, scratch: &mut Scratch) -> Self {
        let (length_steps, width_steps) = (steps(length), steps(width));
        let (score_stride, result_stride) = (length_steps * PANEL + GAP, width_steps * PANEL);
        let (operand, block) = (length_steps * width_steps * step_bytes(TWO), width_steps * step_bytes(TWO));
        let bytes = |lines: &mut Lines, length: usize| {
            lines.reserve(length / size_of::<f32>());
            lines.as_mut_ptr().cast::<u8>()
        };
        let keys = bytes(&mut scratch.right, 2 * operand);
        let queries = bytes(&mut scratch.left, block + length_steps * step_bytes(TWO));
        scratch.sums.reserve(32 * (score_stride + result_stride));
        let scores = scratch.sums.as_mut_ptr();
        Self {
            length,
            length_steps,
            width_steps,
            keys,
            values: keys.wrapping_add(operand),
            queries,
            weights: queries.wrapping_add(block),
            scores,
            score_stride,
            results: scores.wrapping_add(32 * score_stride),
            result_stride,
        }
    }

    /// Packs what softmax makes of the scores of up to 32 queries, of which the first is at this place of the sequence, but for the
    /// factor of each row, which is returned.
    ///
    /// # Safety
    /// As for `Job::run`; keys are packed, there is a `Tiles`, and where scores are `BIASED`, the bias reaches as far as the sequence.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn weigh<N: Operands, const TWO: bool, const BIASED: bool>(
        &self,
        queries: Rows<'_>,
        place: usize,
        scale: f32,
        bias: Bias,
    ) -> [f32; 32] {
        let mut factors = [0.0; 32];
        // SAFETY: the caller's promise; the scratch has room for 32 queries, their scores and weights.
        unsafe {
            pack_rows::<TWO>(queries, self.queries);
            for panel in 0..self.length_steps {
                let product = Product {
                    left: self.queries,
                    right: self.keys.add(panel * self.width_steps * step_bytes(TWO)),
                    depth: self.width_steps,
                    sums: self.scores.add(panel * PANEL),
                    sums_stride: self.score_stride * size_of::<f32>(),
                    rows: queries.rows(),
                    accumulates: false,
                    ahead: self.keys,
                    ahead_stride: 0,
                };
                multiply::<N>(&product, &mut || ());
            }
            for (row, factor) in factors.iter_mut().enumerate().take(queries.rows()) {
                *factor = 1.0 / self.soften::<TWO, BIASED>(row, scale, bias.of(place + row));
            }
        }
        factors
    }

    /// Packs e^(score - m) of one row, where m is the largest score, which is a product times `scale`, and where it is `BIASED` the
    /// number of `bias` at the same place more; their sum.
    ///
    /// # Safety
    /// As for `Job::run`; the products of this row are there, up to whole panels, and where it counts, its bias.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn soften<const TWO: bool, const BIASED: bool>(&self, row: usize, scale: f32, bias: *const f32) -> f32 {
        // SAFETY: the caller's promise; there is room for the weights of this row.
        unsafe {
            let (scores, scale) = (self.scores.add(row * self.score_stride), Avx512::splat(scale));
            let least = Avx512::splat(f32::NEG_INFINITY);
            let at = |step: usize| {
                let from = scores.add(step * STEP);
                let [first, second] = [Avx512::load(from), Avx512::load(from.add(16))];
                let count = STEP.min(self.length - step * STEP);
                let [first, second] = if BIASED {
                    let Pair(one, other) = read(bias.add(step * STEP), count);
                    [first.mul_add(scale, Avx512(one)), second.mul_add(scale, Avx512(other))]
                } else {
                    [first * scale, second * scale]
                };
                if count == STEP {
                    return [first, second];
                }
                [first_lanes(first, count.min(16)), first_lanes(second, count.saturating_sub(16))]
            };
            let mut largest = [least; 2];
            for step in 0..self.length_steps {
                let [first, second] = at(step);
                largest = [first.max(largest[0]), second.max(largest[1])];
            }
            let largest = Avx512::splat(largest[0].max(largest[1]).largest());
            let mut sums = [Avx512::splat(0.0); 2];
            for step in 0..self.length_steps {
                let [first, second] = at(step);
                let (first, second) = (exp(first - largest), exp(second - largest));
                sums = [sums[0] + first, sums[1] + second];
                let to = line_of_row(self.weights, self.length_steps, row, step, TWO);
                store::<TWO>(to, halves::<TWO>(Pair(first.0, second.0)));
            }
            (sums[0] + sums[1]).sum()
        }
    }

    /// Multiplies packed weights of up to 32 queries with the values.
    ///
    /// # Safety
    /// As for `Job::run`; weights and values are packed, and there is a `Tiles`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn collect<N: Operands, const TWO: bool>(&self, rows: usize) {
        for panel in 0..self.width_steps {
            // SAFETY: the caller's promise; the scratch has room for 32 rows of all panels.
            unsafe {
                let product = Product {
                    left: self.weights,
                    right: self.values.add(panel * self.length_steps * step_bytes(TWO)),
                    depth: self.length_steps,
                    sums: self.results.add(panel * PANEL),
                    sums_stride: self.result_stride * size_of::<f32>(),
                    rows,
                    accumulates: false,
                    ahead: self.values,
                    ahead_stride: 0,
                };
                multiply::<N>(&product, &mut || ());
            }
        }
    }
}

/// The first `count` lanes, and -∞ after them.
#[inline]
#[target_feature(enable = "avx512f")]
fn first_lanes(lanes: Avx512, count: usize) -> Avx512 {
    Avx512(_mm512_mask_mov_ps(_mm512_set1_ps(f32::NEG_INFINITY), first_of_16(count), lanes.0))
}

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
unsafe fn pack_keys<const TWO: bool>(keys: Rows<'_>, to: *mut u8) {
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
unsafe fn pack_values<const TWO: bool>(values: Rows<'_>, to: *mut u8) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cpu, Isa, Precision};

    /// Sequences that fill their last step, and that do not.
    const LENGTHS: [usize; 7] = [17, 31, 32, 33, 48, 64, 77];

    fn number(index: usize) -> f32 {
        3.0 * (0.7 * index as f32).sin()
    }

    /// What softmax packs of one row against a plain loop.
    fn check<const TWO: bool, const BIASED: bool>(length: usize, row: usize, place: usize) {
        const SCALE: f32 = 0.3;
        let mut scratch = Scratch::default();
        let head = Head::new::<TWO>(length, 32, &mut scratch);
        let products: Vec<f32> = (0..length).map(number).collect();
        // No longer than it must be: it ends where the last key of the first query does.
        let line: Vec<f32> = (0..2 * length - 1).map(|index| number(index + 1000)).collect();
        let bias = Bias { middle: line.as_ptr().wrapping_add(length - 1) };
        let packed = |high: *const u8, key: usize| {
            let part = |at: *const u8| {
                // SAFETY: a line of the packed weights, which were written.
                let bits = unsafe { at.cast::<u16>().add(key % STEP).read() };
                f32::from_bits(u32::from(bits) << 16)
            };
            part(high) + if TWO { part(high.wrapping_add(2 * TILE)) } else { 0.0 }
        };
        // SAFETY: the caller has the instructions; there is room for 32 rows of whole panels, and the line is as long as it must be.
        let sum = unsafe {
            let scores = head.scores.add(row * head.score_stride);
            // What lies beyond the last key does not count.
            (0..head.length_steps * PANEL).for_each(|key| *scores.add(key) = f32::NAN);
            products.iter().enumerate().for_each(|(key, product)| *scores.add(key) = *product);
            head.soften::<TWO, BIASED>(row, SCALE, bias.of(place))
        };
        let far = |key: usize| if BIASED { line[length - 1 + key - place] } else { 0.0 };
        let scores: Vec<f32> = (0..length).map(|key| products[key] * SCALE + far(key)).collect();
        let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights: Vec<f32> = scores.iter().map(|score| (score - largest).exp()).collect();
        let (what, precision) = (format!("{length}, {row}, {place}"), if TWO { 1e-5 } else { 1.0 / 256.0 });
        assert!((sum / weights.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{what}: {sum}");
        for key in 0..head.length_steps * STEP {
            let found = packed(line_of_row(head.weights, head.length_steps, row, key / STEP, TWO), key);
            let weight = weights.get(key).copied().unwrap_or(0.0);
            assert!((found - weight).abs() <= precision * weight, "{what}, key {key}: {found}, {weight}");
        }
    }

    #[test]
    #[allow(clippy::print_stderr)]
    fn softmax_is_that_of_a_plain_loop_where_there_are_no_tiles_too() {
        if !Cpu::with(Isa::Avx512).is_ok_and(|cpu| cpu.precision(Precision::Bf16) == Precision::Bf16) {
            eprintln!("NOT TESTED: this machine has no avx512 bf16");
            return;
        }
        for length in LENGTHS {
            for (row, place) in [(0, 0), (15, 9), (16, 16), (31, length - 1)] {
                check::<false, false>(length, row, place);
                check::<true, false>(length, row, place);
                check::<false, true>(length, row, place);
                check::<true, true>(length, row, place);
            }
        }
    }
}
