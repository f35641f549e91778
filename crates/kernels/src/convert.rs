//! From f32 to lines of bf16, in one part or two.

use std::arch::x86_64::*;

use crate::lanes::first_of_16;

/// 32 numbers as bf16: high parts and low parts; the low ones are zeros where there is one part.
#[derive(Clone, Copy)]
pub(crate) struct Halves {
    pub(crate) high: __m512i,
    pub(crate) low: __m512i,
}

/// 32 numbers in order, in two registers.
#[derive(Clone, Copy)]
pub(crate) struct Pair(pub(crate) __m512, pub(crate) __m512);

/// Reads up to 32 numbers, with zeros after them.
///
/// # Safety
/// `count` numbers, at most 32, can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) unsafe fn read(from: *const f32, count: usize) -> Pair {
    // SAFETY: the caller's promise; lanes that are masked off are not read.
    unsafe {
        if count == 32 {
            return Pair(_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16)));
        }
        let second = from.wrapping_add(16);
        Pair(
            _mm512_maskz_loadu_ps(first_of_16(count.min(16)), from),
            _mm512_maskz_loadu_ps(first_of_16(count.saturating_sub(16)), second),
        )
    }
}

/// Splits 32 numbers. An infinity gets NaN for its low part, NaN stays NaN in one of the parts: whatever is not finite
/// makes products that are not finite.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) fn halves<const TWO: bool>(numbers: Pair) -> Halves {
    let Pair(first, second) = numbers;
    if !TWO {
        return Halves { high: bf16(first, second), low: _mm512_setzero_si512() };
    }
    // By integers, halves away from zero: the rest has to be taken from the same high part that is stored.
    let (first_high, second_high) = (rounded(first), rounded(second));
    let low = bf16(_mm512_sub_ps(first, first_high), _mm512_sub_ps(second, second_high));
    Halves { high: bf16(first_high, second_high), low }
}

/// The nearest bf16, as f32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn rounded(numbers: __m512) -> __m512 {
    let bits = _mm512_add_epi32(_mm512_castps_si512(numbers), _mm512_set1_epi32(0x8000));
    _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(0xffff_0000_u32.cast_signed())))
}

/// 32 numbers rounded to bf16, in order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) fn bf16(first: __m512, second: __m512) -> __m512i {
    // SAFETY: both are 64 bytes of plain numbers.
    unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(second, first)) }
}

/// Transposes sixteen lines of sixteen `f32` or pairs of bf16, so that those of one column make one line.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn transposed(rows: [__m512i; 16]) -> [__m512i; 16] {
    // Pairs, then fours, within each quarter of a line; then quarters change places, twice.
    let mut twos = rows;
    for i in 0..8 {
        twos[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        twos[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    let mut fours = twos;
    for i in 0..4 {
        let [a, b, c, d] = [twos[4 * i], twos[4 * i + 1], twos[4 * i + 2], twos[4 * i + 3]];
        fours[4 * i] = _mm512_unpacklo_epi64(a, c);
        fours[4 * i + 1] = _mm512_unpackhi_epi64(a, c);
        fours[4 * i + 2] = _mm512_unpacklo_epi64(b, d);
        fours[4 * i + 3] = _mm512_unpackhi_epi64(b, d);
    }
    let mut eights = fours;
    for i in 0..4 {
        eights[i] = _mm512_shuffle_i32x4::<0x88>(fours[i], fours[i + 4]);
        eights[i + 4] = _mm512_shuffle_i32x4::<0xdd>(fours[i], fours[i + 4]);
        eights[i + 8] = _mm512_shuffle_i32x4::<0x88>(fours[i + 8], fours[i + 12]);
        eights[i + 12] = _mm512_shuffle_i32x4::<0xdd>(fours[i + 8], fours[i + 12]);
    }
    let mut columns = eights;
    for i in 0..8 {
        columns[i] = _mm512_shuffle_i32x4::<0x88>(eights[i], eights[i + 8]);
        columns[i + 8] = _mm512_shuffle_i32x4::<0xdd>(eights[i], eights[i + 8]);
    }
    columns
}

/// Interleaves two lines of bf16: pairs of (one of `even`, one of `odd`), for the first sixteen and the others.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) fn interleaved(even: __m512i, odd: __m512i) -> [__m512i; 2] {
    // Indices of words: 0..32 are those of `even`, 32..64 those of `odd`.
    let pairs = _mm512_set_epi32(
        47 << 16 | 15,
        46 << 16 | 14,
        45 << 16 | 13,
        44 << 16 | 12,
        43 << 16 | 11,
        42 << 16 | 10,
        41 << 16 | 9,
        40 << 16 | 8,
        39 << 16 | 7,
        38 << 16 | 6,
        37 << 16 | 5,
        36 << 16 | 4,
        35 << 16 | 3,
        34 << 16 | 2,
        33 << 16 | 1,
        32 << 16,
    );
    let later = _mm512_add_epi16(pairs, _mm512_set1_epi16(16));
    [_mm512_permutex2var_epi16(even, pairs, odd), _mm512_permutex2var_epi16(even, later, odd)]
}
