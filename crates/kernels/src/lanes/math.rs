//! Functions of whole registers. The coefficients are our own least-squares fits, weighted towards the smallest largest
//! error, over Chebyshev nodes in 50 digits; `tests/pointwise.rs` holds them to their bounds.

use super::{Lanes, POWER_OFFSET};

/// Below, e^x is less than the smallest normal number and 0 here.
const EXP_LEAST: f32 = -88.0;

/// Above, e^x is as here: nothing becomes infinite.
const EXP_MOST: f32 = 88.0;

/// ln 2 in two parts: the first has so few bits that its product with a whole number below 2⁸ is exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// e^x - 1 - of x from -ln 2 / 2 to ln 2 / 2, from x to x⁶; relative error of the sum 2e-9.
const EXP: [f32; 6] = [1.0, 0.499_999_94, 0.166_664_3, 0.041_668_005, 0.008_374_197, 0.001_384_36];

/// e^x within 2e-7 of its value, for x from -87 to 88; NaN stays NaN.
#[inline(always)]
pub(crate) fn exp<V: Lanes>(x: V) -> V {
    // In this order, so that NaN goes through.
    let x = x.filled(EXP_MOST).min(x.filled(EXP_LEAST).max(x));
    let shifted = x.mul_add(x.filled(std::f32::consts::LOG2_E), x.filled(POWER_OFFSET));
    let whole = shifted - x.filled(POWER_OFFSET);
    let rest = whole.mul_add(x.filled(-LN_2_HIGH), x);
    let rest = whole.mul_add(x.filled(-LN_2_LOW), rest);
    let [first, middle @ .., last] = EXP;
    let mut sum = x.filled(last);
    for coefficient in middle.into_iter().rev() {
        sum = sum.mul_add(rest, x.filled(coefficient));
    }
    let sum = sum.mul_add(rest, x.filled(first)).mul_add(rest, x.filled(1.0));
    sum * shifted.power_of_two()
}

/// Φ(x) of x from -5.5 to 0 by powers of t = 1 + x · 2 / 5.5, which is from -1 to 1, within 5e-8; where x is cut off, exactly 0.
const NORMAL: [f32; 16] = [
    0.002_979_768_4,
    0.025_007_954,
    0.094_562_61,
    0.206_815_5,
    0.271_794_97,
    0.177_040_22,
    -0.050_694_685,
    -0.217_584_37,
    -0.165_489_87,
    0.032_123_882,
    0.137_452_81,
    0.053_819_65,
    -0.047_136_586,
    -0.034_099_93,
    0.006_530_972_7,
    0.006_877_094_5,
];
const NORMAL_LEAST: f32 = -5.5;

/// Φ(x) of x from -3.9375 to 0, within 1.7e-4 / |x|; where it is cut off, the polynomial's roundings leave exactly 0.
const ROUGH_NORMAL: [f32; 7] =
    [0.499_780_3, 0.387_342_5, -0.048_612_133, -0.144_489_78, -0.059_357_926, -0.010_272_117, -6.697_056e-4];
const ROUGH_NORMAL_LEAST: f32 = -3.9375;

/// The polynomial of these coefficients, lowest power first.
#[inline(always)]
pub(crate) fn polynomial<V: Lanes, const N: usize>(x: V, coefficients: [f32; N]) -> V {
    let mut sum = x.filled(coefficients[N - 1]);
    for power in (0..N - 1).rev() {
        sum = sum.mul_add(x, x.filled(coefficients[power]));
    }
    sum
}

/// x · Φ(x) with the normal distribution Φ, as BERT has it: within 2e-7 · max(1, |x|). It is max(x, 0) - |x| · Φ(-|x|), because one side
/// of Φ takes fewer instructions than both; so of -∞ it is 0.
#[inline(always)]
pub(crate) fn gelu_erf<V: Lanes>(x: V) -> V {
    let zero = x.filled(0.0);
    // In this order, so that NaN goes through.
    let positive = zero.max(x);
    let near = x.filled(NORMAL_LEAST).max(zero.min(x) - positive);
    let place = near.mul_add(x.filled(-2.0 / NORMAL_LEAST), x.filled(1.0));
    near.mul_add(polynomial(place, NORMAL), positive)
}

/// [`gelu_erf`] within 2e-4 · max(1, |x|), for what is rounded to bf16. What is infinite may become NaN.
#[inline(always)]
pub(crate) fn rough_gelu_erf<V: Lanes>(x: V) -> V {
    let positive = x.filled(0.0).max(x);
    let below = positive.mul_add(x.filled(-2.0), x);
    let near = x.filled(ROUGH_NORMAL_LEAST).max(below);
    below.mul_add(polynomial(near, ROUGH_NORMAL), positive)
}

/// The approximation of GELU by tanh, as GPT-2 and its kin have it: x / (1 + e^(-2u)) with u = √(2/π) (x + 0.044715 x³).
#[inline(always)]
pub(crate) fn gelu_tanh<V: Lanes>(x: V) -> V {
    const MINUS_TWO_ROOT: f32 = -1.595_769;
    let cubic = (x * x).mul_add(x.filled(0.044_715 * MINUS_TWO_ROOT), x.filled(MINUS_TWO_ROOT)) * x;
    x * (exp(cubic) + x.filled(1.0)).reciprocal()
}

/// x / (1 + e^(-x)).
#[inline(always)]
pub(crate) fn silu<V: Lanes>(x: V) -> V {
    x * (exp(x.filled(0.0) - x) + x.filled(1.0)).reciprocal()
}
