//! Powers of two, of which softmax is made where scores are multiplied by log₂ e before.

use std::arch::x86_64::{
    _CMP_NLT_UQ, _MM_FROUND_TO_NEG_INF, _mm512_cmp_ps_mask, _mm512_maskz_scalef_ps, _mm512_reduce_ps, _mm512_set1_ps,
};

use crate::lanes::{Avx512, polynomial};

/// 2^x for x not above 0, within 1e-4 of its value, which is less than bf16 keeps, or if it is `FINE`, within 3e-7; NaN stays NaN.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(crate) fn power_of_two<const FINE: bool>(x: Avx512) -> Avx512 {
    // Of what is above the whole number below x: our own fits, weighted towards the smallest largest relative error.
    const TO_BF16: [f32; 4] = [0.999_925_2, 0.695_833_56, 0.226_067_16, 0.078_024_52];
    const TO_ALL_BITS: [f32; 6] =
        [0.999_999_9, 0.693_153_1, 0.240_153_62, 0.055_826_31, 0.008_989_343, 0.001_877_578_2];
    // Below, 2^x becomes 0 without being computed: nothing beside a largest 1, and a processor that has to make a number that is not
    // normal takes some hundred cycles for it. NaN is not below.
    let counts = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x.0, _mm512_set1_ps(-100.0));
    let rest = Avx512(_mm512_reduce_ps::<_MM_FROUND_TO_NEG_INF>(x.0));
    let sum = if FINE { polynomial(rest, TO_ALL_BITS) } else { polynomial(rest, TO_BF16) };
    // By 2 to the whole number below x.
    Avx512(_mm512_maskz_scalef_ps(counts, sum.0, x.0))
}
