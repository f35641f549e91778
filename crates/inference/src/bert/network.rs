//! The encoder itself: embeddings, layers of attention and two dense parts, and pooling, on candle.
//!
//! After Devlin et al., "BERT" (2018, arXiv 1810.04805), as transformers' `BertModel` computes it, layer norm after each sum.
//! Hidden states are one matrix, a row for each token of each text, so that every dense part is one multiplication.

use candle_core::{D, Device, Result, Tensor};
use candle_nn::{LayerNorm, Linear, Module, ops::softmax_last_dim};

use super::{
    config::{Activation, Config},
    files::Pooling,
};
use crate::{LoadError, map::Weights};

/// The token that fills short texts of a batch up; any will do, since the mask hides it.
const FILLER: u32 = 0;

/// A loaded encoder.
pub(super) struct Network {
    /// Vocabulary × hidden.
    words: Tensor,
    /// Positions × hidden: the position's embedding and that of token type 0, which is the only one of single texts.
    positions: Tensor,
    norm: LayerNorm,
    layers: Vec<Layer>,
    heads: usize,
    activation: Activation,
}

struct Layer {
    /// Query, key and value in one; the query's part is divided by the root of a head's size.
    qkv: Linear,
    attended: Linear,
    attended_norm: LayerNorm,
    up: Linear,
    down: Linear,
    norm: LayerNorm,
}

/// A batch of texts, filled up to the length of the longest.
struct Batch {
    texts: usize,
    longest: usize,
    /// Texts × 1 × 1 × longest: 0 for tokens, -∞ for filler; absent when there is no filler.
    mask: Option<Tensor>,
}

/// The tensors of an encoder by their names in the file, which begin with `bert.` when it holds more than the encoder.
struct Tensors<'a> {
    weights: &'a Weights,
    prefix: &'static str,
    eps: f64,
}

impl Tensors<'_> {
    fn get(&self, name: &str, shape: &[usize]) -> std::result::Result<Tensor, LoadError> {
        self.weights.tensor(&format!("{}{name}", self.prefix), shape)
    }

    /// Weight (outputs × inputs) and bias of a dense part.
    fn dense(&self, name: &str, outputs: usize, inputs: usize) -> std::result::Result<(Tensor, Tensor), LoadError> {
        Ok((self.get(&format!("{name}.weight"), &[outputs, inputs])?, self.get(&format!("{name}.bias"), &[outputs])?))
    }

    /// A layer norm, whose tensors files converted from the first BERT call gamma and beta.
    fn norm(&self, name: &str, size: usize) -> std::result::Result<LayerNorm, LoadError> {
        let old = self.weights.shape(&format!("{}{name}.gamma", self.prefix)).is_some();
        let (weight, bias) = if old { ("gamma", "beta") } else { ("weight", "bias") };
        let part = |part: &str| self.get(&format!("{name}.{part}"), &[size]);
        Ok(LayerNorm::new(part(weight)?, part(bias)?, self.eps))
    }

    fn layer(&self, index: usize, config: &Config) -> std::result::Result<Layer, LoadError> {
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let name = |part: &str| format!("encoder.layer.{index}.{part}");
        let linear = |part: &str, outputs: usize, inputs: usize| {
            let (weight, bias) = self.dense(&name(part), outputs, inputs)?;
            Ok(Linear::new(weight, Some(bias)))
        };
        let query = self.dense(&name("attention.self.query"), hidden, hidden)?;
        let key = self.dense(&name("attention.self.key"), hidden, hidden)?;
        let value = self.dense(&name("attention.self.value"), hidden, hidden)?;
        let qkv = fuse(query, key, value, hidden / config.num_attention_heads)
            .map_err(|error| LoadError::new(self.weights.path(), format!("cannot be prepared: {error}")))?;
        Ok(Layer {
            qkv,
            attended: linear("attention.output.dense", hidden, hidden)?,
            attended_norm: self.norm(&name("attention.output.LayerNorm"), hidden)?,
            up: linear("intermediate.dense", wide, hidden)?,
            down: linear("output.dense", hidden, wide)?,
            norm: self.norm(&name("output.LayerNorm"), hidden)?,
        })
    }
}

fn fuse(query: (Tensor, Tensor), key: (Tensor, Tensor), value: (Tensor, Tensor), head: usize) -> Result<Linear> {
    let scale = 1.0 / (head as f64).sqrt();
    let weight = Tensor::cat(&[(query.0 * scale)?, key.0, value.0], 0)?;
    let bias = Tensor::cat(&[(query.1 * scale)?, key.1, value.1], 0)?;
    Ok(Linear::new(weight, Some(bias)))
}

impl Network {
    /// Reads the tensors that the configuration asks for.
    ///
    /// # Errors
    /// When one is missing or of another shape.
    pub(super) fn load(config: &Config, weights: &Weights) -> std::result::Result<Self, LoadError> {
        let words = "embeddings.word_embeddings.weight";
        let prefix = if weights.shape(&format!("bert.{words}")).is_some() { "bert." } else { "" };
        let tensors = Tensors { weights, prefix, eps: config.layer_norm_eps };
        let hidden = config.hidden_size;
        let positions =
            tensors.get("embeddings.position_embeddings.weight", &[config.max_position_embeddings, hidden])?;
        let types = tensors.get("embeddings.token_type_embeddings.weight", &[config.type_vocab_size, hidden])?;
        let positions = types
            .narrow(0, 0, 1)
            .and_then(|first| positions.broadcast_add(&first))
            .map_err(|error| LoadError::new(weights.path(), format!("cannot be prepared: {error}")))?;
        Ok(Self {
            words: tensors.get(words, &[config.vocab_size, hidden])?,
            positions,
            norm: tensors.norm("embeddings.LayerNorm", hidden)?,
            layers: (0..config.num_hidden_layers)
                .map(|index| tensors.layer(index, config))
                .collect::<std::result::Result<_, _>>()?,
            heads: config.num_attention_heads,
            activation: config.hidden_act,
        })
    }

    /// One embedding per text, not normalised; `None` when `stop` said so between two layers. Texts are ids of tokens, at
    /// least one and at most as many as there are positions each.
    pub(super) fn embed(
        &self,
        texts: &[&[u32]],
        pooling: Pooling,
        stop: impl Fn() -> bool,
    ) -> Result<Option<Vec<Vec<f32>>>> {
        let longest = texts.iter().map(|text| text.len()).max().unwrap_or_default();
        let mask = match texts.iter().all(|text| text.len() == longest) {
            true => None,
            false => Some(mask(texts, longest)?),
        };
        let batch = Batch { texts: texts.len(), longest, mask };
        let mut hidden = self.embeddings(texts, &batch)?;
        for layer in &self.layers {
            if stop() {
                return Ok(None);
            }
            hidden = layer.forward(&hidden, &batch, self.heads, self.activation)?;
        }
        pool(&hidden, texts, &batch, pooling)?.to_vec2().map(Some)
    }

    /// What each token is, where it stands, and layer norm.
    fn embeddings(&self, texts: &[&[u32]], batch: &Batch) -> Result<Tensor> {
        let filled =
            |text: &&[u32]| text.iter().copied().chain(std::iter::repeat(FILLER)).take(batch.longest).collect();
        let ids: Vec<u32> = texts.iter().flat_map(|text| -> Vec<u32> { filled(text) }).collect();
        let rows = ids.len();
        let words = self.words.index_select(&Tensor::from_vec(ids, rows, &Device::Cpu)?, 0)?;
        let positions = self.positions.narrow(0, 0, batch.longest)?;
        let width = words.dim(D::Minus1)?;
        let sum = words.reshape((batch.texts, batch.longest, width))?.broadcast_add(&positions)?;
        self.norm.forward(&sum.reshape((rows, width))?)
    }
}

impl Layer {
    fn forward(&self, hidden: &Tensor, batch: &Batch, heads: usize, activation: Activation) -> Result<Tensor> {
        let attended = self.attended.forward(&self.attention(hidden, batch, heads)?)?;
        let hidden = self.attended_norm.forward(&(attended + hidden)?)?;
        let wide = self.up.forward(&hidden)?;
        let wide = match activation {
            Activation::Gelu => wide.gelu_erf()?,
            Activation::GeluTanh => wide.gelu()?,
            Activation::Relu => wide.relu()?,
            Activation::Silu => wide.silu()?,
        };
        self.norm.forward(&(self.down.forward(&wide)? + hidden)?)
    }

    /// Softmax(query × key / √size) × value, for each head of each text.
    fn attention(&self, hidden: &Tensor, batch: &Batch, heads: usize) -> Result<Tensor> {
        let (rows, width) = hidden.dims2()?;
        let qkv = self.qkv.forward(hidden)?.reshape((batch.texts, batch.longest, 3, heads, width / heads))?;
        // One copy: afterwards each of the three is dense, as texts × heads × tokens × size.
        let qkv = qkv.permute((2, 0, 3, 1, 4))?.contiguous()?;
        let (query, key, value) = (qkv.get(0)?, qkv.get(1)?, qkv.get(2)?);
        let mut scores = query.matmul(&key.t()?)?;
        if let Some(mask) = &batch.mask {
            scores = scores.broadcast_add(mask)?;
        }
        softmax_last_dim(&scores)?.matmul(&value)?.transpose(1, 2)?.reshape((rows, width))
    }
}

fn mask(texts: &[&[u32]], longest: usize) -> Result<Tensor> {
    let mut mask = vec![0.0; texts.len() * longest];
    for (row, text) in mask.chunks_mut(longest).zip(texts) {
        row[text.len()..].fill(f32::NEG_INFINITY);
    }
    Tensor::from_vec(mask, (texts.len(), 1, 1, longest), &Device::Cpu)
}

fn pool(hidden: &Tensor, texts: &[&[u32]], batch: &Batch, pooling: Pooling) -> Result<Tensor> {
    let hidden = hidden.reshape((batch.texts, batch.longest, hidden.dim(D::Minus1)?))?;
    match pooling {
        Pooling::Cls => hidden.narrow(1, 0, 1)?.squeeze(1),
        Pooling::Mean => {
            let mut shares = vec![0.0; batch.texts * batch.longest];
            for (row, text) in shares.chunks_mut(batch.longest).zip(texts) {
                row[..text.len()].fill(1.0 / text.len() as f32);
            }
            let shares = Tensor::from_vec(shares, (batch.texts, 1, batch.longest), &Device::Cpu)?;
            shares.matmul(&hidden)?.squeeze(1)
        }
    }
}
