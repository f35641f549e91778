//! What kernels are held to: the same functions in f64, one number after the other, and random numbers to feed both.
#![allow(dead_code, unreachable_pub, clippy::print_stderr)]

use std::{
    env,
    f64::consts::PI,
    io::{self, Write as _},
    sync::Once,
};

use kernels::{Activation, Cpu, Isa};

static SAID: Once = Once::new();

/// All instructions this machine has; says once which it has not, because nothing is tested of those.
pub fn cpus() -> Vec<Cpu> {
    let (cpus, missing): (Vec<_>, Vec<_>) = Isa::ALL.into_iter().map(Cpu::with).partition(Result::is_ok);
    SAID.call_once(|| {
        for error in missing.into_iter().filter_map(Result::err) {
            // Past what a passing test's output is caught by.
            let line = format!("NOT TESTED: {error}\n");
            io::stderr().write_all(line.as_bytes()).expect("standard error");
        }
    });
    cpus.into_iter().filter_map(Result::ok).collect()
}

/// Those, and where they have instructions for narrow numbers, the same without them.
pub fn variants() -> Vec<Cpu> {
    let with_and_without = |cpu: Cpu| [cpu, cpu.without_extensions()];
    let mut variants: Vec<_> = cpus().into_iter().flat_map(with_and_without).collect();
    variants.dedup();
    variants
}

/// Random numbers from a seed: SplitMix64.
pub struct Random(u64);

impl Random {
    /// Seeded with `AUGUR_TEST_SEED` or else the time; says so.
    pub fn new() -> Self {
        let now = || std::time::UNIX_EPOCH.elapsed().map_or(1, |time| time.as_nanos() as u64);
        let seed = env::var("AUGUR_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(now);
        eprintln!("AUGUR_TEST_SEED={seed}");
        Self(seed)
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }

    /// A whole number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }

    /// One of these.
    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Around 0, mostly below 1, with a few larger ones, as activations are.
    pub fn number(&mut self) -> f32 {
        let mut unit = || (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0;
        (unit() + unit() + unit()) * if self.below(50) == 0 { 8.0 } else { 1.0 }
    }

    pub fn numbers(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.number()).collect()
    }
}

/// Numbers in rows that lie apart and off the alignment of registers, with NaN in between.
pub struct Spread {
    pub data: Vec<f32>,
    pub offset: usize,
    pub rows: usize,
    pub columns: usize,
    pub stride: usize,
}

impl Spread {
    pub fn new(random: &mut Random, rows: usize, columns: usize) -> Self {
        let (offset, stride) = (random.below(17), columns + random.of(&[0, 0, 1, 3, 16, 37]));
        let mut spread = Self { data: vec![f32::NAN; offset + rows * stride], offset, rows, columns, stride };
        for row in 0..rows {
            for column in 0..columns {
                *spread.at_mut(row, column) = random.number();
            }
        }
        // Nothing after the last row, so that a view ends where its buffer ends.
        spread.data.truncate(offset + (rows.max(1) - 1) * stride + if rows > 0 { columns } else { 0 });
        spread
    }

    pub fn at(&self, row: usize, column: usize) -> f32 {
        self.data[self.offset + row * self.stride + column]
    }

    pub fn at_mut(&mut self, row: usize, column: usize) -> &mut f32 {
        &mut self.data[self.offset + row * self.stride + column]
    }

    pub fn view(&self) -> kernels::Rows<'_> {
        kernels::Rows::new(&self.data[self.offset..], self.rows, self.columns, self.stride)
    }

    pub fn view_mut(&mut self) -> kernels::RowsMut<'_> {
        kernels::RowsMut::new(&mut self.data[self.offset..], self.rows, self.columns, self.stride)
    }

    /// Panics if a number outside of the rows was written.
    pub fn assert_gaps_untouched(&self) {
        for (index, number) in self.data.iter().enumerate() {
            let inside = index >= self.offset && (index - self.offset) % self.stride.max(1) < self.columns;
            assert!(inside || number.is_nan(), "number {index}, between rows, was written");
        }
    }
}

/// The error function, to about 1e-16.
pub fn erf(x: f64) -> f64 {
    if x.abs() < 3.0 {
        let (mut sum, mut term, mut n) = (x, x, 0.0);
        while term.abs() > 1e-19 {
            n += 1.0;
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * 2.0 / PI.sqrt()
    } else if x.is_nan() {
        x
    } else {
        let fraction = (1..60).rev().fold(0.0, |fraction, k| f64::from(k) / 2.0 / (x.abs() + fraction));
        x.signum() * (1.0 - (-x * x).exp() / (PI.sqrt() * (x.abs() + fraction)))
    }
}

pub fn activation(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::None => x,
        Activation::Relu => x.max(0.0),
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluErf => 0.5 * x * (1.0 + erf(x / 2_f64.sqrt())),
        Activation::GeluTanh => 0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x * x * x)).tanh()),
    }
}

pub fn softmax(row: &[f64]) -> Vec<f64> {
    let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = row.iter().map(|x| (x - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

pub fn layer_norm(row: &[f64], weight: &[f32], bias: &[f32], epsilon: f64) -> Vec<f64> {
    let count = row.len() as f64;
    let mean = row.iter().sum::<f64>() / count;
    let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
    let parameters = weight.iter().zip(bias).map(|(weight, bias)| (f64::from(*weight), f64::from(*bias)));
    row.iter()
        .zip(parameters)
        .map(|(x, (weight, bias))| (x - mean) / (variance + epsilon).sqrt() * weight + bias)
        .collect()
}
