//! Functions of rows in place: activations and softmax.

use crate::{
    Activation, Cpu, RowsMut,
    cpu::Work,
    finish::{Function, with_function},
    lanes::{Lanes, exp},
};

/// Replaces each number by its activation.
pub fn activate(cpu: Cpu, activation: Activation, x: RowsMut<'_>) {
    cpu.run(Activate { activation, x });
}

/// Replaces each row by its softmax: e^x over the sum of all e^x. A row with NaN or +∞, or of nothing but -∞, becomes NaN.
pub fn softmax(cpu: Cpu, x: RowsMut<'_>) {
    cpu.run(Softmax { x });
}

struct Activate<'a> {
    activation: Activation,
    x: RowsMut<'a>,
}

impl Work for Activate<'_> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(mut self) {
        // SAFETY: the caller promises the instructions.
        with_function!(self.activation, false, F => unsafe { self.apply::<V, F>() });
    }
}

impl Activate<'_> {
    #[inline(always)]
    unsafe fn apply<V: Lanes, F: Function>(&mut self) {
        let (columns, stride) = (self.x.columns(), self.x.stride());
        for row in 0..self.x.rows() {
            for column in (0..columns).step_by(V::WIDTH) {
                let count = V::WIDTH.min(columns - column);
                // SAFETY: the caller promises the instructions; `count` numbers from here on are within the row.
                unsafe {
                    let at = self.x.as_mut_ptr().add(row * stride + column);
                    F::of(V::load_some(at, count)).store_some(at, count);
                }
            }
        }
    }
}

struct Softmax<'a> {
    x: RowsMut<'a>,
}

impl Work for Softmax<'_> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(mut self) {
        let (columns, stride) = (self.x.columns(), self.x.stride());
        if columns == 0 {
            return;
        }
        for row in 0..self.x.rows() {
            // SAFETY: the caller promises the instructions; the row has `columns` numbers, more than none.
            unsafe {
                let at = self.x.as_mut_ptr().add(row * stride);
                let factor = V::splat(1.0 / exponentials::<V, false>(at, columns, 1.0, at));
                for column in (0..columns).step_by(V::WIDTH) {
                    let (at, count) = (at.add(column), V::WIDTH.min(columns - column));
                    (V::load_some(at, count) * factor).store_some(at, count);
                }
            }
        }
    }
}

/// Replaces each score by e^(score - m), where m is the largest score, so that nothing overflows; their sum. A score is
/// `scale · x`, and where it is `BIASED`, the number of `bias` at the same place more.
///
/// # Safety
/// The machine has the instructions of `V`; `length` numbers, at least one, can be read and written at `at`, and read at `bias`
/// where it counts.
#[inline(always)]
pub(crate) unsafe fn exponentials<V: Lanes, const BIASED: bool>(
    at: *mut f32,
    length: usize,
    scale: f32,
    bias: *const f32,
) -> f32 {
    let tail = length / V::WIDTH * V::WIDTH;
    let count = length - tail;
    // SAFETY: the caller's promise; whole registers before `tail`, `count` numbers from it on.
    unsafe {
        let (scale, mut largest) = (V::splat(scale), V::splat(f32::NEG_INFINITY));
        let whole = |column: usize| {
            let x = V::load(at.add(column));
            if BIASED { x.mul_add(scale, V::load(bias.add(column))) } else { x * scale }
        };
        // The lanes that do not exist repeat one that does.
        let rest = || {
            let some = |from: *const f32| V::load_first(from.add(tail), count, *from.add(tail));
            if BIASED { some(at).mul_add(scale, some(bias)) } else { some(at) * scale }
        };
        for column in (0..tail).step_by(V::WIDTH) {
            largest = whole(column).max(largest);
        }
        if count > 0 {
            largest = rest().max(largest);
        }
        let (largest, mut sum) = (V::splat(largest.largest()), V::splat(0.0));
        for column in (0..tail).step_by(V::WIDTH) {
            let power = exp(whole(column) - largest);
            power.store(at.add(column));
            sum = sum + power;
        }
        if count > 0 {
            let power = exp(rest() - largest);
            power.store_first(at.add(tail), count);
            // Only its numbers count: the memory is read back, the other lanes are 0.
            sum = sum + V::load_first(at.add(tail), count, 0.0);
        }
        sum.sum()
    }
}
