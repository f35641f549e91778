//! Grids of whole numbers: which 256 numbers, evenly apart, stand for those of a span of a row of x, and which 255 for those of a
//! span of an output's weights. Every set of instructions finds the same ones, because each step is rounded alike everywhere.

use crate::{dots::Columns, lanes::Lanes, scratch::Lines, source::Source};

/// Inputs that share a grid. A large number spoils those of its span only, and sums of a span's products are exact in f32.
pub(crate) const SPAN: usize = 192;

/// The largest weight in steps of its grid; the least is its negative.
const MOST_WEIGHT: f32 = 127.0;

/// The largest number of a row in steps of its grid, of which the least is 0.
const MOST_LEVEL: f32 = 255.0;

/// Steps below this are taken for nothing: a number divided by them could be infinite.
const LEAST_STEP: f32 = 1e-36;

/// 1.5 × 2²³: a sum with it is rounded to a whole number, to even ones from halves, which is in its lowest bits.
pub(crate) const ROUNDING: f32 = 12_582_912.0;

/// The grid of a span of a row: `(level - zero) · scale` for levels from 0 to 255, which reaches from its least number or 0 to its
/// largest or 0, so that 0 is exact. (Jacob et al., "Quantization and Training of Neural Networks for Efficient
/// Integer-Arithmetic-Only Inference", 2017, arXiv 1712.05877.)
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Grid {
    /// What a step is; NaN where a number is not finite, so that no product is.
    pub(crate) scale: f32,
    /// 1 / scale, or 0 where all levels are 0's.
    inverse: f32,
    /// The level of 0, a whole number.
    pub(crate) zero: f32,
}

impl Grid {
    /// The grid of one span.
    ///
    /// # Safety
    /// The machine has the instructions of `V`; `count` numbers can be read.
    #[inline(always)]
    pub(crate) unsafe fn of<V: Lanes>(from: *const f32, count: usize) -> Self {
        // SAFETY: the caller's promise; `load_some` fills with zeros, which every grid has.
        let (least, largest, wrong) = unsafe {
            let mut ends = Ends { lowest: V::splat(0.0), highest: V::splat(0.0), wrong: V::splat(0.0) };
            if count == SPAN {
                for register in 0..SPAN / V::WIDTH {
                    ends.take(V::load(from.add(register * V::WIDTH)));
                }
            } else {
                for column in (0..count).step_by(V::WIDTH) {
                    ends.take(V::load_some(from.add(column), V::WIDTH.min(count - column)));
                }
            }
            (-(V::splat(0.0) - ends.lowest).largest(), ends.highest.largest(), ends.wrong.sum())
        };
        // Not of the difference, which may be infinite.
        let scale = largest * (1.0 / MOST_LEVEL) - least * (1.0 / MOST_LEVEL) + wrong;
        let inverse = if scale >= LEAST_STEP { 1.0 / scale } else { 0.0 };
        Self { scale, inverse, zero: rounded(-least * inverse) }
    }
}

/// What has been seen of a span.
struct Ends<V> {
    lowest: V,
    highest: V,
    /// 0 of what is finite, NaN of all else.
    wrong: V,
}

impl<V: Lanes> Ends<V> {
    #[inline(always)]
    fn take(&mut self, numbers: V) {
        self.lowest = numbers.min(self.lowest);
        self.highest = numbers.max(self.highest);
        self.wrong = numbers.mul_add(numbers.filled(0.0), self.wrong);
    }
}

/// Numbers as levels of a row's grid, in the lowest bits of each lane.
#[inline(always)]
pub(crate) fn level<V: Lanes>(numbers: V, row: Grid) -> V {
    let levels = unbounded(numbers, row);
    // In this order, so that NaN becomes 0, whose scale is NaN. Both ends may round to one level too much.
    let levels = levels.max(numbers.filled(0.0)).min(numbers.filled(MOST_LEVEL));
    levels + numbers.filled(ROUNDING)
}

/// Numbers in steps of a row's grid, before they are rounded: both ends may be one level too far.
#[inline(always)]
pub(crate) fn unbounded<V: Lanes>(numbers: V, row: Grid) -> V {
    numbers * numbers.filled(row.inverse) + numbers.filled(row.zero)
}

/// The nearest whole number of one that is not far from 0, the even one of two.
fn rounded(x: f32) -> f32 {
    (x + ROUNDING) - ROUNDING
}

/// Spans of so many inputs; at least one.
pub(crate) fn spans(inputs: usize) -> usize {
    inputs.div_ceil(SPAN).max(1)
}

/// The grids of packed weights: for each panel and span, of each output.
#[derive(Clone, Default)]
pub(crate) struct WeightGrids {
    /// What a step is.
    scales: Lines,
    /// The sum of the weights in steps.
    totals: Lines,
}

impl WeightGrids {
    /// Those of weights. Where there are rows, hands what they are in steps to `put`, a span at a time, with its output and its first input.
    /// Panels are so many outputs wide. `None` where what was kept is not as long.
    pub(crate) fn new(source: &mut Source<'_>, width: usize, mut put: impl FnMut(usize, usize, &[i8])) -> Option<Self> {
        let (outputs, inputs) = source.shape();
        let (spans, length) = (spans(inputs), Self::length(outputs, inputs, width));
        let mut grids = Self { scales: source.take(length)?, totals: source.take(length)? };
        let Some(rows) = source.rows() else { return Some(grids) };
        for output in 0..outputs {
            for (span, numbers) in rows.row(output).chunks(SPAN).enumerate() {
                let mut steps = [0; SPAN];
                let steps = &mut steps[..numbers.len()];
                let (scale, total) = weights(numbers, steps);
                put(output, span * SPAN, steps);
                let at = (output / width * spans + span) * width + output % width;
                (grids.scales.as_mut_slice()[at], grids.totals.as_mut_slice()[at]) = (scale, total);
            }
        }
        Some(grids)
    }

    /// How many scales there are, and totals.
    fn length(outputs: usize, inputs: usize, width: usize) -> usize {
        outputs.next_multiple_of(width) * spans(inputs)
    }

    /// Both, as they were made.
    pub(crate) fn lines(&self) -> [&Lines; 2] {
        [&self.scales, &self.totals]
    }

    /// Those from this place on: panel after panel, in each a row of its outputs for each span.
    pub(crate) fn columns(&self, at: usize) -> Columns {
        Columns { scales: self.scales.as_ptr().wrapping_add(at), totals: self.totals.as_ptr().wrapping_add(at) }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.totals.len()
    }
}

/// What a step is of a grid around 0 that has these numbers within 127 steps, NaN where one is not finite; and 1 / step, or 0 where all are
/// taken for nothing.
#[inline(always)]
pub(crate) fn around_zero(numbers: &[f32]) -> (f32, f32) {
    // As whole numbers, which are ordered alike, because sums and maxima of floats are taken one by one.
    let largest = numbers.iter().fold(0, |largest: u32, number| largest.max(number.abs().to_bits()));
    let largest = f32::from_bits(largest);
    let step = if largest.is_finite() { largest / MOST_WEIGHT } else { f32::NAN };
    (step, if step >= LEAST_STEP { 1.0 / step } else { 0.0 })
}

/// Puts the weights of a span of one output on a grid around 0, and says what a step is, and the sum of all in steps. A step is NaN
/// where a weight is not finite.
fn weights(span: &[f32], steps: &mut [i8]) -> (f32, f32) {
    let (scale, inverse) = around_zero(span);
    for (weight, step) in span.iter().zip(&mut *steps) {
        *step = ((weight * inverse).clamp(-MOST_WEIGHT, MOST_WEIGHT) + ROUNDING).to_bits() as i8;
    }
    let total: i32 = steps.iter().map(|step| i32::from(*step)).sum();
    (scale, total as f32)
}
