//! Sums of products of bytes with NEON and its `sdot`, for which Rust has no stable name. `sdot` takes signed bytes on both sides, so the
//! highest bit of an unsigned one, which it takes for -128, is multiplied by itself.

use std::arch::{aarch64::*, asm};

use super::Bytes;
use crate::lanes::Neon;

/// With NEON alone: bytes at even places and those at odd ones are widened to words.
pub(crate) struct NeonBytes;

/// With the extension for dot products.
pub(crate) struct NeonBytesDots;

/// `sums` and the products of each four signed bytes of one with those of the other.
///
/// # Safety
/// The machine has the extension for dot products.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn sdot(mut sums: int32x4_t, one: int32x4_t, other: int32x4_t) -> int32x4_t {
    // SAFETY: the caller's promise; nothing but the sums changes.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {one:v}.16b, {other:v}.16b",
            sums = inout(vreg) sums, one = in(vreg) one, other = in(vreg) other,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}

/// What both share, and how they add.
macro_rules! bytes {
    ($name:ident: |$sums:ident, $unsigned:ident, $signed:ident| $add:expr) => {
        impl Bytes for $name {
            type Floats = Neon;
            type Whole = int32x4_t;

            #[inline(always)]
            unsafe fn splat(value: i32) -> int32x4_t {
                // SAFETY: the caller's promise.
                unsafe { vdupq_n_s32(value) }
            }

            #[inline(always)]
            unsafe fn load(from: *const u8) -> int32x4_t {
                // SAFETY: the caller's promise.
                unsafe { vreinterpretq_s32_u8(vld1q_u8(from)) }
            }

            #[inline(always)]
            unsafe fn group(from: *const u8) -> int32x4_t {
                // SAFETY: the caller's promise.
                unsafe { vdupq_n_s32(from.cast::<i32>().read_unaligned()) }
            }

            #[inline(always)]
            unsafe fn lower(bytes: int32x4_t) -> int32x4_t {
                // SAFETY: the caller's promise.
                unsafe { vandq_s32(bytes, vdupq_n_s32(0x0f0f_0f0f)) }
            }

            #[inline(always)]
            unsafe fn upper(bytes: int32x4_t) -> int32x4_t {
                // SAFETY: the caller's promise.
                unsafe { vreinterpretq_s32_u8(vshrq_n_u8::<4>(vreinterpretq_u8_s32(bytes))) }
            }

            #[inline(always)]
            unsafe fn add($sums: int32x4_t, $unsigned: int32x4_t, $signed: int32x4_t) -> int32x4_t {
                // SAFETY: the caller's promise.
                unsafe { $add }
            }

            #[inline(always)]
            unsafe fn floats(sums: int32x4_t) -> Neon {
                // SAFETY: the caller's promise.
                Neon(unsafe { vcvtq_f32_s32(sums) })
            }

            #[inline(always)]
            unsafe fn small(from: *const i8) -> Neon {
                // SAFETY: the caller's promise; four bytes are one number of 32 bits.
                unsafe {
                    let four = u64::from(from.cast::<u32>().read_unaligned());
                    let wide = vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(four))));
                    Neon(vcvtq_f32_s32(wide))
                }
            }
        }
    };
}

bytes!(NeonBytes: |sums, unsigned, signed| {
    let (unsigned, signed) = (vreinterpretq_u16_s32(unsigned), vreinterpretq_s16_s32(signed));
    let even = vreinterpretq_s16_u16(vandq_u16(unsigned, vdupq_n_u16(0xff)));
    let odd = vreinterpretq_s16_u16(vshrq_n_u16::<8>(unsigned));
    let [even_signed, odd_signed] = [vshlq_n_s16::<8>(signed), signed].map(|bytes| vshrq_n_s16::<8>(bytes));
    let first = vmull_s16(vget_low_s16(even), vget_low_s16(even_signed));
    let first = vmlal_s16(first, vget_low_s16(odd), vget_low_s16(odd_signed));
    let second = vmlal_high_s16(vmull_high_s16(even, even_signed), odd, odd_signed);
    vaddq_s32(sums, vpaddq_s32(first, second))
});

bytes!(NeonBytesDots: |sums, unsigned, signed| {
    let high = vandq_s32(unsigned, vdupq_n_s32(0x8080_8080_u32.cast_signed()));
    let sums = vsubq_s32(sums, sdot(vdupq_n_s32(0), high, signed));
    sdot(sums, veorq_s32(unsigned, high), signed)
});
