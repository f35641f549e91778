//! Sums of products of narrow numbers with AVX2, AVX-VNNI, AVX-512, AVX-512 VNNI and AVX-512 BF16. Those that multiply bytes take
//! unsigned ones of a row with signed ones of weights and do not saturate. The older ones, whose products of bytes would saturate,
//! multiply words: rows are packed as words, weights are widened as they are read.

use std::arch::x86_64::*;

use super::{Columns, Dots, GROUP_BYTES, finished};
use crate::{
    lanes::{Avx2, Avx512},
    quantise::{Grid, level, unbounded},
};

/// Eight sums, with AVX2 alone.
pub(crate) struct Avx2Words;

/// Eight sums, with AVX-VNNI.
pub(crate) struct Avx2Vnni;

/// Sixteen sums, with AVX-512 F and BW.
pub(crate) struct Avx512Words;

/// Sixteen sums, with AVX-512 VNNI.
pub(crate) struct Avx512Vnni;

/// Sixteen sums of bf16, with AVX-512 BF16.
pub(crate) struct Avx512Bf16;

/// Four bytes, as one number.
///
/// # Safety
/// They can be read.
#[inline(always)]
unsafe fn four_bytes(from: *const u8) -> i32 {
    const { assert!(GROUP_BYTES == size_of::<i32>()) };
    // SAFETY: the caller's promise.
    unsafe { from.cast::<i32>().read_unaligned() }
}

impl Dots for Avx2Words {
    type Floats = Avx2;
    type Sums = __m256i;
    type Groups = __m256i;

    const GROUP: usize = 2;
    const WEIGHT_BYTES: usize = 2;
    const IS_WHOLE: bool = true;

    #[inline(always)]
    unsafe fn zeros() -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn weights(from: *const u8) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn group(from: *const u8) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_set1_epi32(four_bytes(from)) }
    }

    #[inline(always)]
    unsafe fn add(sums: __m256i, row: __m256i, weights: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_add_epi32(sums, _mm256_madd_epi16(row, weights)) }
    }

    #[inline(always)]
    unsafe fn numbers(sums: __m256i, row: Grid, columns: Columns) -> Avx2 {
        // SAFETY: the caller's promise.
        unsafe { finished(Avx2(_mm256_cvtepi32_ps(sums)), row, columns) }
    }

    #[inline(always)]
    unsafe fn put(numbers: Avx2, row: Grid, to: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe {
            let levels = _mm256_and_si256(_mm256_castps_si256(level(numbers, row).0), _mm256_set1_epi32(0xff));
            let words = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(levels, levels));
            _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(words));
        }
    }
}

impl Dots for Avx2Vnni {
    type Floats = Avx2;
    type Sums = __m256i;
    type Groups = __m256i;

    const GROUP: usize = 4;
    const WEIGHT_BYTES: usize = 4;
    const IS_WHOLE: bool = true;

    #[inline(always)]
    unsafe fn zeros() -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn weights(from: *const u8) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    unsafe fn group(from: *const u8) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_set1_epi32(four_bytes(from)) }
    }

    #[inline(always)]
    unsafe fn add(sums: __m256i, row: __m256i, weights: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_dpbusd_avx_epi32(sums, row, weights) }
    }

    #[inline(always)]
    unsafe fn numbers(sums: __m256i, row: Grid, columns: Columns) -> Avx2 {
        // SAFETY: the caller's promise.
        unsafe { finished(Avx2(_mm256_cvtepi32_ps(sums)), row, columns) }
    }

    #[inline(always)]
    unsafe fn put(numbers: Avx2, row: Grid, to: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe {
            let levels = _mm256_castps_si256(level(numbers, row).0);
            // The lowest byte of each lane, in the first lane of its half.
            let lowest = _mm256_set1_epi32(0x0c08_0400);
            let halves = _mm256_shuffle_epi8(levels, lowest);
            let bytes = _mm256_permutevar8x32_epi32(halves, _mm256_setr_epi32(0, 4, 0, 4, 0, 4, 0, 4));
            _mm_storel_epi64(to.cast(), _mm256_castsi256_si128(bytes));
        }
    }
}

impl Dots for Avx512Words {
    type Floats = Avx512;
    type Sums = __m512i;
    type Groups = __m512i;

    const GROUP: usize = 2;
    const WEIGHT_BYTES: usize = 2;
    const IS_WHOLE: bool = true;

    #[inline(always)]
    unsafe fn zeros() -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn weights(from: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_cvtepi8_epi16(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn group(from: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_set1_epi32(four_bytes(from)) }
    }

    #[inline(always)]
    unsafe fn add(sums: __m512i, row: __m512i, weights: __m512i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_add_epi32(sums, _mm512_madd_epi16(row, weights)) }
    }

    #[inline(always)]
    unsafe fn numbers(sums: __m512i, row: Grid, columns: Columns) -> Avx512 {
        // SAFETY: the caller's promise.
        unsafe { finished(Avx512(_mm512_cvtepi32_ps(sums)), row, columns) }
    }

    #[inline(always)]
    unsafe fn put(numbers: Avx512, row: Grid, to: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe {
            let levels = _mm512_and_si512(_mm512_castps_si512(level(numbers, row).0), _mm512_set1_epi32(0xff));
            _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(levels));
        }
    }
}

impl Dots for Avx512Vnni {
    type Floats = Avx512;
    type Sums = __m512i;
    type Groups = __m512i;

    const GROUP: usize = 4;
    const WEIGHT_BYTES: usize = 4;
    const IS_WHOLE: bool = true;

    #[inline(always)]
    unsafe fn zeros() -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn weights(from: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn group(from: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_set1_epi32(four_bytes(from)) }
    }

    #[inline(always)]
    unsafe fn add(sums: __m512i, row: __m512i, weights: __m512i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_dpbusd_epi32(sums, row, weights) }
    }

    #[inline(always)]
    unsafe fn numbers(sums: __m512i, row: Grid, columns: Columns) -> Avx512 {
        // SAFETY: the caller's promise.
        unsafe { finished(Avx512(_mm512_cvtepi32_ps(sums)), row, columns) }
    }

    #[inline(always)]
    unsafe fn put(numbers: Avx512, row: Grid, to: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe {
            // As `level`, by instructions that round and cut in one: what is no number becomes the least, then 0.
            let Avx512(levels) = unbounded(numbers, row);
            let levels = _mm512_max_epi32(_mm512_cvtps_epi32(levels), _mm512_setzero_si512());
            _mm_storeu_si128(to.cast(), _mm512_cvtusepi32_epi8(levels));
        }
    }
}

impl Dots for Avx512Bf16 {
    type Floats = Avx512;
    type Sums = __m512;
    type Groups = __m512i;

    const GROUP: usize = 2;
    const WEIGHT_BYTES: usize = 4;
    const IS_WHOLE: bool = false;

    #[inline(always)]
    unsafe fn zeros() -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn weights(from: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn group(from: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_set1_epi32(four_bytes(from)) }
    }

    #[inline(always)]
    unsafe fn add(sums: __m512, row: __m512i, weights: __m512i) -> __m512 {
        // SAFETY: the caller's promise; both operands are 64 bytes of plain numbers.
        unsafe {
            let [row, weights] = [row, weights].map(|groups| std::mem::transmute::<__m512i, __m512bh>(groups));
            _mm512_dpbf16_ps(sums, row, weights)
        }
    }

    #[inline(always)]
    unsafe fn numbers(sums: __m512, _row: Grid, _columns: Columns) -> Avx512 {
        Avx512(sums)
    }

    #[inline(always)]
    unsafe fn put(numbers: Avx512, _row: Grid, to: *mut u8) {
        // SAFETY: the caller's promise; both are 32 bytes of plain numbers.
        unsafe {
            let rounded = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(numbers.0));
            _mm256_storeu_si256(to.cast(), rounded);
        }
    }
}
