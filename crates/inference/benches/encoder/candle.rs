//! The same encoder on candle's own operations, as well as they can be used: queries, keys and values in one product, dense parts over all
//! tokens of all texts. For MiniLM's file alone, and for texts of one length, which need no padding and no mask.

use std::{collections::HashMap, path::Path};

use candle_core::{D, Device, Result, Tensor};
use candle_nn::{LayerNorm, Linear, Module, ops::softmax_last_dim};

const LAYERS: usize = 6;
const HEADS: usize = 12;
const EPSILON: f64 = 1e-12;

pub(crate) struct Encoder {
    words: Tensor,
    positions: Tensor,
    norm: LayerNorm,
    layers: Vec<Layer>,
}

struct Layer {
    query_key_value: Linear,
    attended: Linear,
    attended_norm: LayerNorm,
    up: Linear,
    down: Linear,
    norm: LayerNorm,
}

struct Tensors(HashMap<String, Tensor>);

impl Tensors {
    fn get(&self, name: &str) -> Tensor {
        self.0[name].clone()
    }

    fn norm(&self, name: &str) -> LayerNorm {
        LayerNorm::new(self.get(&format!("{name}.weight")), self.get(&format!("{name}.bias")), EPSILON)
    }

    /// Dense parts side by side.
    fn dense(&self, names: &[String]) -> Result<Linear> {
        let cat = |part: &str| {
            let parts: Vec<_> = names.iter().map(|name| self.get(&format!("{name}.{part}"))).collect();
            Tensor::cat(&parts, 0)
        };
        Ok(Linear::new(cat("weight")?, Some(cat("bias")?)))
    }

    fn layer(&self, index: usize) -> Result<Layer> {
        let name = |part: &str| format!("encoder.layer.{index}.{part}");
        Ok(Layer {
            query_key_value: self
                .dense(&["query", "key", "value"].map(|part| name(&format!("attention.self.{part}"))))?,
            attended: self.dense(&[name("attention.output.dense")])?,
            attended_norm: self.norm(&name("attention.output.LayerNorm")),
            up: self.dense(&[name("intermediate.dense")])?,
            down: self.dense(&[name("output.dense")])?,
            norm: self.norm(&name("output.LayerNorm")),
        })
    }
}

impl Encoder {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let tensors = Tensors(candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu)?);
        let types = tensors.get("embeddings.token_type_embeddings.weight").narrow(0, 0, 1)?;
        Ok(Self {
            words: tensors.get("embeddings.word_embeddings.weight"),
            positions: tensors.get("embeddings.position_embeddings.weight").broadcast_add(&types)?,
            norm: tensors.norm("embeddings.LayerNorm"),
            layers: (0..LAYERS).map(|index| tensors.layer(index)).collect::<Result<_>>()?,
        })
    }

    /// One embedding per text; all are of one length.
    pub(crate) fn embed(&self, texts: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        let shape = (texts.len(), texts[0].len());
        let ids = texts.concat();
        let (rows, width) = (ids.len(), self.words.dim(D::Minus1)?);
        let words = self.words.index_select(&Tensor::from_vec(ids, rows, &Device::Cpu)?, 0)?;
        let words = words.reshape((shape.0, shape.1, width))?;
        let sum = words.broadcast_add(&self.positions.narrow(0, 0, shape.1)?)?;
        let mut hidden = self.norm.forward(&sum.reshape((rows, width))?)?;
        for layer in &self.layers {
            hidden = layer.forward(&hidden, shape)?;
        }
        hidden.reshape((shape.0, shape.1, width))?.mean(1)?.to_vec2()
    }
}

impl Layer {
    fn forward(&self, hidden: &Tensor, shape: (usize, usize)) -> Result<Tensor> {
        let attended = self.attended.forward(&self.attention(hidden, shape)?)?;
        let hidden = self.attended_norm.forward(&(attended + hidden)?)?;
        let between = self.up.forward(&hidden)?.gelu_erf()?;
        self.norm.forward(&(self.down.forward(&between)? + hidden)?)
    }

    fn attention(&self, hidden: &Tensor, (texts, length): (usize, usize)) -> Result<Tensor> {
        let (rows, width) = hidden.dims2()?;
        let head = width / HEADS;
        let all = self.query_key_value.forward(hidden)?.reshape((texts, length, 3, HEADS, head))?;
        // One copy: afterwards each of the three is dense, as texts × heads × tokens × width.
        let all = all.permute((2, 0, 3, 1, 4))?.contiguous()?;
        let (query, key, value) = ((all.get(0)? / (head as f64).sqrt())?, all.get(1)?, all.get(2)?);
        softmax_last_dim(&query.matmul(&key.t()?)?)?.matmul(&value)?.transpose(1, 2)?.reshape((rows, width))
    }
}
