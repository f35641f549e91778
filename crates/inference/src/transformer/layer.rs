//! One layer of a transformer: attention and two dense parts, each added to what went in.

use std::mem;

use kernels::{Activation, Both, PackedMatrix, SelfAttention};

use super::{
    bias::Bias,
    crew::{Between, Crew},
    hidden::Hidden,
    tensors::{Norm, Tensors},
    view, view_mut,
};
use crate::LoadError;

/// A layer's weights.
pub(crate) struct Layer {
    /// Queries, keys and values side by side: of all heads that the layer has, which may be fewer columns than hidden states are.
    query_key_value: PackedMatrix,
    /// Added to the scores of those heads.
    bias: Option<Bias>,
    attended: PackedMatrix,
    attended_norm: Norm,
    up: PackedMatrix,
    down: PackedMatrix,
    norm: Norm,
}

/// The names of a layer's tensors, less the layer's own, `.weight` and `.bias`.
pub(crate) struct LayerNames {
    pub(crate) query_key_value: [&'static str; 3],
    pub(crate) attended: &'static str,
    /// The layer norm of attention, after or before it.
    pub(crate) attended_norm: &'static str,
    pub(crate) up: &'static str,
    pub(crate) down: &'static str,
    /// The layer norm of the dense parts, after or before them.
    pub(crate) norm: &'static str,
}

/// Where layer norms stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// After each sum, as in BERT.
    NormLast,
    /// Before attention and before the dense parts, as in ViT.
    NormFirst,
}

/// What all layers of a transformer have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) order: Order,
    /// Columns of hidden states.
    pub(crate) width: usize,
    /// Columns between the two dense parts.
    pub(crate) between: usize,
    /// Columns of one head.
    pub(crate) head_width: usize,
    pub(crate) activation: Activation,
}

/// What is between two steps: rows of all that is computed together.
#[derive(Default)]
pub(crate) struct States {
    /// Where each sequence begins, and last where the last one ends.
    pub(crate) offsets: Vec<usize>,
    /// The memory of hidden states while there are none.
    memory: Vec<f32>,
    /// What a layer norm is of, or gave.
    pub(crate) sum: Vec<f32>,
    query_key_value: Vec<f32>,
    pub(crate) context: Vec<f32>,
    pub(crate) between: Vec<f32>,
}

impl States {
    /// Begins with sequences of so many rows: hidden states of any numbers, in so many columns.
    pub(crate) fn begin(&mut self, lengths: impl Iterator<Item = usize>, columns: usize) -> Hidden {
        self.offsets.clear();
        self.offsets.push(0);
        self.offsets.extend(lengths.scan(0, |end, length| {
            *end += length;
            Some(*end)
        }));
        Hidden::new(mem::take(&mut self.memory), self.rows(), columns)
    }

    /// Ends with them.
    pub(crate) fn end(&mut self, hidden: Hidden) {
        self.memory = hidden.into_memory();
    }

    /// How many rows they are in all.
    pub(crate) fn rows(&self) -> usize {
        self.offsets.last().copied().unwrap_or_default()
    }
}

impl Layer {
    /// Reads a layer of so many heads, whose tensors' names begin with `name`. `bias` is theirs.
    ///
    /// # Errors
    /// When a tensor is missing or of another shape.
    pub(crate) fn load(
        tensors: &Tensors<'_>,
        name: &str,
        names: &LayerNames,
        shape: &Shape,
        heads: usize,
        bias: Option<Bias>,
    ) -> Result<Self, LoadError> {
        let (width, between, inner) = (shape.width, shape.between, heads * shape.head_width);
        let name = |part: &str| format!("{name}.{part}");
        Ok(Self {
            query_key_value: tensors.dense(&names.query_key_value.map(name), inner, width)?,
            bias,
            attended: tensors.dense(&[name(names.attended)], width, inner)?,
            attended_norm: tensors.norm(&name(names.attended_norm), width)?,
            up: tensors.dense(&[name(names.up)], between, width)?,
            down: tensors.dense(&[name(names.down)], width, between)?,
            norm: tensors.norm(&name(names.norm), width)?,
        })
    }

    /// Columns of what its heads gather, side by side; it stands in the states' `context` when a crew that keeps it passed the layer.
    pub(crate) fn context_width(&self) -> usize {
        self.attended.inputs()
    }

    /// Takes hidden states through the layer.
    pub(crate) fn pass(&self, shape: &Shape, crew: &mut Crew<'_>, states: &mut States, hidden: &mut Hidden) {
        hidden.apply("transformer-layer", |hidden| self.change(shape, crew, states, hidden));
    }

    /// Takes hidden states through all layers, or up to the first before which `stop` says so; whether it never did.
    pub(crate) fn pass_all(
        layers: &[Self],
        shape: &Shape,
        crew: &mut Crew<'_>,
        states: &mut States,
        hidden: &mut Hidden,
        stop: &impl Fn() -> bool,
    ) -> bool {
        layers.iter().all(|layer| {
            let goes_on = !stop();
            if goes_on {
                layer.pass(shape, crew, states, hidden);
            }
            goes_on
        })
    }

    fn change(&self, shape: &Shape, crew: &mut Crew<'_>, states: &mut States, hidden: &mut Vec<f32>) {
        let (width, rows) = (shape.width, states.rows());
        let States { offsets, sum, query_key_value, context, between, .. } = states;
        let is_first = shape.order == Order::NormFirst;

        if is_first {
            crew.norm(self.attended_norm.parameters(), view(hidden, rows, width), view_mut(sum, rows, width));
        }
        let attention = SelfAttention {
            query_key_value: &self.query_key_value,
            attended: &self.attended,
            offsets,
            head_width: shape.head_width,
            scale: 1.0 / (shape.head_width as f32).sqrt(),
            bias: self.bias.as_ref().map(Bias::rows),
            precision: crew.precision,
        };
        // It may not write to what it reads.
        let (read, to) = if is_first { (&*sum, &mut *between) } else { (&*hidden, &mut *sum) };
        let (read, residual) = (view(read, rows, width), view(hidden, rows, width));
        let room = Between { query_key_value, context };
        crew.attend(&attention, read, residual, view_mut(to, rows, width), room);

        // What the dense parts are added to is in `hidden` then, what they read there too or in `sum`.
        if is_first {
            mem::swap(hidden, between);
            crew.norm(self.norm.parameters(), view(hidden, rows, width), view_mut(sum, rows, width));
        } else {
            crew.norm(self.attended_norm.parameters(), view(sum, rows, width), view_mut(hidden, rows, width));
        }
        // Nor may they.
        let (read, to) = if is_first { (&*sum, &mut *query_key_value) } else { (&*hidden, &mut *sum) };
        let both = Both { up: &self.up, activation: shape.activation, down: &self.down };
        let (read, residual) = (view(read, rows, width), view(hidden, rows, width));
        crew.multiply_both(both, read, residual, view_mut(to, rows, width), between);
        if is_first {
            mem::swap(hidden, query_key_value);
        } else {
            crew.norm(self.norm.parameters(), view(sum, rows, width), view_mut(hidden, rows, width));
        }
    }
}
