//! What happens to a block of sums on its way to the result: bias, activation, residual, while it is in the cache.

use std::ptr;

use crate::{
    Rows, RowsMut,
    lanes::{Lanes, gelu_erf, gelu_tanh, rough_gelu_erf, silu},
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

/// What an activation does to each register.
pub(crate) trait Function {
    fn of<V: Lanes>(x: V) -> V;
}

macro_rules! functions {
    ($($name:ident: |$x:ident| $value:expr;)*) => {
        $(
            pub(crate) struct $name;

            impl Function for $name {
                #[inline(always)]
                fn of<V: Lanes>($x: V) -> V {
                    $value
                }
            }
        )*
    };
}

functions! {
    Same: |x| x;
    GeluErf: |x| gelu_erf(x);
    RoughGeluErf: |x| rough_gelu_erf(x);
    GeluTanh: |x| gelu_tanh(x);
    // In this order, so that NaN goes through.
    Relu: |x| x.filled(0.0).max(x);
    Silu: |x| silu(x);
}

/// Has work done with the function that an activation is, named as a type: one copy of the work for each, so that nothing is asked for each
/// number. Where what it gives is rounded to bf16, `$rough` may be true.
macro_rules! with_function {
    ($activation:expr, $rough:expr, $function:ident => $work:expr) => {
        with_function!(
            @ $activation, $function => $work;
            $crate::Activation::None => Same, $crate::Activation::GeluErf if $rough => RoughGeluErf, $crate::Activation::GeluErf => GeluErf,
            $crate::Activation::GeluTanh => GeluTanh, $crate::Activation::Relu => Relu, $crate::Activation::Silu => Silu
        )
    };
    (@ $activation:expr, $function:ident => $work:expr; $($pattern:pat $(if $condition:expr)? => $name:ident),*) => {
        match $activation {
            $($pattern $(if $condition)? => {
                type $function = $crate::finish::$name;
                $work
            })*
        }
    };
}

pub(crate) use with_function;

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
        let Epilogue { activation, residual } = self.epilogue;
        // SAFETY: the caller's promise.
        with_function!(activation, false, F => unsafe {
            match residual {
                Some(residual) => self.put::<V, F, true>(block, residual.as_ptr(), residual.stride()),
                None => self.put::<V, F, false>(block, ptr::null(), 0),
            }
        });
    }

    /// Writes the function of a block's sums and bias, `ADDED` to what lies at the same place of the result's rows at `others`.
    ///
    /// # Safety
    /// As for `take`.
    #[inline(always)]
    unsafe fn put<V: Lanes, F: Function, const ADDED: bool>(
        &mut self,
        block: Block,
        others: *const f32,
        others_stride: usize,
    ) {
        let (to, to_stride) = (self.result.as_mut_ptr(), self.result.stride());
        for first in (0..block.columns).step_by(V::WIDTH) {
            let (count, column) = (V::WIDTH.min(block.columns - first), block.column + first);
            // SAFETY: the caller's promise; `count` numbers from here on are within each row.
            unsafe {
                let bias = V::load(block.bias.add(first));
                for row in 0..block.rows {
                    let mut value = F::of(V::load(block.sums.add(row * block.stride + first)) + bias);
                    let row = block.row + row;
                    if ADDED {
                        value = value + V::load_some(others.add(row * others_stride + column), count);
                    }
                    value.store_some(to.add(row * to_stride + column), count);
                }
            }
        }
    }
}
