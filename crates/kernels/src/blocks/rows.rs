//! Rows that are multiplied with blocks: signed bytes, in steps of their own for each few numbers.

use crate::quantise::{ROUNDING, around_zero};

/// Numbers of a row that share a step.
pub(super) const ROW_BLOCK: usize = 32;

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
    let (step, inverse) = around_zero(numbers);
    for (number, to) in numbers.iter().zip(&mut *to) {
        *to = (number * inverse + ROUNDING).to_bits() as u8;
    }
    to.chunks_exact(block).map(move |some| {
        let total = some.iter().map(|byte| i32::from(byte.cast_signed())).sum();
        Beside { step, total }
    })
}
