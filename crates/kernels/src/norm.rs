//! Layer norm of rows, with the residual that precedes it in BERT.

use crate::{Cpu, Rows, RowsMut, cpu::Work, lanes::Lanes};

/// The parameters of a layer norm.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm<'a> {
    /// What each column is multiplied with after the norm.
    pub weight: &'a [f32],
    /// What is added to each column at the end.
    pub bias: &'a [f32],
    /// Added to the variance.
    pub epsilon: f32,
}

/// Writes to `y` the layer norm of each row of `x`, or of `x + residual`: (x - mean) / √(variance + ε) · weight + bias, with the
/// variance of all columns (not one less).
///
/// # Panics
/// When shapes do not fit each other.
pub fn layer_norm(cpu: Cpu, norm: LayerNorm<'_>, x: Rows<'_>, residual: Option<Rows<'_>>, y: RowsMut<'_>) {
    let columns = y.columns();
    assert!(
        x.rows() == y.rows() && x.columns() == columns,
        "rows of {} × {} for a result of {} × {columns}",
        x.rows(),
        x.columns(),
        y.rows()
    );
    if let Some(residual) = residual {
        assert!(
            residual.rows() == y.rows() && residual.columns() == columns,
            "a residual of {} × {} for a result of {} × {columns}",
            residual.rows(),
            residual.columns(),
            y.rows()
        );
    }
    assert!(
        norm.weight.len() == columns && norm.bias.len() == columns,
        "a weight of {} and a bias of {} for {columns} columns",
        norm.weight.len(),
        norm.bias.len()
    );
    if columns > 0 {
        cpu.run(Norm { norm, x, residual, y });
    }
}

struct Norm<'a> {
    norm: LayerNorm<'a>,
    x: Rows<'a>,
    residual: Option<Rows<'a>>,
    y: RowsMut<'a>,
}

impl Work for Norm<'_> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(mut self) {
        let columns = self.y.columns();
        for row in 0..self.y.rows() {
            // SAFETY: the caller promises the instructions; `layer_norm` checked that every row and parameter has `columns`
            // numbers.
            unsafe {
                let x = self.x.as_ptr().add(row * self.x.stride());
                let residual = self.residual.map(|residual| residual.as_ptr().add(row * residual.stride()));
                let to = self.y.as_mut_ptr().add(row * self.y.stride());
                // Some numbers from a column on; lanes after them are `filling`.
                let at = |column: usize, count: usize, filling: f32| {
                    let x = x.add(column);
                    let number = if count == V::WIDTH { V::load(x) } else { V::load_first(x, count, filling) };
                    residual.map_or(number, |residual| number + V::load_some(residual.add(column), count))
                };
                let mean = sum::<V>(columns, |sum, column, count| sum + at(column, count, 0.0)) / columns as f32;
                let all_mean = V::splat(mean);
                let squares = sum::<V>(columns, |sum, column, count| {
                    let deviation = at(column, count, mean) - all_mean;
                    deviation.mul_add(deviation, sum)
                });
                let factor = V::splat(1.0 / (squares / columns as f32 + self.norm.epsilon).sqrt());
                for column in (0..columns).step_by(V::WIDTH) {
                    let count = V::WIDTH.min(columns - column);
                    let weight = V::load_some(self.norm.weight.as_ptr().add(column), count);
                    let bias = V::load_some(self.norm.bias.as_ptr().add(column), count);
                    let deviation = at(column, count, mean) - all_mean;
                    (deviation * factor).mul_add(weight, bias).store_some(to.add(column), count);
                }
            }
        }
    }
}

/// Adds up what `add` adds to a sum for so many numbers from a column on: several sums take turns, because an addition takes a few cycles.
///
/// # Safety
/// The machine has the instructions of `V`.
#[inline(always)]
unsafe fn sum<V: Lanes>(columns: usize, add: impl Fn(V, usize, usize) -> V) -> f32 {
    const SUMS: usize = 4;
    // SAFETY: the caller's promise.
    let mut sums = [unsafe { V::splat(0.0) }; SUMS];
    let together = columns / (SUMS * V::WIDTH) * (SUMS * V::WIDTH);
    for first in (0..together).step_by(SUMS * V::WIDTH) {
        for (index, sum) in sums.iter_mut().enumerate() {
            *sum = add(*sum, first + index * V::WIDTH, V::WIDTH);
        }
    }
    for column in (together..columns).step_by(V::WIDTH) {
        sums[0] = add(sums[0], column, V::WIDTH.min(columns - column));
    }
    let [first, second, third, fourth] = sums;
    ((first + second) + (third + fourth)).sum()
}
