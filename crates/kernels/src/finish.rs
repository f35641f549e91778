//! What happens to a block of sums on its way to the result: bias, activation, residual, while it is in the cache.

use crate::{
    Rows, RowsMut,
    lanes::{Lanes, gelu_erf, gelu_tanh, silu},
};

/// A function of each number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// The number itself.
    None,
    /// GELU by the normal distribution, as in BERT: x · Φ(x).
    GeluErf,
    /// GELU's approximation by tanh, as in GPT-2.
    GeluTanh,
    /// The number, or 0 where it is less.
    Relu,
    /// x · σ(x) with the logistic function σ, also called swish.
    Silu,
}

/// What a product ends with: `activation(x · Wᵀ + bias) + residual`.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'a> {
    /// The function of each number.
    pub activation: Activation,
    /// What is added after it, of the result's shape.
    pub residual: Option<Rows<'a>>,
}

impl Activation {
    #[inline(always)]
    pub(crate) fn of<V: Lanes>(self, x: V) -> V {
        match self {
            Self::None => x,
            Self::GeluErf => gelu_erf(x),
            Self::GeluTanh => gelu_tanh(x),
            // In this order, so that NaN goes through.
            Self::Relu => x.filled(0.0).max(x),
            Self::Silu => silu(x),
        }
    }
}

/// Sums of some rows and columns of a result.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    pub(crate) sums: *const f32,
    pub(crate) stride: usize,
    /// The first row in the result, and how many.
    pub(crate) row: usize,
    pub(crate) rows: usize,
    /// The first column in the result, and how many.
    pub(crate) column: usize,
    pub(crate) columns: usize,
    /// Of the first column.
    pub(crate) bias: *const f32,
}

/// Where blocks go.
pub(crate) struct Target<'a> {
    pub(crate) epilogue: Epilogue<'a>,
    pub(crate) result: RowsMut<'a>,
}

impl Target<'_> {
    /// Writes one block.
    ///
    /// # Safety
    /// The machine has the instructions of `V`. The block lies within the result, and the residual is as large as the result;
    /// sums and bias can be read in whole registers, beyond the columns.
    #[inline(always)]
    pub(crate) unsafe fn take<V: Lanes>(&mut self, block: Block) {
        let (to, to_stride) = (self.result.as_mut_ptr(), self.result.stride());
        for row in 0..block.rows {
            for column in (0..block.columns).step_by(V::WIDTH) {
                let count = V::WIDTH.min(block.columns - column);
                let at = |stride: usize| (block.row + row) * stride + block.column + column;
                // SAFETY: the caller's promise; `count` numbers from here on are within the row.
                unsafe {
                    let sums = V::load(block.sums.add(row * block.stride + column));
                    let mut value = self.epilogue.activation.of(sums + V::load(block.bias.add(column)));
                    if let Some(residual) = self.epilogue.residual {
                        value = value + V::load_some(residual.as_ptr().add(at(residual.stride())), count);
                    }
                    value.store_some(to.add(at(to_stride)), count);
                }
            }
        }
    }
}
