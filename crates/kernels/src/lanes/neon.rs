//! Lanes of NEON.

use std::{
    arch::{aarch64::*, asm},
    ops::{Add, Mul, Sub},
};

use super::Lanes;

/// Four numbers.
#[derive(Clone, Copy)]
pub(crate) struct Neon(pub(crate) float32x4_t);

/// An operator of two registers.
macro_rules! operator {
    ($operator:ident, $method:ident, $intrinsic:ident) => {
        impl $operator for Neon {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                // SAFETY: a value exists only where its instructions do.
                Self(unsafe { $intrinsic(self.0, other.0) })
            }
        }
    };
}

operator!(Add, add, vaddq_f32);
operator!(Sub, sub, vsubq_f32);
operator!(Mul, mul, vmulq_f32);

impl Lanes for Neon {
    const WIDTH: usize = 4;
    // 24 sums, 3 columns and rows of the 32 registers.
    const BLOCK_ROWS: usize = 8;
    const BLOCK_VECTORS: usize = 3;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { vdupq_n_f32(value) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { vld1q_f32(from) })
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize, fill: f32) -> Self {
        // SAFETY: the caller's promise; each arm reads `count` numbers.
        unsafe {
            let fill = vdupq_n_f32(fill);
            Self(match count {
                0 => fill,
                1 => vld1q_lane_f32::<0>(from, fill),
                2 => vcombine_f32(vld1_f32(from), vget_high_f32(fill)),
                3 => vld1q_lane_f32::<2>(from.add(2), vcombine_f32(vld1_f32(from), vget_high_f32(fill))),
                _ => vld1q_f32(from),
            })
        }
    }

    #[inline(always)]
    unsafe fn factor(row: *const f32, index: usize) -> Self {
        let number: f32;
        // SAFETY: the caller's promise; nothing but the result changes.
        unsafe {
            // Not in Rust: the compiler would load it into all lanes, which takes a place in a vector unit on many processors, while
            // `fmla` multiplies with one lane of a register as well. And it would move pointers to all rows at each step.
            asm!(
                "ldr {number:s}, [{row}, {index}, lsl #2]",
                number = out(vreg) number, row = in(reg) row, index = in(reg) index,
                options(pure, readonly, nostack, preserves_flags)
            );
            Self(vdupq_n_f32(number))
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { vst1q_f32(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        // SAFETY: the caller's promise; each arm writes `count` numbers.
        unsafe {
            match count {
                0 => {}
                1 => vst1q_lane_f32::<0>(to, self.0),
                2 => vst1_f32(to, vget_low_f32(self.0)),
                3 => {
                    vst1_f32(to, vget_low_f32(self.0));
                    vst1q_lane_f32::<2>(to.add(2), self.0);
                }
                _ => vst1q_f32(to, self.0),
            }
        }
    }

    #[inline(always)]
    fn filled(self, value: f32) -> Self {
        // SAFETY: a value exists only where its instructions do.
        Self(unsafe { vdupq_n_f32(value) })
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        // SAFETY: a value exists only where its instructions do.
        Self(unsafe { vfmaq_f32(term.0, self.0, factor.0) })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // Not `fmax` or `fmaxnm`, which treat NaN alike on both sides.
        // SAFETY: a value exists only where its instructions do.
        Self(unsafe { vbslq_f32(vcgtq_f32(self.0, other.0), self.0, other.0) })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        // SAFETY: a value exists only where its instructions do.
        Self(unsafe { vbslq_f32(vcltq_f32(self.0, other.0), self.0, other.0) })
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        // SAFETY: a value exists only where its instructions do.
        Self(unsafe { vreinterpretq_f32_s32(vshlq_n_s32::<23>(vreinterpretq_s32_f32(self.0))) })
    }

    #[inline(always)]
    fn reciprocal(self) -> Self {
        // SAFETY: a value exists only where its instructions do.
        Self(unsafe { vdivq_f32(vdupq_n_f32(1.0), self.0) })
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: a value exists only where its instructions do.
        unsafe { vaddvq_f32(self.0) }
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        // SAFETY: a value exists only where its instructions do.
        unsafe { vmaxvq_f32(self.0) }
    }

    #[inline(always)]
    #[allow(clippy::pointers_in_nomem_asm_block, reason = "a hint reads nothing that the program could notice")]
    fn prefetch(address: *const f32) {
        // SAFETY: a prefetch is a hint; it changes neither memory nor registers.
        unsafe {
            asm!("prfm pldl1keep, [{}]", in(reg) address, options(nomem, nostack, preserves_flags));
        }
    }
}
