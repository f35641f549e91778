//! Rows that are multiplied with blocks: signed bytes, in steps of their own for each few numbers.

/// Numbers of a row that share a step.
pub(super) const ROW_BLOCK: usize = 32;

/// The largest number of a row in steps.
const MOST: f32 = 127.0;

/// Steps below this are taken for nothing: a number divided by them could be infinite.
const LEAST_STEP: f32 = 1e-36;

/// 1.5 × 2²³: a sum with it is rounded to a whole number, to even ones from halves, which is in its lowest bits.
const ROUNDING: f32 = 12_582_912.0;

/// What is known of a block of a row.
#[derive(Clone, Copy, Default)]
pub(crate) struct Beside {
    /// What a step is; NaN where a number is not finite, so that no product is.
    pub(super) step: f32,
    /// The sum of its numbers in steps.
    pub(super) total: i32,
}

/// Puts numbers on a grid around 0, as signed bytes, and says what is known of each block of so many of them.
#[inline(always)]
pub(super) fn in_steps(
    numbers: &[f32; ROW_BLOCK],
    to: &mut [u8; ROW_BLOCK],
    block: usize,
) -> impl Iterator<Item = Beside> {
    // As whole numbers, which are ordered alike, because maxima of floats are taken one by one.
    let largest = numbers.iter().fold(0, |largest: u32, number| largest.max(number.abs().to_bits()));
    let largest = f32::from_bits(largest);
    let step = if largest.is_finite() { largest / MOST } else { f32::NAN };
    let inverse = if step >= LEAST_STEP { 1.0 / step } else { 0.0 };
    for (number, to) in numbers.iter().zip(&mut *to) {
        *to = (number * inverse + ROUNDING).to_bits() as u8;
    }
    to.chunks_exact(block).map(move |some| {
        let total = some.iter().map(|byte| i32::from(byte.cast_signed())).sum();
        Beside { step, total }
    })
}
