//! The encoder itself: embeddings, and layers of attention and two dense parts, on kernels.
//!
//! After Devlin et al., "BERT" (2018, arXiv 1810.04805), as transformers computes it and the families that follow it, layer norm
//! after each sum.
//! Hidden states are one matrix, a row for each token of each text, one text after the other: nothing is padded.

use std::{
    io, iter, mem,
    path::Path,
    sync::{Mutex, PoisonError},
};

use kernels::{Activation, Attention, Cpu, PackedMatrix, Precision, Rows, RowsMut, Scratch, Team};

use super::{
    config::Config,
    crew::Crew,
    deal::{Deal, deal},
    embeddings::Embeddings,
    files::{Settings, WEIGHTS},
    head::Head,
    task::Task,
    tensors::{Norm, Tensors},
    tokenize::Tokens,
};
use crate::{LoadError, Machine, map::Weights};

/// A loaded text encoder, from tokens to embeddings or a classifier's outputs, without the queue and the JSON around it. Its
/// weights are packed once for the machine's instructions; a batch is shared by all threads of the machine.
pub struct Encoder {
    cpu: Cpu,
    precision: Precision,
    /// Columns of hidden states.
    width: usize,
    embeddings: Embeddings,
    layers: Vec<Layer>,
    head_width: usize,
    activation: Activation,
    head: Head,
    room: Mutex<Room>,
}

/// The tokens of a text, or of a pair of texts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<'a> {
    pub(super) ids: &'a [u32],
    /// The type of each; empty where all are 0.
    pub(super) types: &'a [u32],
}

impl<'a> From<&'a Tokens> for Text<'a> {
    fn from(Tokens { ids, types }: &'a Tokens) -> Self {
        Self { ids, types }
    }
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
pub(super) struct States {
    /// Where each text begins, and last where the last one ends.
    pub(super) offsets: Vec<usize>,
    pub(super) hidden: Vec<f32>,
    /// What a layer norm is of.
    pub(super) sum: Vec<f32>,
    query_key_value: Vec<f32>,
    pub(super) context: Vec<f32>,
    pub(super) between: Vec<f32>,
}

impl Encoder {
    /// Reads the encoder of a Hugging Face directory whose model embeds text.
    ///
    /// # Errors
    /// When a file cannot be read, the files do not fit each other, a tensor is missing or of another shape, and when the model
    /// was made for something else.
    pub fn open(dir: &Path, machine: Machine, precision: Precision) -> Result<Self, LoadError> {
        let settings = Settings::read(dir, Some(Task::FeatureExtraction.name()))?;
        Self::load(&settings, &Weights::open(&dir.join(WEIGHTS))?, machine, precision)
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
        let config = &settings.config;
        let (cpu, width) = (machine.cpu, config.hidden_size);
        let prefix = config.family.prefix();
        let is_whole = weights.shape(&format!("{prefix}{}", Embeddings::WORDS)).is_some();
        let prefix = if is_whole { prefix } else { "" };
        let tensors = Tensors { weights, prefix, cpu, precision, epsilon: config.layer_norm_eps as f32 };
        let threads = machine.threads.get();
        let team = Team::new(threads)
            .map_err(|error: io::Error| LoadError::new(weights.path(), format!("no threads to run it: {error}")))?;
        Ok(Self {
            cpu,
            precision,
            width,
            embeddings: Embeddings::load(&tensors, config)?,
            layers: (0..config.num_hidden_layers)
                .map(|index| Layer::load(&tensors, index, config))
                .collect::<Result<_, _>>()?,
            head_width: width / config.num_attention_heads,
            activation: config.hidden_act.into(),
            head: Head::load(tensors, settings)?,
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
        let texts: Vec<_> = texts.iter().map(|ids| Text { ids, types: &[] }).collect();
        self.run(&texts, stop, |_, embedding| finish(embedding))
    }

    /// As [`embed`](Self::embed), for whatever the model's head gives of a text; `finish` is also told the text's place.
    ///
    /// # Panics
    /// As [`embed`](Self::embed), and when a token has a type that the encoder lacks.
    pub(super) fn run<T: Send>(
        &self,
        texts: &[Text<'_>],
        stop: impl Fn() -> bool + Sync,
        finish: impl Fn(usize, Vec<f32>) -> T + Sync,
    ) -> Option<Vec<T>> {
        // What a panic left there is written anew before it is read.
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        let Room { team, states, scratch } = &mut *room;
        let lengths: Vec<usize> = texts.iter().map(|text| text.ids.len()).collect();
        let mut results: Vec<Option<T>> = texts.iter().map(|_| None).collect();
        let mut put = |group: &[usize], found: Vec<T>| {
            group.iter().zip(found).for_each(|(text, result)| results[*text] = Some(result));
        };
        let finish = |group: &[usize], numbers: Vec<Vec<f32>>| -> Vec<T> {
            group.iter().zip(numbers).map(|(text, numbers)| finish(*text, numbers)).collect()
        };
        let chosen = |group: &[usize]| -> Vec<Text<'_>> { group.iter().map(|text| texts[*text]).collect() };
        let (cpu, precision) = (self.cpu, self.precision);
        match deal(&lengths, team.members()) {
            Deal::Apart(groups) => {
                let mut members: Vec<_> = states.iter_mut().zip(scratch).collect();
                let mut parts: Vec<_> = groups.into_iter().map(|group| (group, None)).collect();
                team.share(&mut members, &mut parts, |(states, scratch), (group, found)| {
                    let mut crew = Crew { cpu, precision, team: None, scratch: std::slice::from_mut(scratch) };
                    let numbers = self.forward(&chosen(group), &mut crew, states, &stop);
                    *found = numbers.map(|numbers| finish(group, numbers));
                });
                for (group, found) in parts {
                    put(&group, found?);
                }
            }
            Deal::Together(groups) => {
                let mut crew = Crew { cpu, precision, team: Some(team), scratch };
                for group in groups {
                    let numbers = self.forward(&chosen(&group), &mut crew, &mut states[0], &stop)?;
                    put(&group, finish(&group, numbers));
                }
            }
        }
        results.into_iter().collect()
    }

    /// Takes texts through all layers, and what the head gives of each.
    fn forward(
        &self,
        texts: &[Text<'_>],
        crew: &mut Crew<'_>,
        states: &mut States,
        stop: &impl Fn() -> bool,
    ) -> Option<Vec<Vec<f32>>> {
        states.offsets.clear();
        states.offsets.push(0);
        states.offsets.extend(texts.iter().scan(0, |end, text| {
            *end += text.ids.len();
            Some(*end)
        }));
        self.begin(texts, crew, states);
        for layer in &self.layers {
            if stop() {
                return None;
            }
            self.pass(layer, crew, states);
        }
        Some(self.head.of(self.width, crew, states))
    }

    /// Hidden states before the first layer.
    fn begin(&self, texts: &[Text<'_>], crew: &mut Crew<'_>, states: &mut States) {
        let States { offsets, hidden, sum, .. } = states;
        let rows = offsets.last().copied().unwrap_or_default();
        let narrow = self.embeddings.width;
        self.embeddings.of(self.cpu, texts, room_for(sum, rows * narrow), room_for(hidden, rows * narrow));
        if let Some(widen) = &self.embeddings.widen {
            let to = view_mut(sum, rows, self.width);
            crew.multiply(widen, Activation::None, view(hidden, rows, narrow), None, to);
            mem::swap(hidden, sum);
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
}

impl Layer {
    fn load(tensors: &Tensors<'_>, index: usize, config: &Config) -> Result<Self, LoadError> {
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let names = config.family.layer();
        let name = |part: &str| format!("{}.{index}.{part}", config.family.layers());
        Ok(Self {
            query_key_value: tensors.dense(&names.query_key_value.map(name), hidden, hidden)?,
            attended: tensors.dense(&[name(names.attended)], hidden, hidden)?,
            attended_norm: tensors.norm(&name(names.attended_norm), hidden)?,
            up: tensors.dense(&[name(names.up)], wide, hidden)?,
            down: tensors.dense(&[name(names.down)], hidden, wide)?,
            norm: tensors.norm(&name(names.norm), hidden)?,
        })
    }
}

/// So many of the numbers; there are as many as ever were wanted at once.
pub(super) fn room_for(numbers: &mut Vec<f32>, count: usize) -> &mut [f32] {
    if numbers.len() < count {
        numbers.resize(count, 0.0);
    }
    &mut numbers[..count]
}

pub(super) fn view(numbers: &[f32], rows: usize, columns: usize) -> Rows<'_> {
    Rows::new(numbers, rows, columns, columns)
}

pub(super) fn view_mut(numbers: &mut Vec<f32>, rows: usize, columns: usize) -> RowsMut<'_> {
    RowsMut::new(room_for(numbers, rows * columns), rows, columns, columns)
}
