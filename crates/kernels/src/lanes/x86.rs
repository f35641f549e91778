//! Lanes of AVX2 and AVX-512.

use std::{
    arch::x86_64::*,
    ops::{Add, Mul, Sub},
};

use super::Lanes;
use crate::convert::transposed;

/// Eight numbers, with AVX2 and FMA.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(pub(crate) __m256);

/// Sixteen numbers, with AVX-512 F and DQ.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(pub(crate) __m512);

/// An operator of two registers.
macro_rules! operator {
    ($lanes:ident, $operator:ident, $method:ident, $intrinsic:ident) => {
        impl $operator for $lanes {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                // SAFETY: a value exists only where its instructions do.
                Self(unsafe { $intrinsic(self.0, other.0) })
            }
        }
    };
}

operator!(Avx2, Add, add, _mm256_add_ps);
operator!(Avx2, Sub, sub, _mm256_sub_ps);
operator!(Avx2, Mul, mul, _mm256_mul_ps);
operator!(Avx512, Add, add, _mm512_add_ps);
operator!(Avx512, Sub, sub, _mm512_sub_ps);
operator!(Avx512, Mul, mul, _mm512_mul_ps);

/// All bits set in the first `count` lanes.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn first_of_8(count: usize) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), lanes)
    }
}

impl Lanes for Avx2 {
    const WIDTH: usize = 8;
    // 12 sums, 2 columns and 1 row of the 16 registers.
    const BLOCK_ROWS: usize = 6;
    const BLOCK_VECTORS: usize = 2;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { _mm256_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { _mm256_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize, fill: f32) -> Self {
        // SAFETY: the caller's promise; lanes that are masked off are not read.
        unsafe {
            let mask = first_of_8(count);
            let loaded = _mm256_maskload_ps(from, mask);
            Self(_mm256_blendv_ps(_mm256_set1_ps(fill), loaded, _mm256_castsi256_ps(mask)))
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        // SAFETY: the caller's promise; lanes that are masked off are not written.
        unsafe { _mm256_maskstore_ps(to, first_of_8(count), self.0) }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        for half in 0..2 {
            // SAFETY: the caller's promise.
            unsafe {
                // Half of a row, and of the one four rows further: what changes places then stays within a half.
                let row = |row: usize| {
                    let quarter = |row: usize| _mm_loadu_ps(from.add(row * from_stride + half * 4));
                    _mm256_set_m128(quarter(row + 4), quarter(row))
                };
                let (a, b, c, d) = (row(0), row(1), row(2), row(3));
                let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
                let (ab_after, cd_after) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
                let put = |column: usize, numbers| _mm256_storeu_ps(to.add((half * 4 + column) * to_stride), numbers);
                put(0, _mm256_shuffle_ps::<0x44>(ab, cd));
                put(1, _mm256_shuffle_ps::<0xee>(ab, cd));
                put(2, _mm256_shuffle_ps::<0x44>(ab_after, cd_after));
                put(3, _mm256_shuffle_ps::<0xee>(ab_after, cd_after));
            }
        }
    }

    #[inline(always)]
    fn filled(self, value: f32) -> Self {
        // SAFETY: a value exists only where its instructions do.
        Self(unsafe { _mm256_set1_ps(value) })
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        // SAFETY: a value exists only where its instructions do.
        Self(unsafe { _mm256_fmadd_ps(self.0, factor.0, term.0) })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: a value exists only where its instructions do.
        Self(unsafe { _mm256_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        // SAFETY: a value exists only where its instructions do.
        Self(unsafe { _mm256_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        // SAFETY: a value exists only where its instructions do.
        Self(unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(self.0))) })
    }

    #[inline(always)]
    fn reciprocal(self) -> Self {
        // SAFETY: a value exists only where its instructions do.
        Self(unsafe { _mm256_div_ps(_mm256_set1_ps(1.0), self.0) })
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: a value exists only where its instructions do.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        // SAFETY: a value exists only where its instructions do.
        unsafe {
            let four = _mm_max_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn prefetch(address: *const f32) {
        // SAFETY: a prefetch is a hint; SSE, which has it, is in the baseline.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
}

impl Lanes for Avx512 {
    const WIDTH: usize = 16;
    // 24 sums, 3 columns and rows from memory, of the 32 registers.
    const BLOCK_ROWS: usize = 8;
    const BLOCK_VECTORS: usize = 3;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize, fill: f32) -> Self {
        // SAFETY: the caller's promise; lanes that are masked off are not read.
        Self(unsafe { _mm512_mask_loadu_ps(_mm512_set1_ps(fill), first_of_16(count), from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        // SAFETY: the caller's promise; lanes that are masked off are not written.
        unsafe { _mm512_mask_storeu_ps(to, first_of_16(count), self.0) }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut rows = [_mm512_setzero_si512(); 16];
            for (row, numbers) in rows.iter_mut().enumerate() {
                *numbers = _mm512_loadu_si512(from.add(row * from_stride).cast());
            }
            for (column, numbers) in transposed(rows).into_iter().enumerate() {
                _mm512_storeu_si512(to.add(column * to_stride).cast(), numbers);
            }
        }
    }

    #[inline(always)]
    fn filled(self, value: f32) -> Self {
        // SAFETY: a value exists only where its instructions do.
        Self(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        // SAFETY: a value exists only where its instructions do.
        Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, term.0) })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: a value exists only where its instructions do.
        Self(unsafe { _mm512_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        // SAFETY: a value exists only where its instructions do.
        Self(unsafe { _mm512_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        // SAFETY: a value exists only where its instructions do.
        Self(unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(self.0))) })
    }

    #[inline(always)]
    fn reciprocal(self) -> Self {
        // An estimate of 14 bits and one step of Newton's: a division would take as long as ten other operations.
        // SAFETY: a value exists only where its instructions do.
        let estimate = Self(unsafe { _mm512_rcp14_ps(self.0) });
        estimate * (self.filled(2.0) - self * estimate)
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: a value exists only where its instructions do.
        unsafe { _mm512_reduce_add_ps(self.0) }
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        // SAFETY: a value exists only where its instructions do.
        unsafe { _mm512_reduce_max_ps(self.0) }
    }

    #[inline(always)]
    fn prefetch(address: *const f32) {
        // SAFETY: a prefetch is a hint; SSE, which has it, is in the baseline.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
}

/// A mask of the first `count` lanes, of which there are at most 16.
#[inline(always)]
pub(crate) fn first_of_16(count: usize) -> __mmask16 {
    ((1_u32 << count) - 1) as __mmask16
}
