//! The encoder itself: embeddings, layers of attention and two dense parts, and pooling, on kernels.
//!
//! After Devlin et al., "BERT" (2018, arXiv 1810.04805), as transformers' `BertModel` computes it, layer norm after each sum.
//! Hidden states are one matrix, a row for each token of each text, one text after the other: nothing is padded.

use std::{
    io, iter,
    path::Path,
    sync::{Mutex, PoisonError},
};

use kernels::{Activation, Attention, Cpu, PackedMatrix, Precision, Rows, RowsMut, Scratch, Team, layer_norm};

use super::{
    config::{self, Config},
    crew::Crew,
    deal::{Deal, deal},
    files::{Pooling, Settings, WEIGHTS},
    tensors::{Norm, Tensors},
};
use crate::{LoadError, Machine, map::Weights};

/// A loaded text encoder, from tokens to embeddings, without the queue and the JSON around it. Its weights are packed once for the
/// machine's instructions; a batch is shared by all threads of the machine.
pub struct Encoder {
    cpu: Cpu,
    precision: Precision,
    /// Columns of hidden states.
    width: usize,
    /// Vocabulary × width.
    words: Vec<f32>,
    /// Positions × width: the position's embedding and that of token type 0, which is the only one of single texts.
    positions: Vec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
    head_width: usize,
    activation: Activation,
    pooling: Pooling,
    room: Mutex<Room>,
}

struct Layer {
    /// Queries, keys and values side by side.
    query_key_value: PackedMatrix,
    attended: PackedMatrix,
    attended_norm: Norm,
    up: PackedMatrix,
    down: PackedMatrix,
    norm: Norm,
}

/// Who computes, and where.
struct Room {
    team: Team,
    /// Of each member, for texts that it takes alone; the first is also for what all share.
    states: Vec<States>,
    /// Of each member.
    scratch: Vec<Scratch>,
}

/// What is between two steps: rows of all tokens that are computed together.
#[derive(Default)]
struct States {
    /// Where each text begins, and last where the last one ends.
    offsets: Vec<usize>,
    hidden: Vec<f32>,
    /// What a layer norm is of.
    sum: Vec<f32>,
    query_key_value: Vec<f32>,
    context: Vec<f32>,
    between: Vec<f32>,
}

impl Encoder {
    /// Reads the encoder of a Hugging Face directory.
    ///
    /// # Errors
    /// When a file cannot be read, the files do not fit each other, or a tensor is missing or of another shape.
    pub fn open(dir: &Path, machine: Machine, precision: Precision) -> Result<Self, LoadError> {
        Self::load(&Settings::read(dir)?, &Weights::open(&dir.join(WEIGHTS))?, machine, precision)
    }

    /// Reads the tensors that the configuration asks for.
    ///
    /// # Errors
    /// When one is missing or of another shape, and when the system gives no threads.
    pub(super) fn load(
        settings: &Settings,
        weights: &Weights,
        machine: Machine,
        precision: Precision,
    ) -> Result<Self, LoadError> {
        let Settings { config, pooling, .. } = settings;
        let (cpu, width) = (machine.cpu, config.hidden_size);
        let words = "embeddings.word_embeddings.weight";
        let prefix = if weights.shape(&format!("bert.{words}")).is_some() { "bert." } else { "" };
        let tensors = Tensors { weights, prefix, cpu, precision, epsilon: config.layer_norm_eps as f32 };
        let types = tensors.numbers("embeddings.token_type_embeddings.weight", &[config.type_vocab_size, width])?;
        let mut positions =
            tensors.numbers("embeddings.position_embeddings.weight", &[config.max_position_embeddings, width])?;
        for position in positions.chunks_exact_mut(width) {
            position.iter_mut().zip(&types).for_each(|(number, of_type)| *number += of_type);
        }
        let threads = machine.threads.get();
        let team = Team::new(threads)
            .map_err(|error: io::Error| LoadError::new(weights.path(), format!("no threads to run it: {error}")))?;
        Ok(Self {
            cpu,
            precision,
            width,
            words: tensors.numbers(words, &[config.vocab_size, width])?,
            positions,
            norm: tensors.norm("embeddings.LayerNorm", width)?,
            layers: (0..config.num_hidden_layers)
                .map(|index| Layer::load(&tensors, index, config))
                .collect::<Result<_, _>>()?,
            head_width: width / config.num_attention_heads,
            activation: match config.hidden_act {
                config::Activation::Gelu => Activation::GeluErf,
                config::Activation::GeluTanh => Activation::GeluTanh,
                config::Activation::Relu => Activation::Relu,
                config::Activation::Silu => Activation::Silu,
            },
            pooling: *pooling,
            room: Mutex::new(Room {
                team,
                states: iter::repeat_with(States::default).take(threads).collect(),
                scratch: vec![Scratch::default(); threads],
            }),
        })
    }

    /// What `finish` makes of the embedding of each text, which is not normalised, on the thread that computed it; `None` when
    /// `stop` said so between two layers. Texts are ids of tokens, at least one and at most as many as there are positions
    /// each.
    ///
    /// # Panics
    /// When a text has too many tokens, or one that the vocabulary lacks.
    pub fn embed<T: Send>(
        &self,
        texts: &[&[u32]],
        stop: impl Fn() -> bool + Sync,
        finish: impl Fn(Vec<f32>) -> T + Sync,
    ) -> Option<Vec<T>> {
        // What a panic left there is written anew before it is read.
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        let Room { team, states, scratch } = &mut *room;
        let lengths: Vec<usize> = texts.iter().map(|text| text.len()).collect();
        let mut results: Vec<Option<T>> = texts.iter().map(|_| None).collect();
        let mut put = |group: &[usize], found: Vec<T>| {
            group.iter().zip(found).for_each(|(text, result)| results[*text] = Some(result));
        };
        let finish = |embeddings: Vec<Vec<f32>>| -> Vec<T> { embeddings.into_iter().map(&finish).collect() };
        let chosen = |group: &[usize]| -> Vec<&[u32]> { group.iter().map(|text| texts[*text]).collect() };
        let (cpu, precision) = (self.cpu, self.precision);
        match deal(&lengths, team.members()) {
            Deal::Apart(groups) => {
                let mut members: Vec<_> = states.iter_mut().zip(scratch).collect();
                let mut parts: Vec<_> = groups.into_iter().map(|group| (group, None)).collect();
                team.share(&mut members, &mut parts, |(states, scratch), (group, found)| {
                    let mut crew = Crew { cpu, precision, team: None, scratch: std::slice::from_mut(scratch) };
                    *found = self.forward(&chosen(group), &mut crew, states, &stop).map(finish);
                });
                for (group, found) in parts {
                    put(&group, found?);
                }
            }
            Deal::Together(groups) => {
                let mut crew = Crew { cpu, precision, team: Some(team), scratch };
                for group in groups {
                    let found = self.forward(&chosen(&group), &mut crew, &mut states[0], &stop)?;
                    put(&group, finish(found));
                }
            }
        }
        results.into_iter().collect()
    }

    /// Takes texts through all layers.
    fn forward(
        &self,
        texts: &[&[u32]],
        crew: &mut Crew<'_>,
        states: &mut States,
        stop: &impl Fn() -> bool,
    ) -> Option<Vec<Vec<f32>>> {
        states.offsets.clear();
        states.offsets.push(0);
        states.offsets.extend(texts.iter().scan(0, |end, text| {
            *end += text.len();
            Some(*end)
        }));
        self.begin(texts, states);
        for layer in &self.layers {
            if stop() {
                return None;
            }
            self.pass(layer, crew, states);
        }
        Some(states.offsets.windows(2).map(|ends| self.pool(&states.hidden, ends[0]..ends[1])).collect())
    }

    /// What each token is, where it stands, and layer norm.
    fn begin(&self, texts: &[&[u32]], states: &mut States) {
        let width = self.width;
        let rows = states.offsets.last().copied().unwrap_or_default();
        let sum = room_for(&mut states.sum, rows * width);
        for (row, token) in sum.chunks_exact_mut(width).zip(texts.iter().copied().flatten()) {
            row.copy_from_slice(&self.words[*token as usize * width..][..width]);
        }
        let hidden = room_for(&mut states.hidden, rows * width);
        for ends in states.offsets.windows(2) {
            let (numbers, length) = (ends[0] * width..ends[1] * width, ends[1] - ends[0]);
            let positions = Rows::new(&self.positions[..length * width], length, width, width);
            let words = Rows::new(&sum[numbers.clone()], length, width, width);
            let to = RowsMut::new(&mut hidden[numbers], length, width, width);
            layer_norm(self.cpu, self.norm.parameters(), words, Some(positions), to);
        }
    }

    /// Takes hidden states through one layer.
    fn pass(&self, layer: &Layer, crew: &mut Crew<'_>, states: &mut States) {
        let States { offsets, hidden, sum, query_key_value, context, between } = states;
        let (width, wide) = (self.width, layer.up.outputs());
        let rows = offsets.last().copied().unwrap_or_default();
        let plain = Activation::None;
        crew.multiply(
            &layer.query_key_value,
            plain,
            view(hidden, rows, width),
            None,
            view_mut(query_key_value, rows, 3 * width),
        );
        let all = view(query_key_value, rows, 3 * width);
        let part = |part: usize| all.columns_in(part * width..(part + 1) * width);
        let (query, key, value) = (part(0), part(1), part(2));
        let (head_width, scale) = (self.head_width, 1.0 / (self.head_width as f32).sqrt());
        let attention = Attention { query, key, value, offsets, head_width, scale };
        crew.attend(&attention, view_mut(context, rows, width));
        let (context, residual) = (view(context, rows, width), Some(view(hidden, rows, width)));
        crew.multiply(&layer.attended, plain, context, residual, view_mut(sum, rows, width));
        crew.norm(layer.attended_norm.parameters(), view(sum, rows, width), view_mut(hidden, rows, width));

        crew.multiply(&layer.up, self.activation, view(hidden, rows, width), None, view_mut(between, rows, wide));
        let (between, residual) = (view(between, rows, wide), Some(view(hidden, rows, width)));
        crew.multiply(&layer.down, plain, between, residual, view_mut(sum, rows, width));
        crew.norm(layer.norm.parameters(), view(sum, rows, width), view_mut(hidden, rows, width));
    }

    /// The embedding of the text in these rows.
    fn pool(&self, hidden: &[f32], rows: std::ops::Range<usize>) -> Vec<f32> {
        let share = 1.0 / rows.len() as f32;
        let mut rows = hidden[rows.start * self.width..rows.end * self.width].chunks_exact(self.width);
        let mut embedding = rows.next().map(<[f32]>::to_vec).unwrap_or_default();
        if self.pooling == Pooling::Mean {
            for row in rows {
                embedding.iter_mut().zip(row).for_each(|(sum, number)| *sum += number);
            }
            embedding.iter_mut().for_each(|sum| *sum *= share);
        }
        embedding
    }
}

impl Layer {
    fn load(tensors: &Tensors<'_>, index: usize, config: &Config) -> Result<Self, LoadError> {
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let name = |part: &str| format!("encoder.layer.{index}.{part}");
        let self_attention = ["query", "key", "value"].map(|part| name(&format!("attention.self.{part}")));
        Ok(Self {
            query_key_value: tensors.dense(&self_attention, hidden, hidden)?,
            attended: tensors.dense(&[name("attention.output.dense")], hidden, hidden)?,
            attended_norm: tensors.norm(&name("attention.output.LayerNorm"), hidden)?,
            up: tensors.dense(&[name("intermediate.dense")], wide, hidden)?,
            down: tensors.dense(&[name("output.dense")], hidden, wide)?,
            norm: tensors.norm(&name("output.LayerNorm"), hidden)?,
        })
    }
}

/// So many of the numbers; there are as many as ever were wanted at once.
fn room_for(numbers: &mut Vec<f32>, count: usize) -> &mut [f32] {
    if numbers.len() < count {
        numbers.resize(count, 0.0);
    }
    &mut numbers[..count]
}

fn view(numbers: &[f32], rows: usize, columns: usize) -> Rows<'_> {
    Rows::new(numbers, rows, columns, columns)
}

fn view_mut(numbers: &mut Vec<f32>, rows: usize, columns: usize) -> RowsMut<'_> {
    RowsMut::new(room_for(numbers, rows * columns), rows, columns, columns)
}
