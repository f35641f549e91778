//! Sums of products of bytes with AVX2, AVX-VNNI, AVX-512 and AVX-512 VNNI. The older ones have an instruction for them whose sums of
//! two saturate, so bytes are widened to words, those at even places and those at odd ones by themselves.

use std::arch::x86_64::*;

use super::Bytes;
use crate::lanes::{Avx2, Avx512};

/// With AVX2 alone.
pub(crate) struct Avx2Bytes;

/// With AVX-VNNI.
pub(crate) struct Avx2BytesVnni;

/// With AVX-512 F and BW.
pub(crate) struct Avx512Bytes;

/// With AVX-512 VNNI.
pub(crate) struct Avx512BytesVnni;

/// What both of a width share, and how they add.
macro_rules! bytes {
    (
        $name:ident: $floats:ident, $whole:ident, $splat:ident, $load:ident, $and:ident, $right:ident, $to_floats:ident,
        $some:ident, $widen:ident, |$sums:ident, $unsigned:ident, $signed:ident| $add:expr
    ) => {
        impl Bytes for $name {
            type Floats = $floats;
            type Whole = $whole;

            #[inline(always)]
            unsafe fn splat(value: i32) -> $whole {
                // SAFETY: the caller's promise.
                unsafe { $splat(value) }
            }

            #[inline(always)]
            unsafe fn load(from: *const u8) -> $whole {
                // SAFETY: the caller's promise.
                unsafe { $load(from.cast()) }
            }

            #[inline(always)]
            unsafe fn group(from: *const u8) -> $whole {
                // SAFETY: the caller's promise.
                unsafe { $splat(from.cast::<i32>().read_unaligned()) }
            }

            #[inline(always)]
            unsafe fn lower(bytes: $whole) -> $whole {
                // SAFETY: the caller's promise.
                unsafe { $and(bytes, $splat(0x0f0f_0f0f)) }
            }

            #[inline(always)]
            unsafe fn upper(bytes: $whole) -> $whole {
                // SAFETY: the caller's promise.
                unsafe { $and($right::<4>(bytes), $splat(0x0f0f_0f0f)) }
            }

            #[inline(always)]
            unsafe fn add($sums: $whole, $unsigned: $whole, $signed: $whole) -> $whole {
                // SAFETY: the caller's promise.
                unsafe { $add }
            }

            #[inline(always)]
            unsafe fn floats(sums: $whole) -> $floats {
                // SAFETY: the caller's promise.
                $floats(unsafe { $to_floats(sums) })
            }

            #[inline(always)]
            unsafe fn small(from: *const i8) -> $floats {
                // SAFETY: the caller's promise.
                $floats(unsafe { $to_floats($widen($some(from.cast()))) })
            }
        }
    };
}

bytes!(
    Avx2Bytes: Avx2, __m256i, _mm256_set1_epi32, _mm256_loadu_si256, _mm256_and_si256, _mm256_srli_epi16, _mm256_cvtepi32_ps,
    _mm_loadl_epi64, _mm256_cvtepi8_epi32, |sums, unsigned, signed| {
        let even = _mm256_and_si256(unsigned, _mm256_set1_epi16(0xff));
        let odd = _mm256_srli_epi16::<8>(unsigned);
        let [even_signed, odd_signed] = [_mm256_slli_epi16::<8>(signed), signed].map(|bytes| _mm256_srai_epi16::<8>(bytes));
        let sums = _mm256_add_epi32(sums, _mm256_madd_epi16(even, even_signed));
        _mm256_add_epi32(sums, _mm256_madd_epi16(odd, odd_signed))
    }
);

bytes!(
    Avx2BytesVnni: Avx2, __m256i, _mm256_set1_epi32, _mm256_loadu_si256, _mm256_and_si256, _mm256_srli_epi16, _mm256_cvtepi32_ps,
    _mm_loadl_epi64, _mm256_cvtepi8_epi32, |sums, unsigned, signed| _mm256_dpbusd_avx_epi32(sums, unsigned, signed)
);

bytes!(
    Avx512Bytes: Avx512, __m512i, _mm512_set1_epi32, _mm512_loadu_si512, _mm512_and_si512, _mm512_srli_epi16, _mm512_cvtepi32_ps,
    _mm_loadu_si128, _mm512_cvtepi8_epi32, |sums, unsigned, signed| {
        let even = _mm512_and_si512(unsigned, _mm512_set1_epi16(0xff));
        let odd = _mm512_srli_epi16::<8>(unsigned);
        let [even_signed, odd_signed] = [_mm512_slli_epi16::<8>(signed), signed].map(|bytes| _mm512_srai_epi16::<8>(bytes));
        let sums = _mm512_add_epi32(sums, _mm512_madd_epi16(even, even_signed));
        _mm512_add_epi32(sums, _mm512_madd_epi16(odd, odd_signed))
    }
);

bytes!(
    Avx512BytesVnni: Avx512, __m512i, _mm512_set1_epi32, _mm512_loadu_si512, _mm512_and_si512, _mm512_srli_epi16,
    _mm512_cvtepi32_ps, _mm_loadu_si128, _mm512_cvtepi8_epi32, |sums, unsigned, signed| _mm512_dpbusd_epi32(sums, unsigned, signed)
);
