//! Who computes the steps of a transformer: one thread alone, or all threads, which share each of them.

use std::ops::Range;

use kernels::{
    Activation, Attention, Both, Cpu, Epilogue, LayerNorm, PackedMatrix, Precision, Rows, RowsMut, Scratch,
    SelfAttention, attention, layer_norm,
};

use super::{threads::Threads, view, view_mut};

/// Rows that one thread takes at a time: what kernels multiply in one block of tiles.
const BLOCK: usize = 32;

/// Each thread takes rows rather than outputs when it gets so many: with fewer, reading all weights for them takes longer
/// than preparing all rows for some of the weights.
const ROWS_EACH: usize = 64;

/// The same where weights are a quarter as many bytes, and each row that is prepared is put on grids.
const INT8_ROWS_EACH: usize = 32;

/// One thread, or all of them.
pub(crate) struct Crew<'a> {
    pub(crate) cpu: Cpu,
    pub(crate) precision: Precision,
    /// Share each step; without them the caller does all alone.
    pub(crate) threads: Option<&'a Threads>,
    /// One for each thread.
    pub(crate) scratch: &'a mut [Scratch],
    /// Whether somebody wants to see what heads gather, which is not written otherwise.
    pub(crate) keeps_context: bool,
}

/// Room for what is between the steps of self-attention.
pub(crate) struct Between<'a> {
    pub(crate) query_key_value: &'a mut Vec<f32>,
    pub(crate) context: &'a mut Vec<f32>,
}

impl<'a> Crew<'a> {
    /// One thread alone, for whoever wants to see what heads gather, in f32.
    pub(crate) fn seen(cpu: Cpu, scratch: &'a mut [Scratch]) -> Self {
        Self { cpu, precision: Precision::F32, threads: None, scratch, keeps_context: true }
    }

    fn rows_each(&self) -> usize {
        if self.precision == Precision::Int8 { INT8_ROWS_EACH } else { ROWS_EACH }
    }

    /// Writes `activation(x · Wᵀ + bias) + residual` to `y`.
    pub(crate) fn multiply(
        &mut self,
        matrix: &PackedMatrix,
        activation: Activation,
        x: Rows<'_>,
        residual: Option<Rows<'_>>,
        y: RowsMut<'_>,
    ) {
        let all = 0..matrix.outputs();
        let (members, rows_each) = (self.scratch.len(), self.rows_each());
        let Some(threads) = self.threads else {
            matrix.multiply(x, all, Epilogue { activation, residual }, y, &mut self.scratch[0]);
            return;
        };
        if x.rows() >= members * rows_each {
            self.share(by_rows(y, threads), |scratch, rows, y| {
                let residual = residual.map(|residual| residual.rows_in(rows.clone()));
                matrix.multiply(x.rows_in(rows), all.clone(), Epilogue { activation, residual }, y, scratch);
            });
        } else {
            self.share(by_columns(y, matrix.panel(), threads), |scratch, outputs, y| {
                let residual = residual.map(|residual| residual.columns_in(outputs.clone()));
                matrix.multiply(x, outputs, Epilogue { activation, residual }, y, scratch);
            });
        }
    }

    /// Writes `down(activation(up(x))) + residual` to `y`. Where threads share outputs, what is between is in `between` for all of them.
    pub(crate) fn multiply_both(
        &mut self,
        both: Both<'_>,
        x: Rows<'_>,
        residual: Rows<'_>,
        y: RowsMut<'_>,
        between: &mut Vec<f32>,
    ) {
        let (members, rows, rows_each) = (self.scratch.len(), x.rows(), self.rows_each());
        match self.threads {
            None => both.multiply(x, Some(residual), y, &mut self.scratch[0]),
            Some(threads) if rows >= members * rows_each => {
                self.share(by_rows(y, threads), |scratch, rows, y| {
                    let residual = residual.rows_in(rows.clone());
                    both.multiply(x.rows_in(rows), Some(residual), y, scratch);
                });
            }
            Some(_) => {
                let width = both.up.outputs();
                self.multiply(both.up, both.activation, x, None, view_mut(between, rows, width));
                self.multiply(both.down, Activation::None, view(between, rows, width), Some(residual), y);
            }
        }
    }

    /// Writes the self-attention of each text, and `residual` added, to `y`. What heads gather, and before it queries, keys and values, are
    /// written to the others where they are computed by themselves.
    pub(crate) fn attend(
        &mut self,
        layer: &SelfAttention<'_>,
        x: Rows<'_>,
        residual: Rows<'_>,
        y: RowsMut<'_>,
        Between { query_key_value, context }: Between<'_>,
    ) {
        let (rows, inner) = (x.rows(), layer.attended.inputs());
        if self.threads.is_none() && !self.keeps_context {
            layer.multiply(x, Some(residual), y, &mut self.scratch[0]);
            return;
        }
        let to = view_mut(context, rows, inner);
        if layer.is_fused(rows) {
            self.by_heads(to, layer.head_width, |scratch, heads, to| layer.gather(heads, x, to, scratch));
        } else {
            let all = view_mut(query_key_value, rows, 3 * inner);
            self.multiply(layer.query_key_value, Activation::None, x, None, all);
            let all = view(query_key_value, rows, 3 * inner);
            let SelfAttention { offsets, head_width, scale, bias, precision, .. } = *layer;
            let cpu = self.cpu;
            self.by_heads(to, head_width, |scratch, heads, to| {
                let begin = |part: usize| part * inner + heads.start * head_width;
                let part = |part: usize| all.columns_in(begin(part)..begin(part) + to.columns());
                let (query, key, value) = (part(0), part(1), part(2));
                let bias = bias.map(|bias| bias.rows_in(heads));
                let input = Attention { query, key, value, offsets, head_width, scale, bias };
                attention(cpu, precision, &input, to, scratch);
            });
        }
        self.multiply(layer.attended, Activation::None, view(context, rows, inner), Some(residual), y);
    }

    /// Has `work` write all columns of `y`, those of some heads at a time; it is told which.
    fn by_heads(
        &mut self,
        y: RowsMut<'_>,
        head_width: usize,
        work: impl Fn(&mut Scratch, Range<usize>, RowsMut<'_>) + Sync,
    ) {
        let Some(threads) = self.threads else {
            let heads = y.columns() / head_width;
            work(&mut self.scratch[0], 0..heads, y);
            return;
        };
        self.share(by_columns(y, head_width, threads), |scratch, columns, y| {
            work(scratch, columns.start / head_width..columns.end / head_width, y);
        });
    }

    /// Has `work` write each portion; it is told which rows or columns it is.
    fn share(
        &mut self,
        portions: Vec<Vec<Portion<'_>>>,
        work: impl Fn(&mut Scratch, Range<usize>, RowsMut<'_>) + Sync,
    ) {
        if let Some(threads) = self.threads {
            let units = |(range, _): &Portion<'_>| range.len();
            threads.share(self.scratch, portions, units, |scratch, (range, y)| {
                work(scratch, range.clone(), y.reborrow());
            });
        }
    }

    /// Has `work` write all rows of `y`, which are so many numbers each, some at a time; it is told the first of those it is given.
    /// Each member has an item of `own` to itself.
    pub(crate) fn write_rows<M: Send>(
        &mut self,
        own: &mut [M],
        y: &mut [f32],
        columns: usize,
        work: impl Fn(&mut Scratch, &mut M, usize, &mut [f32]) + Sync,
    ) {
        let mut parts: Vec<_> = y.chunks_mut(ROWS_EACH * columns).enumerate().collect();
        let mut members: Vec<_> = self.scratch.iter_mut().zip(own).collect();
        let work = |(scratch, own): &mut (&mut Scratch, &mut M), (index, rows): &mut (usize, &mut [f32])| {
            work(scratch, own, *index * ROWS_EACH, rows);
        };
        match self.threads {
            Some(threads) => threads.team.share(&mut members, &mut parts, work),
            None => parts.iter_mut().for_each(|part| work(&mut members[0], part)),
        }
    }

    /// Writes the layer norm of `x`.
    pub(crate) fn norm(&mut self, norm: LayerNorm<'_>, x: Rows<'_>, y: RowsMut<'_>) {
        let (cpu, members, rows_each) = (self.cpu, self.scratch.len(), self.rows_each());
        match self.threads {
            Some(threads) if x.rows() >= members * rows_each => {
                self.share(by_rows(y, threads), |_, rows, y| layer_norm(cpu, norm, x.rows_in(rows), None, y));
            }
            // So few take no longer than waking others.
            _ => layer_norm(cpu, norm, x, None, y),
        }
    }
}

/// Rows or columns of a result, and which they are.
type Portion<'a> = (Range<usize>, RowsMut<'a>);

/// Whole blocks of rows of a result for each thread.
fn by_rows<'a>(y: RowsMut<'a>, threads: &Threads) -> Vec<Vec<Portion<'a>>> {
    let rows = y.rows();
    cut(y, rows, BLOCK, threads, RowsMut::split_rows)
}

/// Columns of a result for each thread, so many or a multiple of them.
fn by_columns<'a>(y: RowsMut<'a>, multiple: usize, threads: &Threads) -> Vec<Vec<Portion<'a>>> {
    let columns = y.columns();
    cut(y, columns, multiple, threads, RowsMut::split_columns)
}

fn cut<'a>(
    y: RowsMut<'a>,
    length: usize,
    multiple: usize,
    threads: &Threads,
    split: impl Fn(RowsMut<'a>, usize) -> (RowsMut<'a>, RowsMut<'a>),
) -> Vec<Vec<Portion<'a>>> {
    let mut rest = Some(y);
    let cut = threads.cut(length.div_ceil(multiple)).into_iter().map(|units| {
        let range = (units.start * multiple).min(length)..(units.end * multiple).min(length);
        if range.is_empty() {
            return Vec::new();
        }
        let portion = rest.take().map(|all| {
            let (first, others) = split(all, range.len());
            rest = Some(others);
            (range, first)
        });
        portion.into_iter().collect()
    });
    cut.collect()
}
