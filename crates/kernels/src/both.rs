//! Two products, one after the other, with what is between them near.

use crate::{Activation, Epilogue, PackedMatrix, Rows, RowsMut, Scratch};
#[cfg(target_arch = "x86_64")]
use crate::{amx, finish::Target, matrix::check_result};

/// Two linear layers, one after the other, with a function between them.
#[derive(Clone, Copy, Debug)]
pub struct Both<'a> {
    /// The first.
    pub up: &'a PackedMatrix,
    /// The function of each number between them.
    pub activation: Activation,
    /// The second; it has as many inputs as the first has outputs.
    pub down: &'a PackedMatrix,
}

impl Both<'_> {
    /// Writes all outputs of `down(activation(up(x))) + residual` to `y`: what [`PackedMatrix::multiply`] gives twice, but where both
    /// are in tiles of bf16, what is between them is not written in `f32`.
    ///
    /// # Panics
    /// When shapes do not fit each other.
    pub fn multiply(&self, x: Rows<'_>, residual: Option<Rows<'_>>, y: RowsMut<'_>, scratch: &mut Scratch) {
        let Self { up, activation, down } = *self;
        assert!(up.outputs() == down.inputs(), "{} outputs for a matrix of {} inputs", up.outputs(), down.inputs());
        let last = Epilogue { activation: Activation::None, residual };
        #[cfg(target_arch = "x86_64")]
        if let (Some((parts, first)), Some((other, second))) = (up.tiles(), down.tiles())
            && parts == other
            && up.outputs() > 0
        {
            up.check(x);
            check_result(x.rows(), down.outputs(), last, &y);
            if y.rows() > 0 && y.columns() > 0 {
                amx::multiply_both(parts, first, activation, second, x, Target { epilogue: last, result: y }, scratch);
            }
            return;
        }
        let mut between = std::mem::take(&mut scratch.between);
        between.reserve(x.rows() * up.outputs());
        let numbers = between.as_mut_slice();
        let first = Epilogue { activation, residual: None };
        up.multiply(x, 0..up.outputs(), first, RowsMut::new(numbers, x.rows(), up.outputs(), up.outputs()), scratch);
        down.multiply(Rows::new(numbers, x.rows(), up.outputs(), up.outputs()), 0..down.outputs(), last, y, scratch);
        scratch.between = between;
    }
}
