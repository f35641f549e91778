//! Sums of products of narrow numbers with NEON, its `sdot` and its `bfdot`. All of them multiply a register of weights with one lane of
//! another, so a group of a row is loaded into the first lane only. `sdot` takes signed bytes on both sides: levels of a row are packed
//! 128 less than they are, and so is the level of 0 when sums become numbers, which gives the same integers. Instructions that Rust has
//! no stable name for are written in assembly.

use std::arch::{aarch64::*, asm};

use super::{Columns, Dots, GROUP_BYTES, finished};
use crate::{
    lanes::Neon,
    quantise::{Grid, level},
};

/// Four sums of products of words.
pub(crate) struct NeonWords;

/// Four sums of products of bytes, with the extension for dot products.
pub(crate) struct NeonDots;

/// Four sums of products of bf16, with the extension for them.
pub(crate) struct NeonBf16;

/// What `sdot`'s levels are too small by.
const SIGNED_BY: f32 = 128.0;

/// The group of a row, in the first lane.
///
/// # Safety
/// It can be read.
#[inline(always)]
unsafe fn first_lane(from: *const u8) -> int32x4_t {
    const { assert!(GROUP_BYTES == size_of::<i32>()) };
    // SAFETY: the caller's promise; every machine that this is compiled for has NEON.
    unsafe { vsetq_lane_s32::<0>(from.cast::<i32>().read_unaligned(), vdupq_n_s32(0)) }
}

/// Levels of a row's grid, in the lowest 16 bits of each lane.
///
/// # Safety
/// The machine has NEON.
#[inline(always)]
unsafe fn levels(numbers: Neon, row: Grid) -> int16x4_t {
    // SAFETY: the caller's promise.
    unsafe { vand_s16(vmovn_s32(vreinterpretq_s32_f32(level(numbers, row).0)), vdup_n_s16(0xff)) }
}

/// `sums` and the products of each four signed bytes of `weights` with the first four of `row`.
///
/// # Safety
/// The machine has the extension for dot products.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn sdot(mut sums: int32x4_t, weights: int8x16_t, row: int8x16_t) -> int32x4_t {
    // SAFETY: the caller's promise; nothing but the sums changes.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {weights:v}.16b, {row:v}.4b[0]",
            sums = inout(vreg) sums, weights = in(vreg) weights, row = in(vreg) row,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}

/// `sums` and the products of each two bf16 of `weights` with the first two of `row`.
///
/// # Safety
/// The machine has the extension for bf16.
#[inline]
#[target_feature(enable = "neon,bf16")]
unsafe fn bfdot(mut sums: float32x4_t, weights: int16x8_t, row: int16x8_t) -> float32x4_t {
    // SAFETY: the caller's promise; nothing but the sums changes.
    unsafe {
        asm!(
            "bfdot {sums:v}.4s, {weights:v}.8h, {row:v}.2h[0]",
            sums = inout(vreg) sums, weights = in(vreg) weights, row = in(vreg) row,
            options(pure, nomem, nostack)
        );
    }
    sums
}

/// The nearest bf16 of each number, the even one of two.
///
/// # Safety
/// The machine has the extension for bf16.
#[inline]
#[target_feature(enable = "neon,bf16")]
unsafe fn bfcvtn(numbers: float32x4_t) -> int16x4_t {
    let rounded;
    // SAFETY: the caller's promise; nothing but the result changes.
    unsafe {
        asm!(
            "bfcvtn {rounded:v}.4h, {numbers:v}.4s",
            rounded = out(vreg) rounded, numbers = in(vreg) numbers,
            options(pure, nomem, nostack)
        );
    }
    rounded
}

impl Dots for NeonWords {
    type Floats = Neon;
    type Sums = int32x4_t;
    type Groups = int16x8_t;

    const GROUP: usize = 2;
    const WEIGHT_BYTES: usize = 2;
    const IS_WHOLE: bool = true;

    #[inline(always)]
    unsafe fn zeros() -> int32x4_t {
        // SAFETY: the caller's promise.
        unsafe { vdupq_n_s32(0) }
    }

    #[inline(always)]
    unsafe fn weights(from: *const u8) -> int16x8_t {
        // The first weights of all four outputs, then the second ones.
        const ORDER: [u8; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
        // SAFETY: the caller's promise.
        unsafe { vmovl_s8(vtbl1_s8(vld1_s8(from.cast()), vreinterpret_s8_u8(vld1_u8(ORDER.as_ptr())))) }
    }

    #[inline(always)]
    unsafe fn group(from: *const u8) -> int16x8_t {
        // SAFETY: the caller's promise.
        unsafe { vreinterpretq_s16_s32(first_lane(from)) }
    }

    #[inline(always)]
    unsafe fn add(sums: int32x4_t, row: int16x8_t, weights: int16x8_t) -> int32x4_t {
        // SAFETY: the caller's promise.
        unsafe {
            let sums = vmlal_laneq_s16::<0>(sums, vget_low_s16(weights), row);
            vmlal_high_laneq_s16::<1>(sums, weights, row)
        }
    }

    #[inline(always)]
    unsafe fn numbers(sums: int32x4_t, row: Grid, columns: Columns) -> Neon {
        // SAFETY: the caller's promise.
        unsafe { finished(Neon(vcvtq_f32_s32(sums)), row, columns) }
    }

    #[inline(always)]
    unsafe fn put(numbers: Neon, row: Grid, to: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { vst1_s16(to.cast(), levels(numbers, row)) }
    }
}

impl Dots for NeonDots {
    type Floats = Neon;
    type Sums = int32x4_t;
    type Groups = int8x16_t;

    const GROUP: usize = 4;
    const WEIGHT_BYTES: usize = 4;
    const IS_WHOLE: bool = true;

    #[inline(always)]
    unsafe fn zeros() -> int32x4_t {
        // SAFETY: the caller's promise.
        unsafe { vdupq_n_s32(0) }
    }

    #[inline(always)]
    unsafe fn weights(from: *const u8) -> int8x16_t {
        // SAFETY: the caller's promise.
        unsafe { vld1q_s8(from.cast()) }
    }

    #[inline(always)]
    unsafe fn group(from: *const u8) -> int8x16_t {
        // SAFETY: the caller's promise.
        unsafe { vreinterpretq_s8_s32(first_lane(from)) }
    }

    #[inline(always)]
    unsafe fn add(sums: int32x4_t, row: int8x16_t, weights: int8x16_t) -> int32x4_t {
        // SAFETY: the caller's promise.
        unsafe { sdot(sums, weights, row) }
    }

    #[inline(always)]
    unsafe fn numbers(sums: int32x4_t, mut row: Grid, columns: Columns) -> Neon {
        row.zero -= SIGNED_BY;
        // SAFETY: the caller's promise.
        unsafe { finished(Neon(vcvtq_f32_s32(sums)), row, columns) }
    }

    #[inline(always)]
    unsafe fn put(numbers: Neon, row: Grid, to: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe {
            let levels = vreinterpretq_u8_s16(vcombine_s16(levels(numbers, row), vdup_n_s16(0)));
            // The lowest byte of each word; 128 less than it, as a signed byte, is the same with its highest bit turned.
            let bytes = veor_u8(vget_low_u8(vuzp1q_u8(levels, levels)), vdup_n_u8(0x80));
            to.cast::<u32>().write_unaligned(vget_lane_u32::<0>(vreinterpret_u32_u8(bytes)));
        }
    }
}

impl Dots for NeonBf16 {
    type Floats = Neon;
    type Sums = float32x4_t;
    type Groups = int16x8_t;

    const GROUP: usize = 2;
    const WEIGHT_BYTES: usize = 4;
    const IS_WHOLE: bool = false;

    #[inline(always)]
    unsafe fn zeros() -> float32x4_t {
        // SAFETY: the caller's promise.
        unsafe { vdupq_n_f32(0.0) }
    }

    #[inline(always)]
    unsafe fn weights(from: *const u8) -> int16x8_t {
        // SAFETY: the caller's promise.
        unsafe { vld1q_s16(from.cast()) }
    }

    #[inline(always)]
    unsafe fn group(from: *const u8) -> int16x8_t {
        // SAFETY: the caller's promise.
        unsafe { vreinterpretq_s16_s32(first_lane(from)) }
    }

    #[inline(always)]
    unsafe fn add(sums: float32x4_t, row: int16x8_t, weights: int16x8_t) -> float32x4_t {
        // SAFETY: the caller's promise.
        unsafe { bfdot(sums, weights, row) }
    }

    #[inline(always)]
    unsafe fn numbers(sums: float32x4_t, _row: Grid, _columns: Columns) -> Neon {
        Neon(sums)
    }

    #[inline(always)]
    unsafe fn put(numbers: Neon, _row: Grid, to: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { vst1_s16(to.cast(), bfcvtn(numbers.0)) }
    }
}
