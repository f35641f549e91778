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
                let from = self.x.as_ptr().add(row * self.x.stride());
                let residual = self.residual.map(|residual| residual.as_ptr().add(row * residual.stride()));
                let to = self.y.as_mut_ptr().add(row * self.y.stride());
                let mean = sum_of_rows::<V>(from, residual, to, columns) / columns as f32;
                let variance = deviations::<V>(to, columns, mean) / columns as f32;
                scale::<V>(to, columns, 1.0 / (variance + self.norm.epsilon).sqrt(), self.norm);
            }
        }
    }
}

/// Writes `from + residual`; the sum of its numbers.
#[inline(always)]
unsafe fn sum_of_rows<V: Lanes>(from: *const f32, residual: Option<*const f32>, to: *mut f32, columns: usize) -> f32 {
    // SAFETY: the caller promises `columns` numbers everywhere.
    unsafe {
        let mut sum = V::splat(0.0);
        for column in (0..columns).step_by(V::WIDTH) {
            let count = V::WIDTH.min(columns - column);
            let mut value = V::load_some(from.add(column), count);
            if let Some(residual) = residual {
                value = value + V::load_some(residual.add(column), count);
            }
            sum = sum + value;
            value.store_some(to.add(column), count);
        }
        sum.sum()
    }
}

/// Replaces numbers by their distance from the mean; the sum of its squares.
#[inline(always)]
unsafe fn deviations<V: Lanes>(at: *mut f32, columns: usize, mean: f32) -> f32 {
    // SAFETY: the caller promises `columns` numbers.
    unsafe {
        let (mean, mut squares) = (V::splat(mean), V::splat(0.0));
        for column in (0..columns).step_by(V::WIDTH) {
            let (at, count) = (at.add(column), V::WIDTH.min(columns - column));
            (V::load_some(at, count) - mean).store_some(at, count);
            // Read back, because lanes after the end are 0 only then.
            let value = V::load_some(at, count);
            squares = value.mul_add(value, squares);
        }
        squares.sum()
    }
}

#[inline(always)]
unsafe fn scale<V: Lanes>(at: *mut f32, columns: usize, factor: f32, norm: LayerNorm<'_>) {
    // SAFETY: the caller promises `columns` numbers, at `at` and in the parameters.
    unsafe {
        let factor = V::splat(factor);
        for column in (0..columns).step_by(V::WIDTH) {
            let (at, count) = (at.add(column), V::WIDTH.min(columns - column));
            let weight = V::load_some(norm.weight.as_ptr().add(column), count);
            let bias = V::load_some(norm.bias.as_ptr().add(column), count);
            ((V::load_some(at, count) * factor).mul_add(weight, bias)).store_some(at, count);
        }
    }
}
