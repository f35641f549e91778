//! A layer of an encoder in a card's steps: eight, of which four are products.

use std::{mem, sync::Arc};

use kernels::{Card, CardError, CardIndices, CardNorm, CardRows, Finish, Heads, Precision};

use super::upload::{Dense, Upload};
use crate::{
    LoadError,
    transformer::{LayerNames, Shape},
};

/// What texts are between two steps: a row for each token, one text after the other.
pub(super) struct States {
    /// In this order: each token's word, its position, where texts begin, and each token's type.
    pub(super) indices: CardIndices,
    pub(super) hidden: CardRows,
    /// Queries, keys and values; then what is between the dense parts.
    pub(super) wide: CardRows,
    /// What heads gather; then the next hidden states.
    pub(super) context: CardRows,
    pub(super) sum: CardRows,
    /// What heads of a model make of hidden states, in f32.
    pub(super) pooled: CardRows,
    pub(super) outputs: CardRows,
}

/// Places in [`States::indices`].
pub(super) const WORDS: usize = 0;
pub(super) const POSITIONS: usize = 1;
pub(super) const BEGINS: usize = 2;
pub(super) const TYPES: usize = 3;

impl States {
    pub(super) fn new(card: &Card, precision: Precision) -> Self {
        let [hidden, wide, context, sum] = [(); 4].map(|()| card.empty(precision));
        let [pooled, outputs] = [(); 2].map(|()| card.empty(Precision::F32));
        Self { indices: CardIndices::default(), hidden, wide, context, sum, pooled, outputs }
    }
}

/// A layer's weights.
pub(super) struct Layer {
    /// Which may be fewer than the columns of hidden states have room for.
    heads: usize,
    /// Added to the scores of those heads, in f32.
    by_distance: Option<Arc<CardRows>>,
    /// Queries, keys and values side by side.
    query_key_value: Dense,
    attended: Dense,
    attended_norm: CardNorm,
    up: Dense,
    down: Dense,
    norm: CardNorm,
}

impl Layer {
    /// Reads a layer of so many heads, whose tensors' names begin with `name`.
    ///
    /// # Errors
    /// When a tensor is missing or of another shape, and when the card has no room for it.
    pub(super) fn load(
        upload: &Upload<'_>,
        name: &str,
        names: &LayerNames,
        shape: &Shape,
        (heads, by_distance): (usize, Option<Arc<CardRows>>),
    ) -> Result<Self, LoadError> {
        let (width, between, inner) = (shape.width, shape.between, heads * shape.head_width);
        let name = |part: &str| format!("{name}.{part}");
        Ok(Self {
            heads,
            by_distance,
            query_key_value: upload.dense(&names.query_key_value.map(name), inner, width)?,
            attended: upload.dense(&[name(names.attended)], width, inner)?,
            attended_norm: upload.norm(&name(names.attended_norm), width)?,
            up: upload.dense(&[name(names.up)], between, width)?,
            down: upload.dense(&[name(names.down)], width, between)?,
            norm: upload.norm(&name(names.norm), width)?,
        })
    }

    /// Takes hidden states through the layer.
    ///
    /// # Errors
    /// When the card fails, or has too little memory.
    pub(super) fn pass(&self, card: &Card, shape: &Shape, states: &mut States) -> Result<(), CardError> {
        let States { indices, hidden, wide, context, sum, .. } = states;
        let heads = Heads { count: self.heads, by_distance: self.by_distance.as_deref() };
        card.multiply(hidden, &self.query_key_value.weights, wide)?;
        card.attention(wide, &self.query_key_value.bias, indices.part(BEGINS), heads, context)?;
        card.multiply(context, &self.attended.weights, sum)?;
        card.add_norm(sum, hidden, &self.attended.bias, &self.attended_norm, context)?;
        mem::swap(hidden, context);
        card.multiply(hidden, &self.up.weights, wide)?;
        card.finish(wide, &self.up.bias, Finish::By(shape.activation))?;
        card.multiply(wide, &self.down.weights, sum)?;
        card.add_norm(sum, hidden, &self.down.bias, &self.norm, context)?;
        mem::swap(hidden, context);
        Ok(())
    }
}
