//! A decoder of the llama family: from tokens to the logits of the next one.
//!
//! All that runs goes through the layers together, whichever sequence it is of: tokens of prompts and next tokens alike are rows.

use candle_core::{Device, Tensor, quantized::QTensor};
use kernels::{Activation, Cpu, Rows, RowsMut, activate};

use super::{
    anatomy::MATRICES,
    attend::{Share, dot},
    cache::Cache,
    config::Config,
    matrix::Matrix,
    rope::{Rope, Turns},
    workshop::Workshop,
};
use crate::{LoadError, Machine, gguf::Gguf};

/// The network, read-only.
pub(super) struct Decoder {
    pub(super) config: Config,
    cpu: Cpu,
    embeddings: QTensor,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    output: Matrix,
    rope: Rope,
}

/// A layer's weights.
pub(crate) struct Layer {
    attention_norm: Vec<f32>,
    query: Matrix,
    key: Matrix,
    value: Matrix,
    /// The norms of each head of queries and of keys.
    head_norms: Option<(Vec<f32>, Vec<f32>)>,
    output: Matrix,
    inner_norm: Vec<f32>,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

/// The next tokens of one sequence.
pub(super) struct Part<'a> {
    pub(super) tokens: &'a [u32],
    /// That of the tokens before; has these too afterwards.
    pub(super) cache: &'a mut Cache,
    /// Whether the logits after the last token are wanted.
    pub(super) wants_logits: bool,
}

impl Decoder {
    /// Reads all tensors; there may be no others.
    ///
    /// # Errors
    /// When a tensor is missing, of another shape, not finite (but for embeddings, of which only those that are asked for are looked at) or
    /// not known.
    pub(super) fn read(gguf: &Gguf, config: Config, machine: Machine) -> Result<Self, LoadError> {
        let (width, vocabulary, cpu) = (config.width, config.vocabulary, machine.cpu);
        let rope_factors = match gguf.has_tensor(ROPE_FACTORS) {
            true => Some(gguf.numbers(ROPE_FACTORS, &[config.head_width / 2])?),
            false => None,
        };
        if rope_factors.iter().flatten().any(|factor| *factor <= 0.0) {
            return Err(gguf.wrong(format!("tensor {ROPE_FACTORS:?} has a factor that is not above 0")));
        }
        let embeddings = gguf.blocks(EMBEDDINGS, &[vocabulary, width])?;
        let output = if gguf.has_tensor("output.weight") {
            Matrix::read(gguf, cpu, "output", (vocabulary, width), Some(false))?
        } else {
            Matrix::read(gguf, cpu, "token_embd", (vocabulary, width), Some(false))?
        };
        // Packing takes longer than reading.
        let layers = machine.each(config.layers, |layer| Layer::read(gguf, &config, cpu, layer))?;
        refuse_unknown(gguf, &config)?;
        let norm = gguf.numbers("output_norm.weight", &[width])?;
        let rope = Rope::new(&config, rope_factors.as_deref());
        Ok(Self { config, cpu, embeddings, layers, norm, output, rope })
    }

    /// Takes the next tokens of some sequences through all layers; the logits after the last token of each part that wants them,
    /// in order, and nothing for the others. Each is computed alike whatever the other parts are, and however its tokens were
    /// divided between calls, bit for bit.
    ///
    /// # Errors
    /// When candle cannot look up a token.
    pub(super) fn forward(
        &self,
        parts: &mut [Part<'_>],
        workshop: &mut Workshop,
    ) -> candle_core::Result<Vec<Vec<f32>>> {
        let width = self.config.width;
        let states = self.states(parts, workshop, |_, _| ())?;
        let (mut wanted, mut end) = (Vec::new(), 0);
        for part in parts.iter() {
            end += part.tokens.len();
            if part.wants_logits {
                wanted.extend_from_slice(&states[(end - 1) * width..end * width]);
            }
        }
        let logits = self.logits(&wanted, workshop);
        // Last of all: what fails has moved nobody.
        for part in parts {
            part.cache.advance(part.tokens.len());
        }
        Ok(logits.chunks_exact(self.config.vocabulary).map(<[f32]>::to_vec).collect())
    }

    /// What the last layer gives for the next tokens of some sequences, a row for each token; their caches do not count them yet. Of
    /// each layer, `see` is shown what its heads gathered, side by side.
    ///
    /// # Errors
    /// When candle cannot look up a token.
    pub(super) fn states(
        &self,
        parts: &mut [Part<'_>],
        workshop: &mut Workshop,
        mut see: impl FnMut(usize, Rows<'_>),
    ) -> candle_core::Result<Vec<f32>> {
        let (epsilon, gathered) = (self.config.epsilon, self.config.heads * self.config.head_width);
        let tokens: Vec<u32> = parts.iter().flat_map(|part| part.tokens).copied().collect();
        let tokens = Tensor::new(tokens, &Device::Cpu)?;
        let mut states = self.embeddings.embedding(&tokens)?.flatten_all()?.to_vec1::<f32>()?;
        let positions = parts.iter().flat_map(|part| (0..part.tokens.len()).map(|ahead| part.cache.len() + ahead));
        let turns: Vec<Turns> = positions.map(|position| self.rope.at(position)).collect();
        for (index, layer) in self.layers.iter().enumerate() {
            let attended = self.attend(index, layer, &states, &turns, parts, workshop);
            see(index, Rows::new(&attended, turns.len(), gathered, gathered));
            add(&mut states, &layer.output.multiply(&mut workshop.crew(), &attended));
            let normed = norm(&states, &layer.inner_norm, epsilon);
            let mut gate = layer.gate.multiply(&mut workshop.crew(), &normed);
            let columns = gate.len();
            activate(self.cpu, Activation::Silu, RowsMut::new(&mut gate, 1, columns, columns));
            let up = layer.up.multiply(&mut workshop.crew(), &normed);
            gate.iter_mut().zip(&up).for_each(|(gate, up)| *gate *= up);
            add(&mut states, &layer.down.multiply(&mut workshop.crew(), &gate));
        }
        Ok(states)
    }

    /// Logits of what the last layer gave, row by row.
    pub(super) fn logits(&self, states: &[f32], workshop: &mut Workshop) -> Vec<f32> {
        self.output.multiply(&mut workshop.crew(), &norm(states, &self.norm, self.config.epsilon))
    }

    /// The layers, first to last: whoever asks what one is worth runs the others.
    pub(super) fn layers_mut(&mut self) -> &mut Vec<Layer> {
        &mut self.layers
    }

    fn attend(
        &self,
        index: usize,
        layer: &Layer,
        states: &[f32],
        turns: &[Turns],
        parts: &mut [Part<'_>],
        workshop: &mut Workshop,
    ) -> Vec<f32> {
        let (width, heads) = (self.config.head_width, self.config.heads);
        let normed = norm(states, &layer.attention_norm, self.config.epsilon);
        let mut query = layer.query.multiply(&mut workshop.crew(), &normed);
        let mut key = layer.key.multiply(&mut workshop.crew(), &normed);
        let value = layer.value.multiply(&mut workshop.crew(), &normed);
        if let Some((query_norm, key_norm)) = &layer.head_norms {
            query = norm(&query, query_norm, self.config.epsilon);
            key = norm(&key, key_norm, self.config.epsilon);
        }
        let key_row = self.config.key_heads * width;
        for (row, turns) in turns.iter().enumerate() {
            let rows = [&mut query[row * heads * width..][..heads * width], &mut key[row * key_row..][..key_row]];
            for head in rows.into_iter().flat_map(|row| row.chunks_exact_mut(width)) {
                self.rope.turn(head, turns);
            }
        }
        let mut rows = key.chunks_exact(key_row).zip(value.chunks_exact(key_row));
        for part in parts.iter_mut() {
            for (ahead, (key, value)) in rows.by_ref().take(part.tokens.len()).enumerate() {
                for (head, (key, value)) in key.chunks_exact(width).zip(value.chunks_exact(width)).enumerate() {
                    part.cache.put(index, head, ahead, key, value);
                }
            }
        }
        self.answers(index, &query, parts, workshop)
    }

    /// What every head of every new token gathers, row by row.
    fn answers(&self, layer: usize, query: &[f32], parts: &[Part<'_>], workshop: &mut Workshop) -> Vec<f32> {
        let (row, group) = (self.config.heads * self.config.head_width, self.config.heads / self.config.key_heads);
        let columns = group * self.config.head_width;
        let mut shares = Vec::new();
        let mut begin = 0;
        for part in parts {
            let rows = &query[begin * row..][..part.tokens.len() * row];
            for head in 0..self.config.key_heads {
                let queries: Vec<f32> =
                    rows.chunks_exact(row).flat_map(|row| &row[head * columns..][..columns]).copied().collect();
                let (keys, values) = part.cache.get(layer, head, part.tokens.len());
                let answers = vec![0.0; queries.len()];
                let (before, head_width) = (part.cache.len(), self.config.head_width);
                shares.push(Share { queries, keys, values, before, heads: group, head_width, answers });
            }
            begin += part.tokens.len();
        }
        workshop.share(&mut shares, |scores, share| share.answer(self.cpu, scores));
        let mut gathered = Vec::with_capacity(query.len());
        for heads in shares.chunks_exact(self.config.key_heads) {
            for token in 0..heads[0].answers.len() / columns {
                heads.iter().for_each(|head| gathered.extend_from_slice(&head.answers[token * columns..][..columns]));
            }
        }
        gathered
    }
}

const EMBEDDINGS: &str = "token_embd.weight";
const ROPE_FACTORS: &str = "rope_freqs.weight";

impl Layer {
    fn read(gguf: &Gguf, config: &Config, cpu: Cpu, layer: usize) -> Result<Self, LoadError> {
        let (width, inner, family) = (config.width, config.inner, config.family);
        let (queries, keys) = (config.heads * config.head_width, config.key_heads * config.head_width);
        let name = |part: &str| format!("blk.{layer}.{part}");
        let matrix = |part: &str, sides, has_bias| Matrix::read(gguf, cpu, &name(part), sides, has_bias);
        let numbers = |part: &str, length: usize| gguf.numbers(&name(part), &[length]);
        let head_norms = match family.norms_heads {
            true => Some((
                numbers("attn_q_norm.weight", config.head_width)?,
                numbers("attn_k_norm.weight", config.head_width)?,
            )),
            false => None,
        };
        // Of the other matrices, llama's may have biases too.
        let other = family.has_biases.and(Some(false));
        Ok(Self {
            attention_norm: numbers("attn_norm.weight", width)?,
            query: matrix("attn_q", (queries, width), family.has_biases)?,
            key: matrix("attn_k", (keys, width), family.has_biases)?,
            value: matrix("attn_v", (keys, width), family.has_biases)?,
            head_norms,
            output: matrix("attn_output", (width, queries), other)?,
            inner_norm: numbers("ffn_norm.weight", width)?,
            gate: matrix("ffn_gate", (inner, width), other)?,
            up: matrix("ffn_up", (inner, width), other)?,
            down: matrix("ffn_down", (width, inner), other)?,
        })
    }
}

/// Refuses tensors that nothing here reads.
fn refuse_unknown(gguf: &Gguf, config: &Config) -> Result<(), LoadError> {
    let projections = MATRICES;
    let is_known = |name: &str| {
        let Some((layer, part)) = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
            return [EMBEDDINGS, ROPE_FACTORS, "output_norm.weight", "output.weight"].contains(&name);
        };
        let Some((matrix, kind)) = part.split_once('.') else { return false };
        let has_biases = match config.family.has_biases {
            None => true,
            Some(has) => has && projections[..3].contains(&matrix),
        };
        let has_norm = ["attn_norm", "ffn_norm"].contains(&matrix)
            || (config.family.norms_heads && ["attn_q_norm", "attn_k_norm"].contains(&matrix));
        layer.parse().is_ok_and(|layer: usize| layer < config.layers)
            && match kind {
                "weight" => has_norm || projections.contains(&matrix),
                "bias" => has_biases && projections.contains(&matrix),
                _ => false,
            }
    };
    match gguf.tensors().find(|name| !is_known(name)) {
        Some(name) => Err(gguf.wrong(format!("tensor {name:?} is not known here, and may change what is computed"))),
        None => Ok(()),
    }
}

/// Root mean square norm of each row: x / √(mean of squares + ε) · weight.
fn norm(x: &[f32], weight: &[f32], epsilon: f32) -> Vec<f32> {
    let width = weight.len();
    let mut y = x.to_vec();
    for row in y.chunks_exact_mut(width) {
        let scale = 1.0 / (dot(row, row) / width as f32 + epsilon).sqrt();
        row.iter_mut().zip(weight).for_each(|(number, weight)| *number = *number * scale * weight);
    }
    y
}

fn add(sum: &mut [f32], other: &[f32]) {
    sum.iter_mut().zip(other).for_each(|(sum, other)| *sum += other);
}
