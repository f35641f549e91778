//! Products in AMX tiles: of bf16, with sums in f32, and of whole numbers of 8 bits. With two bf16 for each number the result is as exact
//! as with f32: x = high + low to 16 bits, and of the four products that of both lows is too small to count.

mod attention;
#[cfg(all(feature = "amx-emulator", target_os = "linux"))]
mod emulator;
mod int8;
mod pack;
mod pass;
mod product;
mod results;
mod tiles;

use crate::Precision;

pub(crate) use attention::{Heads, attention, gather, whole};
pub(crate) use int8::Int8Matrix;
pub(crate) use pack::pack;
pub(crate) use pass::LEFT_BYTES;
pub(crate) use product::{Packed, multiply, multiply_both};
pub(crate) use tiles::is_granted;

/// Outputs in a packed panel, and rows in a packed block of a left operand: two tiles of sixteen.
pub(crate) const PANEL: usize = 32;

/// Numbers along the dimension that is summed in one step: one line of bf16.
const STEP: usize = 32;

/// The same of bytes.
const INT8_STEP: usize = 64;

/// Bytes of one tile: sixteen rows of a line.
const TILE: usize = 1024;

/// How many bf16 stand for one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parts {
    /// The nearest one.
    One,
    /// The nearest one, and the nearest to what is missing.
    Two,
}

impl From<Precision> for Parts {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::Two,
            // Whole numbers have tiles of their own, but not in attention, which need not be more exact than its queries and keys are.
            Precision::Bf16 | Precision::Int8 => Self::One,
        }
    }
}

/// Bytes of the tiles of one step of one panel or block: two tiles of each part.
const fn step_bytes(two: bool) -> usize {
    if two { 4 * TILE } else { 2 * TILE }
}
