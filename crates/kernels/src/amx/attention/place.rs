//! Where blocks of queries lie while they are under way, and what is done with each.

use std::{
    arch::x86_64::{
        _mm512_div_ps, _mm512_loadu_ps, _mm512_mask_mov_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_storeu_ps,
    },
    f32::consts::LOG2_E,
};

use super::{
    super::{
        PANEL, STEP,
        pack::{line_of_row, steps, store},
        step_bytes,
        tiles::{Begin, Operands, Product, multiply},
    },
    UNDER_WAY,
};
use crate::{
    Scratch,
    attention::{power_of_two, scaled},
    convert::{Pair, halves, read},
    lanes::{Avx512, Lanes, first_of_16},
    scratch::LINE,
};

/// Numbers between rows of scores beyond whole panels: without them all rows would lie in the same sets of the cache.
const GAP: usize = 16;

/// The scratch, as a ring of places for what is under way.
pub(super) struct Room {
    head_width: usize,
    /// Bytes of packed keys or values of the longest sequence.
    operand: usize,
    /// Keys and values of as many heads as may be under way.
    heads: *mut u8,
    /// Packed queries, and weights of the longest sequence, of two blocks.
    blocks: *mut u8,
    block_bytes: usize,
    query_bytes: usize,
    /// Scores, results and sums of weights of two blocks.
    sums: *mut f32,
    score_stride: usize,
    result_stride: usize,
}

impl Room {
    /// Makes room.
    pub(super) fn new<const TWO: bool>(longest: usize, head_width: usize, scratch: &mut Scratch) -> Self {
        let (length_steps, width_steps) = (steps(longest), steps(head_width));
        let (operand, query_bytes) = (length_steps * width_steps * step_bytes(TWO), width_steps * step_bytes(TWO));
        let block_bytes = query_bytes + length_steps * step_bytes(TWO);
        let (score_stride, result_stride) = (length_steps * PANEL + GAP, width_steps * PANEL);
        let (all_heads, all_blocks) = (UNDER_WAY * 2 * operand, 2 * block_bytes);
        let all_sums = 2 * PANEL * (score_stride + result_stride + 1);
        scratch.attention.reserve((all_heads + all_blocks) / size_of::<f32>() + all_sums);
        let heads = scratch.attention.as_mut_ptr().cast::<u8>();
        let blocks = heads.wrapping_add(all_heads);
        let sums = blocks.wrapping_add(all_blocks).cast::<f32>();
        Self { head_width, operand, heads, blocks, block_bytes, query_bytes, sums, score_stride, result_stride }
    }

    /// That of one block, which is the `turn`th, of the `head`th head.
    pub(super) fn place(&self, length: usize, head: usize, turn: usize) -> Place {
        let keys = self.heads.wrapping_add(head % UNDER_WAY * 2 * self.operand);
        let queries = self.blocks.wrapping_add(turn % 2 * self.block_bytes);
        let scores = self.sums.wrapping_add(turn % 2 * PANEL * (self.score_stride + self.result_stride + 1));
        let results = scores.wrapping_add(PANEL * self.score_stride);
        Place {
            length,
            length_steps: steps(length),
            width_steps: steps(self.head_width),
            keys,
            values: keys.wrapping_add(self.operand),
            queries,
            weights: queries.wrapping_add(self.query_bytes),
            scores,
            score_stride: self.score_stride,
            results,
            result_stride: self.result_stride,
            weight_sums: results.wrapping_add(PANEL * self.result_stride),
        }
    }
}

/// Where one block lies, and its head.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Tokens.
    length: usize,
    /// Steps over tokens; also panels of keys.
    length_steps: usize,
    /// Steps over columns; also panels of values.
    width_steps: usize,
    /// Packed: panels of 32 keys.
    pub(super) keys: *mut u8,
    /// Packed: panels of 32 columns.
    pub(super) values: *mut u8,
    /// A packed block of 32 queries.
    pub(super) queries: *mut u8,
    /// A packed block of what softmax makes of scores.
    weights: *mut u8,
    /// 32 rows.
    scores: *mut f32,
    score_stride: usize,
    /// 32 rows.
    results: *mut f32,
    result_stride: usize,
    /// The sum of each row of weights.
    weight_sums: *mut f32,
}

impl Place {
    /// Multiplies so many queries with the keys.
    ///
    /// # Safety
    /// As for `Job::run`; both are packed, and there is a `Tiles`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub(super) unsafe fn score<N: Operands>(&self, queries: usize) {
        let panels = Panels { packed: self.keys, count: self.length_steps, depth: self.width_steps };
        // SAFETY: the caller's promise; there is room for scores of whole panels.
        unsafe { panels.multiply::<N>(self.queries, queries, self.scores, self.score_stride) }
    }

    /// Packs 2^(score - m) of one row, where m is its largest score, and notes their sum. Where it is `BIASED`, `bias` is what is added to its
    /// scores, which is of powers of e.
    ///
    /// # Safety
    /// As for `Job::run`; the scores of this row are there, up to whole panels, and where it counts, its bias.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub(super) unsafe fn soften<const TWO: bool, const BIASED: bool>(&self, row: usize, bias: *const f32) {
        let whole = self.length / STEP;
        // SAFETY: the caller's promise; there is room for the weights of this row.
        unsafe {
            let (scores, to_powers_of_two) = (self.scores.add(row * self.score_stride), Avx512::splat(LOG2_E));
            let at = |step: usize, count: usize| {
                let from = scores.add(step * STEP);
                let scores = [Avx512::load(from), Avx512::load(from.add(LINE))];
                if !BIASED {
                    return scores;
                }
                let Pair(first, second) = read(bias.add(step * STEP), count);
                [
                    Avx512(first).mul_add(to_powers_of_two, scores[0]),
                    Avx512(second).mul_add(to_powers_of_two, scores[1]),
                ]
            };
            let rest = self.length % STEP;
            let last = || {
                let [first, second] = at(whole, rest);
                [first_lanes(first, rest.min(LINE)), first_lanes(second, rest.saturating_sub(LINE))]
            };
            let least = Avx512::splat(f32::NEG_INFINITY);
            let mut largest = if rest > 0 { last() } else { [least; 2] };
            for step in 0..whole {
                let [first, second] = at(step, STEP);
                largest = [first.max(largest[0]), second.max(largest[1])];
            }
            let largest = Avx512::splat(largest[0].max(largest[1]).largest());
            let mut sums = [Avx512::splat(0.0); 2];
            let mut put = |step: usize, count: usize, [first, second]: [Avx512; 2]| {
                let first = power_of_two::<TWO>(first - largest);
                let second = if count > LINE { power_of_two::<TWO>(second - largest) } else { Avx512::splat(0.0) };
                sums = [sums[0] + first, sums[1] + second];
                let to = line_of_row(self.weights, self.length_steps, row, step, TWO);
                store::<TWO>(to, halves::<TWO>(Pair(first.0, second.0)));
            };
            for step in 0..whole {
                put(step, STEP, at(step, STEP));
            }
            if rest > 0 {
                put(whole, rest, last());
            }
            *self.weight_sums.add(row) = (sums[0] + sums[1]).sum();
        }
    }

    /// Multiplies packed weights of so many queries with the values.
    ///
    /// # Safety
    /// As for `Job::run`; weights and values are packed, and there is a `Tiles`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub(super) unsafe fn collect<N: Operands>(&self, queries: usize) {
        let panels = Panels { packed: self.values, count: self.width_steps, depth: self.length_steps };
        // SAFETY: the caller's promise; the scratch has room for 32 rows of all panels.
        unsafe { panels.multiply::<N>(self.weights, queries, self.results, self.result_stride) }
    }

    /// Writes the results of so many queries, divided by their sums of weights.
    ///
    /// # Safety
    /// As for `Job::run`; results and sums are there, and so many columns of these rows of the result.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub(super) unsafe fn divide(&self, queries: usize, head_width: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            self.invert_sums();
            for row in 0..queries {
                let (from, factor) = (self.results.add(row * self.result_stride), *self.weight_sums.add(row));
                scaled::<Avx512>(from, head_width, factor, to.add(row * to_stride));
            }
        }
    }

    /// Packs the same as some steps of rows, from `row` on, of which each has so many.
    ///
    /// # Safety
    /// As for `Job::run`; results and sums are there, the head is of whole steps, and there are such rows and steps.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub(super) unsafe fn divide_packed<const TWO: bool>(
        &self,
        queries: usize,
        to: *mut u8,
        row: usize,
        step: usize,
        steps: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            self.invert_sums();
            for query in 0..queries {
                let factor = _mm512_set1_ps(*self.weight_sums.add(query));
                for column in 0..self.width_steps {
                    let Pair(first, second) = read(self.results.add(query * self.result_stride + column * STEP), STEP);
                    let numbers = Pair(_mm512_mul_ps(first, factor), _mm512_mul_ps(second, factor));
                    store::<TWO>(line_of_row(to, steps, row + query, step + column, TWO), halves::<TWO>(numbers));
                }
            }
        }
    }

    /// # Safety
    /// As for `Job::run`; the sums of weights are there.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn invert_sums(&self) {
        for half in (0..PANEL).step_by(LINE) {
            // SAFETY: the caller's promise.
            unsafe {
                let sums = self.weight_sums.add(half);
                _mm512_storeu_ps(sums, _mm512_div_ps(_mm512_set1_ps(1.0), _mm512_loadu_ps(sums)));
            }
        }
    }
}

/// Packed keys or values.
struct Panels {
    packed: *const u8,
    count: usize,
    /// Steps of each.
    depth: usize,
}

impl Panels {
    /// Writes the products of so many packed rows with all panels, side by side, to rows of sums so far apart.
    ///
    /// # Safety
    /// As for `Job::run`; operands are packed, there is a `Tiles`, and room for 32 rows of all panels.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn multiply<N: Operands>(&self, left: *const u8, rows: usize, sums: *mut f32, stride: usize) {
        for panel in 0..self.count {
            // SAFETY: the caller's promise.
            unsafe {
                let product = Product {
                    left,
                    right: self.packed.add(panel * self.depth * N::STEP_BYTES),
                    depth: self.depth,
                    sums: sums.add(panel * PANEL),
                    sums_stride: stride * size_of::<f32>(),
                    rows,
                    begin: Begin::Zeros,
                    ahead: self.packed,
                    ahead_lines: 0,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cpu, Isa, Precision, amx::TILE, attention::Bias};

    /// Sequences that fill their last step, and that do not.
    const LENGTHS: [usize; 7] = [17, 31, 32, 33, 48, 64, 77];

    fn number(index: usize) -> f32 {
        3.0 * (0.7 * index as f32).sin()
    }

    /// What softmax packs of one row against a plain loop.
    fn check<const TWO: bool, const BIASED: bool>(length: usize, row: usize, place: usize) {
        let mut scratch = Scratch::default();
        let block = Room::new::<TWO>(length, 32, &mut scratch).place(length, 3, 1);
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
            let scores = block.scores.add(row * block.score_stride);
            // What lies beyond the last key does not count.
            (0..block.length_steps * PANEL).for_each(|key| *scores.add(key) = f32::NAN);
            products.iter().enumerate().for_each(|(key, product)| *scores.add(key) = *product);
            block.soften::<TWO, BIASED>(row, bias.of(place));
            *block.weight_sums.add(row)
        };
        let far = |key: usize| if BIASED { LOG2_E * line[length - 1 + key - place] } else { 0.0 };
        let scores: Vec<f32> = (0..length).map(|key| products[key] + far(key)).collect();
        let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights: Vec<f32> = scores.iter().map(|score| (score - largest).exp2()).collect();
        let (what, precision) = (format!("{length}, {row}, {place}"), if TWO { 1e-5 } else { 1.0 / 256.0 });
        let error = sum / weights.iter().sum::<f32>() - 1.0;
        assert!(error.abs() < if TWO { 1e-5 } else { 1e-4 }, "{what}: {sum}");
        for key in 0..block.length_steps * STEP {
            let found = packed(line_of_row(block.weights, block.length_steps, row, key / STEP, TWO), key);
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
