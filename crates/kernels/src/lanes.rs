//! Registers of several `f32`: one interface over all widths, so that each kernel is written once.

mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::ops::{Add, Mul, Sub};

#[cfg(target_arch = "x86_64")]
pub(crate) use math::polynomial;
pub(crate) use math::{exp, gelu_erf, gelu_tanh, rough_gelu_erf, silu};
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;
pub(crate) use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512, first_of_16};

/// One register. Only unsafe functions make the first value of a type, so whoever holds one is on a machine that has its
/// instructions, and arithmetic on it is safe. Every method is inlined into a function compiled for those instructions
/// (`Cpu::run`); called from elsewhere it would be slow, not wrong.
///
/// # Safety of the unsafe methods
/// The machine has the instructions; `load` and `store` touch `WIDTH` numbers, `factor` that one, `transpose` those of both squares, the
/// others only `count`, which is at most `WIDTH`. No alignment is needed.
pub(crate) trait Lanes: Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> {
    /// How many numbers.
    const WIDTH: usize;

    /// Rows of the block of sums that products keep in registers.
    const BLOCK_ROWS: usize;

    /// Registers across that block: the width of a packed panel.
    const BLOCK_VECTORS: usize;

    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    /// `count` numbers, and `fill` in the lanes after them.
    unsafe fn load_first(from: *const f32, count: usize, fill: f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn store_first(self, to: *mut f32, count: usize);

    /// The number at `index` of a row in all lanes, to be multiplied with several registers.
    #[inline(always)]
    unsafe fn factor(row: *const f32, index: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self::splat(*row.add(index)) }
    }

    /// `count` numbers, and zeros after them; faster than `load_first` where it is a whole register.
    #[inline(always)]
    unsafe fn load_some(from: *const f32, count: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe { if count == Self::WIDTH { Self::load(from) } else { Self::load_first(from, count, 0.0) } }
    }

    /// `count` numbers; faster than `store_first` where it is a whole register.
    #[inline(always)]
    unsafe fn store_some(self, to: *mut f32, count: usize) {
        // SAFETY: the caller's promise.
        unsafe { if count == Self::WIDTH { self.store(to) } else { self.store_first(to, count) } }
    }

    /// Writes a square of `WIDTH` rows and columns transposed. Rows are so far apart, in numbers.
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        for row in 0..Self::WIDTH {
            for column in 0..Self::WIDTH {
                // SAFETY: the caller's promise.
                unsafe { *to.add(column * to_stride + row) = *from.add(row * from_stride + column) };
            }
        }
    }

    /// `value` in all lanes.
    fn filled(self, value: f32) -> Self;
    /// `self * factor + term`, rounded once where the machine can.
    fn mul_add(self, factor: Self, term: Self) -> Self;
    /// The larger; `other` where either is NaN.
    fn max(self, other: Self) -> Self;
    /// The smaller; `other` where either is NaN.
    fn min(self, other: Self) -> Self;
    /// 2ⁿ of lanes that hold `n + POWER_OFFSET` for whole `n` from -127 (which gives 0) to 127.
    fn power_of_two(self) -> Self;
    /// 1 / x for finite x other than 0, to about two units in the last place.
    fn reciprocal(self) -> Self;
    /// Of all lanes.
    fn sum(self) -> f32;
    /// Of all lanes; anything if one is NaN.
    fn largest(self) -> f32;
    /// Asks for a line of memory ahead of its use; any address will do.
    fn prefetch(address: *const f32);
}

/// 1.5 × 2²³ + 127: a sum with it has the whole number in its lowest bits, in the bias of an exponent.
pub(crate) const POWER_OFFSET: f32 = 12_582_912.0 + 127.0;
