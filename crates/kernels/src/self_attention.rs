//! The attention part of a transformer's layer: two products with attention between them.

use std::ops::Range;

use crate::{
    Activation, Attention, Epilogue, PackedMatrix, Precision, Rows, RowsMut, Scratch, attention,
    attention::{check, sequences},
    matrix::check_result,
};
#[cfg(target_arch = "x86_64")]
use crate::{amx, finish::Target};

/// Self-attention of each of several sequences: their rows are multiplied to queries, keys and values, and what heads gather of them is
/// multiplied once more.
#[derive(Clone, Copy, Debug)]
pub struct SelfAttention<'a> {
    /// Queries of all heads side by side, then keys, then values.
    pub query_key_value: &'a PackedMatrix,
    /// Multiplies what heads gathered, side by side.
    pub attended: &'a PackedMatrix,
    /// As [`Attention::offsets`]; sequences are all rows.
    pub offsets: &'a [usize],
    /// Columns of one head.
    pub head_width: usize,
    /// As [`Attention::scale`].
    pub scale: f32,
    /// As [`Attention::bias`].
    pub bias: Option<Rows<'a>>,
    /// Of attention.
    pub precision: Precision,
}

impl SelfAttention<'_> {
    /// Whether queries, keys and values need never be written in `f32`: where both matrices are in tiles of bf16, heads as wide as whole
    /// tiles, and so few rows that they stay in a core's second-level cache while head after head reads them, or of one sequence.
    #[must_use]
    pub fn is_fused(&self, rows: usize) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self.tiles().is_some() && (rows <= self.most_rows() || self.offsets.len() <= 2);
        // Other processors have no tiles.
        #[cfg(not(target_arch = "x86_64"))]
        let _ = rows;
        #[cfg(not(target_arch = "x86_64"))]
        return false;
    }

    /// Writes `attended(attention of the rows of x) + residual` to `y`: what [`PackedMatrix::multiply`], [`attention()`] and again the first
    /// give, to within the precision.
    ///
    /// # Panics
    /// When shapes do not fit each other, and as [`attention()`].
    pub fn multiply(&self, x: Rows<'_>, residual: Option<Rows<'_>>, y: RowsMut<'_>, scratch: &mut Scratch) {
        let (rows, inner, outputs) = (x.rows(), self.attended.inputs(), self.query_key_value.outputs());
        self.check(x);
        let last = Epilogue { activation: Activation::None, residual };
        check_result(rows, self.attended.outputs(), last, &y);
        #[cfg(target_arch = "x86_64")]
        if self.is_fused(rows)
            && let Some((parts, query_key_value, attended)) = self.tiles()
        {
            if rows > 0 && y.columns() > 0 {
                let target = Target { epilogue: last, result: y };
                amx::whole(parts, &self.heads(query_key_value, x), attended, target, scratch);
            }
            return;
        }
        let mut between = std::mem::take(&mut scratch.between);
        between.reserve(rows * (outputs + inner));
        let (all, context) = between.as_mut_slice().split_at_mut(rows * outputs);
        let plain = Epilogue { activation: Activation::None, residual: None };
        self.query_key_value.multiply(x, 0..outputs, plain, RowsMut::new(all, rows, outputs, outputs), scratch);
        let all = Rows::new(all, rows, outputs, outputs);
        let [query, key, value] = [0, 1, 2].map(|part| all.columns_in(part * inner..(part + 1) * inner));
        let Self { offsets, head_width, scale, bias, .. } = *self;
        let input = Attention { query, key, value, offsets, head_width, scale, bias };
        attention(self.attended.cpu(), self.precision, &input, RowsMut::new(context, rows, inner, inner), scratch);
        let context = Rows::new(context, rows, inner, inner);
        self.attended.multiply(context, 0..self.attended.outputs(), last, y, scratch);
        scratch.between = between;
    }

    /// Writes what some heads gather of the rows of `x` to `y`, whose columns they are: a part of the work for one of several threads, where
    /// it [is fused](Self::is_fused).
    ///
    /// # Panics
    /// When nothing can be fused of these matrices and heads, when shapes do not fit each other, and as [`attention()`].
    pub fn gather(&self, heads: Range<usize>, x: Rows<'_>, y: RowsMut<'_>, scratch: &mut Scratch) {
        self.check(x);
        let all = self.attended.inputs() / self.head_width;
        assert!(heads.start <= heads.end && heads.end <= all, "heads {heads:?} of {all}");
        let (rows, columns) = (x.rows(), heads.len() * self.head_width);
        check_result(rows, columns, Epilogue { activation: Activation::None, residual: None }, &y);
        #[cfg(target_arch = "x86_64")]
        if let Some((parts, query_key_value, _)) = self.tiles() {
            if rows > 0 && columns > 0 {
                amx::gather(parts, &self.heads(query_key_value, x), heads, y, scratch);
            }
            return;
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = scratch;
        panic!("queries, keys and values of these matrices are computed by themselves");
    }

    fn check(&self, x: Rows<'_>) {
        let (rows, inner, outputs) = (x.rows(), self.attended.inputs(), self.query_key_value.outputs());
        assert!(outputs == 3 * inner, "{outputs} queries, keys and values for a matrix of {inner} inputs");
        self.query_key_value.check(x);
        check(self.offsets, rows, inner, self.head_width, self.bias);
        let all: usize = sequences(self.offsets).map(|rows| rows.len()).sum();
        assert!(all == rows, "sequences of {all} rows in {rows}");
    }
}

#[cfg(target_arch = "x86_64")]
impl SelfAttention<'_> {
    /// Both matrices, if both are in tiles of as many parts as attention has, and heads are as wide as whole tiles.
    fn tiles(&self) -> Option<(amx::Parts, amx::Packed<'_>, amx::Packed<'_>)> {
        let ((parts, first), (other, second)) = (self.query_key_value.tiles()?, self.attended.tiles()?);
        let fits = parts == other && parts == self.precision.into();
        let wide = self.head_width > 0 && self.head_width.is_multiple_of(amx::PANEL) && second.inputs > 0;
        (fits && wide).then_some((parts, first, second))
    }

    /// Rows that stay in the second-level cache beside what else is there.
    fn most_rows(&self) -> usize {
        amx::LEFT_BYTES / size_of::<f32>() / self.query_key_value.inputs().max(1)
    }

    fn heads<'a>(&'a self, query_key_value: amx::Packed<'a>, x: Rows<'a>) -> amx::Heads<'a> {
        amx::Heads {
            query_key_value,
            columns: self.attended.inputs(),
            width: self.head_width,
            offsets: self.offsets,
            scale: self.scale,
            bias: self.bias,
            x,
        }
    }
}
