//! Text encoders on a card: the layers of [`encoder`](super::encoder) in candle's tensors. Texts of a batch are sorted by length,
//! and those of similar lengths padded and computed together, as many as the card's memory holds.

mod groups;
mod layer;
mod padded;
#[cfg(test)]
mod tests;
mod upload;

use std::{
    mem,
    path::Path,
    sync::{Mutex, PoisonError},
};

use candle_core::{DType, Device as Tensors, Result, Tensor};
use candle_nn::{Linear, Module};
use kernels::{Precision, Team};
use prediction::{Failure, FailureCode};

use self::{
    groups::{Budget, Footprint, in_groups},
    layer::{Layer, Norm, activate},
    padded::{Padded, Tables},
    upload::Upload,
};
use super::{
    embeddings::Embeddings,
    encoder::{Text, shape, tensors},
    family::Squash,
    files::{Pooling, Settings},
    head::Head,
    relative,
    task::Task,
};
use crate::{
    LoadError, Machine,
    device::{Device, Fault, free_bytes},
    map::Weights,
    plain::WEIGHTS,
    transformer::{Bias, Shape},
};

/// The share of the memory that is free once a model is loaded that its batches may take: what is counted of a batch is not all
/// that it needs, and other models want some.
const SHARE: u64 = 2;

/// What batches may take where memory is not asked about, in bytes.
const UNMEASURED: u64 = 1 << 30;

/// A loaded text encoder on a device, from tokens to embeddings or a classifier's outputs, without the queue and the JSON around it.
pub struct DeviceEncoder {
    device: Tensors,
    /// How weights and states are kept.
    dtype: DType,
    /// Its tables of words, positions and types are empty: they are on the device.
    embeddings: Embeddings<Linear>,
    tables: Tables,
    norm: Norm,
    shape: Shape,
    layers: Vec<Layer>,
    /// In f32, as for kernels.
    head: Head<Linear>,
    footprint: Footprint,
    /// The most tokens of a batch.
    max_tokens: usize,
    desk: Mutex<Desk>,
}

/// What batches have of each other.
struct Desk {
    budget: Budget,
    /// Makes answers of numbers on all threads, because the device waits meanwhile.
    team: Team,
}

/// How numbers are kept on a device for products of this exactness; `None` where there is no way.
pub(super) fn dtype(device: Device, precision: Precision) -> Option<DType> {
    match (device, precision) {
        (Device::CpuTensors | Device::Cuda(_), Precision::F32) => Some(DType::F32),
        (Device::Cuda(_), Precision::Bf16) => Some(DType::BF16),
        (Device::CpuTensors, Precision::Bf16) | (_, Precision::Int8) | (Device::Cpu, _) => None,
    }
}

impl DeviceEncoder {
    /// Reads the encoder of a Hugging Face directory whose model embeds text, for the machine's device.
    ///
    /// # Errors
    /// When the device does not compute so exactly, a file cannot be read, the files do not fit each other, a tensor is missing or of
    /// another shape, and when the model was made for something else or the device has no room for it.
    pub fn open(dir: &Path, machine: Machine, precision: Precision) -> std::result::Result<Self, LoadError> {
        let settings = Settings::read(dir, Some(Task::FeatureExtraction.name()))?;
        let dtype = dtype(machine.device, precision).ok_or_else(|| {
            LoadError::new(dir, format!("there is no way by tensors to compute {precision:?} on {}", machine.device))
        })?;
        Self::load(&settings, &Weights::open(&dir.join(WEIGHTS))?, machine, dtype)
    }

    /// The embedding of each text, given by its tokens' ids, at least one.
    ///
    /// # Errors
    /// When the device fails, or its memory is too little for one text alone just now.
    ///
    /// # Panics
    /// When a text has no tokens, too many, or one that the vocabulary lacks.
    pub fn embed(&self, texts: &[&[u32]]) -> std::result::Result<Vec<Vec<f32>>, Failure> {
        let texts: Vec<_> = texts.iter().map(|ids| Text { ids, types: &[] }).collect();
        Ok(self.run(&texts, || false, |_, embedding| embedding)?.unwrap_or_default())
    }

    /// Reads the tensors that the configuration asks for, and measures the memory that is left.
    ///
    /// # Errors
    /// When a tensor is missing or of another shape, the device has no room for it, and when the system gives no threads.
    pub(super) fn load(
        settings: &Settings,
        weights: &Weights,
        machine: Machine,
        dtype: DType,
    ) -> std::result::Result<Self, LoadError> {
        let wrong = |reason: String| LoadError::new(weights.path(), reason);
        let does_not_work = |error| wrong(format!("{} does not work: {}", machine.device, Fault::from(error)));
        let config = &settings.config;
        let device = machine.device.open().map_err(does_not_work)?;
        let shape = shape(config);
        let upload = Upload { tensors: tensors(config, weights, machine.cpu, Precision::F32), device: &device, dtype };
        let mut embeddings = Embeddings::load(&upload.tensors, config, |name, outputs, inputs| {
            upload.dense(&[name.to_owned()], outputs, inputs)
        })?;
        let width = embeddings.width;
        let put = |table: &mut Vec<f32>| {
            let table = mem::take(table);
            let rows = table.len() / width;
            upload.put(table, (rows, width))
        };
        let layer = |index: usize| {
            let name = format!("{}.{index}", config.family.layers());
            Layer::load(&upload, &name, &config.family.layer(), &shape, &config.heads(index))
        };
        let head = Head::load(upload.tensors, settings, |tensors, name, outputs, inputs| {
            let exact = Upload { tensors: *tensors, device: &device, dtype: DType::F32 };
            exact.dense(&[name.to_owned()], outputs, inputs)
        })?;
        let bias = relative::load(&upload.tensors, config)?;
        let put_bias = |bias: &Bias| {
            let rows = bias.rows();
            let numbers: Vec<f32> = (0..rows.rows()).flat_map(|head| rows.row(head)).copied().collect();
            upload.put(numbers, (rows.rows(), rows.columns()))
        };
        let tables = Tables {
            words: put(&mut embeddings.words)?,
            positions: put(&mut embeddings.positions)?,
            types: put(&mut embeddings.types)?,
            bias: bias.map(|bias| put_bias(&bias)).transpose()?,
        };
        let layers = (0..config.num_hidden_layers).map(layer).collect::<std::result::Result<_, _>>()?;
        let norm = upload.put_norm(&embeddings.norm)?;

        device.synchronize().map_err(does_not_work)?;
        let budget = free_bytes(&device).map_err(does_not_work)?.map_or(UNMEASURED, |free| free / SHARE);
        let heads = (0..config.num_hidden_layers).map(|index| config.heads(index).len()).max().unwrap_or_default();
        // Scores, with what is added to them, and after softmax; and those that are added, of all heads.
        let scores = 3 * heads + if tables.bias.is_some() { config.num_attention_heads } else { 0 };
        let footprint = Footprint::new(&shape, scores, dtype.size_in_bytes());
        let max_tokens = footprint.tokens_in(budget, settings.max_tokens);
        tracing::info!(device = %machine.device, ?dtype, batch_bytes = budget, batch_tokens = max_tokens, "batches fit the device's memory");
        let team = Team::new(machine.threads.get()).map_err(|error| wrong(format!("no threads to run it: {error}")))?;
        let desk = Mutex::new(Desk { budget: Budget::new(budget), team });
        Ok(Self { device, dtype, embeddings, tables, norm, shape, layers, head, footprint, max_tokens, desk })
    }

    /// The most tokens that a batch may have in texts as long as the model reads them; at least those of one.
    pub(super) fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// What `finish` makes of what the model's head gives of each text, on some thread; it is also told the text's place. `None`
    /// when `stop` said so between two layers.
    ///
    /// # Errors
    /// When the device fails, or its memory is too little for one text alone just now; trying again may help.
    ///
    /// # Panics
    /// When a text has too many tokens, or one that the vocabulary or the encoder's types lack.
    pub(super) fn run<T: Send>(
        &self,
        texts: &[Text<'_>],
        stop: impl Fn() -> bool,
        finish: impl Fn(usize, Vec<f32>) -> T + Sync,
    ) -> std::result::Result<Option<Vec<T>>, Failure> {
        let mut desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        let Desk { budget, team } = &mut *desk;
        let lengths: Vec<usize> = texts.iter().map(|text| text.ids.len()).collect();
        let numbers = in_groups(&lengths, self.footprint, budget, |group| {
            let chosen: Vec<_> = group.iter().map(|text| texts[*text]).collect();
            let numbers = self.forward(&chosen, &stop);
            if numbers.is_err() {
                // What it had taken is free once all that was begun has ended.
                self.device.synchronize()?;
            }
            Ok(numbers?)
        });
        let Some(numbers) = numbers.map_err(|fault| failed(&fault))? else { return Ok(None) };
        let mut parts: Vec<_> = numbers.into_iter().enumerate().map(|(text, numbers)| (text, numbers, None)).collect();
        let mut members = vec![(); team.members()];
        team.share(&mut members, &mut parts, |(), (text, numbers, part)| {
            *part = Some(finish(*text, mem::take(numbers)));
        });
        Ok(parts.into_iter().map(|(_, _, part)| part).collect())
    }

    /// Takes texts through all layers, and what the head gives of each.
    fn forward(&self, texts: &[Text<'_>], stop: &impl Fn() -> bool) -> Result<Option<Vec<Vec<f32>>>> {
        let texts = Padded::new(texts, &self.embeddings, &self.tables, self.dtype)?;
        let mut hidden = self.begin(&texts)?;
        for layer in &self.layers {
            if stop() {
                return Ok(None);
            }
            hidden = layer.pass(&self.shape, &hidden, &texts)?;
        }
        self.end(&hidden.to_dtype(DType::F32)?, &texts).map(Some)
    }

    /// Hidden states before the first layer.
    fn begin(&self, texts: &Padded) -> Result<Tensor> {
        let Tables { words, positions, types, .. } = &self.tables;
        let mut sum = (words.index_select(&texts.ids, 0)? + positions.index_select(&texts.places, 0)?)?;
        if let Some(kinds) = &texts.types {
            sum = (sum + types.index_select(kinds, 0)?)?;
        }
        let hidden = self.norm.of(&sum)?;
        match &self.embeddings.widen {
            Some(widen) => widen.forward(&hidden),
            None => Ok(hidden),
        }
    }

    /// The numbers of each text, from hidden states.
    fn end(&self, hidden: &Tensor, texts: &Padded) -> Result<Vec<Vec<f32>>> {
        let (count, length) = (texts.count, texts.length);
        let by_text = || hidden.reshape((count, length, self.shape.width));
        let first = || by_text()?.narrow(1, 0, 1)?.squeeze(1)?.contiguous();
        match &self.head {
            Head::Pool(Pooling::Cls) => first()?.to_vec2(),
            Head::Pool(Pooling::Mean) => texts.shares(&self.device)?.matmul(&by_text()?)?.squeeze(1)?.to_vec2(),
            Head::First { dense, squash, last } => {
                let dense = dense.forward(&first()?)?;
                let squashed = match squash {
                    Squash::Tanh => dense.tanh()?,
                    Squash::By(activation) => activate(*activation, &dense)?,
                };
                last.forward(&squashed)?.to_vec2()
            }
            Head::Each(last) => {
                let outputs = last.forward(hidden)?;
                let labels = outputs.dim(1)?;
                let mut outputs: Vec<Vec<f32>> = outputs.reshape((count, length * labels))?.to_vec2()?;
                outputs.iter_mut().zip(&texts.lengths).for_each(|(row, tokens)| row.truncate(tokens * labels));
                Ok(outputs)
            }
        }
    }
}

/// What is told of a fault: a fault of this server's, which another try or another worker may not have.
fn failed(fault: &Fault) -> Failure {
    tracing::error!(error = %fault, "a device failed");
    let message = match fault {
        Fault::OutOfMemory(_) => "the device has too little free memory for this input",
        Fault::Other(_) => "the device that runs the model failed",
    };
    Failure::new(FailureCode::Internal, message)
}
