//! A layer of an encoder in candle's tensors: the same steps as on kernels, for texts that are padded to one length.

use candle_core::{Result, Tensor};
use candle_nn::{
    Linear, Module,
    ops::{layer_norm, softmax_last_dim},
};
use kernels::Activation;

use super::{padded::Padded, upload::Upload};
use crate::{
    LoadError,
    transformer::{LayerNames, Shape},
};

/// The parameters of a layer norm.
pub(super) struct Norm {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    pub(super) epsilon: f32,
}

impl Norm {
    /// The layer norm of each row.
    pub(super) fn of(&self, x: &Tensor) -> Result<Tensor> {
        layer_norm(x, &self.weight, &self.bias, self.epsilon)
    }
}

/// A layer's weights.
pub(super) struct Layer {
    /// Which may be fewer than the columns of hidden states have room for.
    heads: usize,
    /// Which of the encoder's heads those are, where the layer lacks some.
    chosen: Option<Tensor>,
    /// Queries, keys and values side by side.
    query_key_value: Linear,
    attended: Linear,
    attended_norm: Norm,
    up: Linear,
    down: Linear,
    norm: Norm,
}

impl Layer {
    /// Reads a layer of these of the encoder's heads, whose tensors' names begin with `name`.
    ///
    /// # Errors
    /// When a tensor is missing or of another shape, and when the device has no room for it.
    pub(super) fn load(
        upload: &Upload<'_>,
        name: &str,
        names: &LayerNames,
        shape: &Shape,
        heads: &[usize],
    ) -> std::result::Result<Self, LoadError> {
        let (width, between, inner) = (shape.width, shape.between, heads.len() * shape.head_width);
        let name = |part: &str| format!("{name}.{part}");
        let all = shape.width / shape.head_width;
        let chosen = || upload.indices(heads);
        Ok(Self {
            heads: heads.len(),
            chosen: (heads.len() < all).then(chosen).transpose()?,
            query_key_value: upload.dense(&names.query_key_value.map(name), inner, width)?,
            attended: upload.dense(&[name(names.attended)], width, inner)?,
            attended_norm: upload.norm(&name(names.attended_norm), width)?,
            up: upload.dense(&[name(names.up)], between, width)?,
            down: upload.dense(&[name(names.down)], width, between)?,
            norm: upload.norm(&name(names.norm), width)?,
        })
    }

    /// Takes hidden states (a row for each token, padding included) through the layer.
    pub(super) fn pass(&self, shape: &Shape, hidden: &Tensor, texts: &Padded) -> Result<Tensor> {
        let attended = self.attended.forward(&self.attend(shape, hidden, texts)?)?;
        let hidden = self.attended_norm.of(&(attended + hidden)?)?;
        let between = activate(shape.activation, &self.up.forward(&hidden)?)?;
        self.norm.of(&(self.down.forward(&between)? + hidden)?)
    }

    /// The attention of each text and head, side by side for each token.
    fn attend(&self, shape: &Shape, hidden: &Tensor, texts: &Padded) -> Result<Tensor> {
        let (heads, head) = (self.heads, shape.head_width);
        let all = self.query_key_value.forward(hidden)?.reshape((texts.count, texts.length, 3, heads, head))?;
        // One copy: afterwards each of the three is dense, as texts × heads × tokens × columns.
        let all = all.permute((2, 0, 3, 1, 4))?.contiguous()?;
        let (query, key, value) = ((all.get(0)? / (head as f64).sqrt())?, all.get(1)?, all.get(2)?);
        let bias = match (&texts.bias, &self.chosen) {
            (Some(bias), Some(chosen)) => Some(bias.index_select(chosen, 1)?),
            (bias, _) => bias.clone(),
        };
        let scores = plus(query.matmul(&key.t()?)?, bias.as_ref())?;
        let scores = plus(scores, texts.mask.as_ref())?;
        softmax_last_dim(&scores)?.matmul(&value)?.transpose(1, 2)?.reshape((texts.count * texts.length, heads * head))
    }
}

/// The sum, if there is something to add; it alone is kept.
fn plus(scores: Tensor, term: Option<&Tensor>) -> Result<Tensor> {
    match term {
        Some(term) => scores.broadcast_add(term),
        None => Ok(scores),
    }
}

/// The function of each number.
pub(super) fn activate(activation: Activation, x: &Tensor) -> Result<Tensor> {
    match activation {
        Activation::None => Ok(x.clone()),
        Activation::GeluErf => x.gelu_erf(),
        Activation::GeluTanh => x.gelu(),
        Activation::Relu => x.relu(),
        Activation::Silu => x.silu(),
    }
}
