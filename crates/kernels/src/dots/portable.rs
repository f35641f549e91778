//! Sums of products of whole numbers in plain Rust, which the compiler puts into whatever registers its target has.

use super::{Columns, Dots, finished};
use crate::{
    lanes::{Lanes, Portable},
    quantise::{Grid, level},
};

const WIDTH: usize = Portable::WIDTH;

/// Eight sums of products of words.
pub(crate) struct PortableWords;

impl Dots for PortableWords {
    type Floats = Portable;
    type Sums = [i32; WIDTH];
    type Groups = [[i16; 2]; WIDTH];

    const GROUP: usize = 2;
    const WEIGHT_BYTES: usize = 2;
    const IS_WHOLE: bool = true;

    #[inline(always)]
    unsafe fn zeros() -> Self::Sums {
        [0; WIDTH]
    }

    #[inline(always)]
    unsafe fn weights(from: *const u8) -> Self::Groups {
        // SAFETY: the caller's promise.
        let bytes = unsafe { from.cast::<[[i8; 2]; WIDTH]>().read_unaligned() };
        bytes.map(|pair| pair.map(i16::from))
    }

    #[inline(always)]
    unsafe fn group(from: *const u8) -> Self::Groups {
        // SAFETY: the caller's promise.
        [unsafe { from.cast::<[i16; 2]>().read_unaligned() }; WIDTH]
    }

    #[inline(always)]
    unsafe fn add(mut sums: Self::Sums, row: Self::Groups, weights: Self::Groups) -> Self::Sums {
        for ((sum, row), weight) in sums.iter_mut().zip(row).zip(weights) {
            *sum += i32::from(row[0]) * i32::from(weight[0]) + i32::from(row[1]) * i32::from(weight[1]);
        }
        sums
    }

    #[inline(always)]
    unsafe fn numbers(sums: Self::Sums, row: Grid, columns: Columns) -> Portable {
        let sums = sums.map(|sum| sum as f32);
        // SAFETY: the caller's promise.
        unsafe { finished(Portable::load(sums.as_ptr()), row, columns) }
    }

    #[inline(always)]
    unsafe fn put(numbers: Portable, row: Grid, to: *mut u8) {
        let mut levels = [0.0; WIDTH];
        // SAFETY: the caller's promise; `levels` takes a register.
        unsafe {
            level(numbers, row).store(levels.as_mut_ptr());
            // The whole number is in the lowest bits.
            to.cast::<[i16; WIDTH]>().write_unaligned(levels.map(|level| level.to_bits() as u8).map(i16::from));
        }
    }
}
