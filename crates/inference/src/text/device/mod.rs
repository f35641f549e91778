//! Text encoders on a card: the layers of [`encoder`](super::encoder) in a card's steps. Texts lie one after the other, without padding;
//! as many as the card's memory holds are computed together.

mod groups;
mod layer;
#[cfg(test)]
mod tests;
mod upload;

use std::{
    mem,
    ops::Range,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use kernels::{Activation, Card, CardError, CardNorm, CardRows, Finish, Precision, Team, WIDEST_HEAD};
use prediction::{Failure, FailureCode};

use self::{
    groups::{Budget, Footprint, in_groups, most_tokens},
    layer::{BEGINS, Layer, POSITIONS, States, TYPES, WORDS},
    upload::{Dense, Upload},
};
use super::{
    config::Config,
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
    device::Device,
    map::Weights,
    plain::WEIGHTS,
    transformer::{Bias, Shape},
};

/// The share of the memory that is free once a model is loaded that its batches may take: cuBLAS wants some, and other models.
const SHARE: u64 = 2;

/// What batches may take where memory is not asked about, in bytes.
const UNMEASURED: u64 = 1 << 30;

/// Bytes that are kept from one batch to the next: enough for nearly all, and less than another model would miss.
const KEPT: u64 = 1 << 30;

/// Tokens of a batch that a card has computed before all its steps are begun one by one: so few are worth recording, of each multiple of
/// some rows.
const FEW: usize = 4096;
const ROWS: usize = 16;

/// Tokens of a batch from which on each layer is waited for, so that a batch that nobody wants is left between two: steps are only begun, and
/// all of them long before the first has ended. So many that the card does not wait for long for the next.
const MANY: usize = 1 << 16;

/// A loaded text encoder on a device, from tokens to embeddings or a classifier's outputs, without the queue and the JSON around it.
pub struct DeviceEncoder {
    /// How weights and states are kept.
    precision: Precision,
    /// Its tables of words, positions and types are empty: they are on the card.
    embeddings: Embeddings<Dense>,
    tables: Tables,
    norm: CardNorm,
    shape: Shape,
    layers: Vec<Layer>,
    /// In f32, as for kernels.
    head: Head<Dense>,
    footprint: Footprint,
    /// The most tokens of a batch.
    max_tokens: usize,
    desk: Mutex<Desk>,
    /// Whether the card does nothing more in this process.
    is_broken: AtomicBool,
    /// After all that lies on it.
    card: Card,
}

/// The tables of embeddings.
struct Tables {
    words: CardRows,
    positions: CardRows,
    types: CardRows,
}

/// What batches have of each other.
struct Desk {
    budget: Budget,
    states: States,
    /// Makes answers of numbers on all threads, because the card waits meanwhile.
    team: Team,
}

/// How exactly a device computes an encoder of which this exactness is asked; `None` where it has no way.
pub(super) fn way(device: Device, config: &Config, precision: Precision) -> Option<Precision> {
    let is_card = device != Device::Cpu && precision != Precision::Int8 && config.head_width() <= WIDEST_HEAD;
    is_card.then_some(precision)
}

impl DeviceEncoder {
    /// Reads the encoder of a Hugging Face directory whose model embeds text, for the machine's device.
    ///
    /// # Errors
    /// When the device does not compute such an encoder so exactly, a file cannot be read, the files do not fit each other, a tensor is missing
    /// or of another shape, and when the model was made for something else or the device has no room for it.
    pub fn open(dir: &Path, machine: Machine, precision: Precision) -> Result<Self, LoadError> {
        let settings = Settings::read(dir, Some(Task::FeatureExtraction.name()))?;
        let precision = way(machine.device, &settings.config, precision).ok_or_else(|| {
            LoadError::new(dir, format!("{} has no way to compute it in {precision:?}", machine.device))
        })?;
        Self::load(&settings, &Weights::open(&dir.join(WEIGHTS))?, machine, precision)
    }

    /// The embedding of each text, given by its tokens' ids, at least one.
    ///
    /// # Errors
    /// When the device fails, or its memory is too little for one text alone just now.
    ///
    /// # Panics
    /// When a text has no tokens, too many, or one that the vocabulary lacks.
    pub fn embed(&self, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>, Failure> {
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
        precision: Precision,
    ) -> Result<Self, LoadError> {
        let wrong = |reason: String| LoadError::new(weights.path(), reason);
        let does_not_work = |error: CardError| wrong(format!("{} does not work: {error}", machine.device));
        let config = &settings.config;
        let card = machine.device.open().map_err(does_not_work)?;
        let precision = card.precision(precision);
        let shape = shape(config);
        let upload = Upload { tensors: tensors(config, weights, machine.cpu, Precision::F32), card: &card, precision };
        let exact = Upload { precision: Precision::F32, ..upload };
        let mut embeddings = Embeddings::load(&upload.tensors, config, |name, outputs, inputs| {
            upload.dense(&[name.to_owned()], outputs, inputs)
        })?;
        let width = embeddings.width;
        let put = |table: &mut Vec<f32>| upload.put(&mem::take(table), width);
        let tables = Tables {
            words: put(&mut embeddings.words.take()?)?,
            positions: put(&mut embeddings.positions)?,
            types: put(&mut embeddings.types)?,
        };
        let norm = upload.put_norm(&embeddings.norm)?;

        let bias = relative::load(&upload.tensors, config)?;
        let put_bias = |bias: &Bias| {
            let rows = bias.rows();
            let numbers: Vec<f32> = (0..rows.rows()).flat_map(|head| rows.row(head)).copied().collect();
            exact.put(&numbers, rows.columns()).map(Arc::new)
        };
        let of_all = bias.as_ref().map(put_bias).transpose()?;
        let layer = |index: usize| {
            let (name, heads) = (format!("{}.{index}", config.family.layers()), config.heads(index));
            let by_distance = match &bias {
                Some(bias) if heads.len() < config.num_attention_heads => Some(put_bias(&bias.of(&heads))?),
                _ => of_all.clone(),
            };
            Layer::load(&upload, &name, &config.family.layer(), &shape, (heads.len(), by_distance))
        };
        let layers = (0..config.num_hidden_layers).map(layer).collect::<Result<_, _>>()?;
        let head = Head::load(upload.tensors, settings, |tensors, name, outputs, inputs| {
            Upload { tensors: *tensors, card: &card, ..exact }.dense(&[name.to_owned()], outputs, inputs)
        })?;

        card.synchronize().map_err(does_not_work)?;
        let footprint = Footprint::new(&shape, precision);
        let free = card.free_bytes().map_err(does_not_work)?.map_or(UNMEASURED, |free| free / SHARE);
        let budget = free.min(footprint.of(most_tokens(&shape)));
        let max_tokens = footprint.tokens_in(budget).max(settings.max_tokens);
        tracing::info!(device = %machine.device, ?precision, batch_bytes = budget, batch_tokens = max_tokens, "batches fit the device's memory");
        let team = Team::new(machine.threads.get()).map_err(|error| wrong(format!("no threads to run it: {error}")))?;
        let desk = Mutex::new(Desk { budget: Budget::new(budget), states: States::new(&card, precision), team });
        let is_broken = AtomicBool::new(false);
        Ok(Self {
            precision,
            embeddings,
            tables,
            norm,
            shape,
            layers,
            head,
            footprint,
            max_tokens,
            desk,
            is_broken,
            card,
        })
    }

    /// The most tokens that a batch may have; at least those of one text.
    pub(super) fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Whether the device has failed so that this process cannot compute on it any more.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
    }

    /// What `finish` makes of what the model's head gives of each text, on some thread; it is also told the text's place. `None`
    /// when `stop` said so between two layers.
    ///
    /// # Errors
    /// When the device fails, or its memory is too little for one text alone just now; trying again may help.
    ///
    /// # Panics
    /// When a text has no tokens, too many, or one that the vocabulary or the encoder's types lack.
    pub(super) fn run<T: Send>(
        &self,
        texts: &[Text<'_>],
        stop: impl Fn() -> bool,
        finish: impl Fn(usize, Vec<f32>) -> T + Sync,
    ) -> Result<Option<Vec<T>>, Failure> {
        let mut desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        let Desk { budget, states, team } = &mut *desk;
        let lengths: Vec<usize> = texts.iter().map(|text| text.ids.len()).collect();
        let mut most = 0;
        let numbers = in_groups(&lengths, self.footprint, budget, |group: Range<usize>| {
            most = most.max(lengths[group.clone()].iter().sum());
            let numbers = self.forward(&texts[group], states, &stop);
            if numbers.is_err() {
                self.give_back(states)?;
            }
            numbers
        });
        if self.footprint.of(most) > KEPT {
            self.give_back(states).map_err(|error| failed(&error))?;
        }
        let Some(numbers) = numbers.map_err(|error| failed(&error))? else { return Ok(None) };
        let mut parts: Vec<_> = numbers.into_iter().enumerate().map(|(text, numbers)| (text, numbers, None)).collect();
        let mut members = vec![(); team.members()];
        team.share(&mut members, &mut parts, |(), (text, numbers, part)| {
            *part = Some(finish(*text, mem::take(numbers)));
        });
        Ok(parts.into_iter().map(|(_, _, part)| part).collect())
    }

    /// Gives back what batches had, which is free for others once all that was begun has ended. A card that then fails again, though nothing
    /// more was asked of it, stays so: CUDA makes a process whose work on it went astray begin anew.
    fn give_back(&self, states: &mut States) -> Result<(), CardError> {
        *states = States::new(&self.card, self.precision);
        let waited = self.card.synchronize();
        if waited.is_err()
            && let Err(error) = self.card.synchronize()
        {
            tracing::error!(%error, "the device does nothing more in this process");
            self.is_broken.store(true, Ordering::Relaxed);
        }
        waited
    }

    /// Takes texts through all layers, and what the head gives of each.
    fn forward(
        &self,
        texts: &[Text<'_>],
        states: &mut States,
        stop: &impl Fn() -> bool,
    ) -> Result<Option<Vec<Vec<f32>>>, CardError> {
        let has_types = self.write(texts, states)?;
        let tokens: usize = texts.iter().map(|text| text.ids.len()).sum();
        let mut steps = || {
            self.begin(has_types, states)?;
            for layer in &self.layers {
                if tokens >= MANY {
                    self.card.synchronize()?;
                }
                if stop() {
                    return Ok(false);
                }
                layer.pass(&self.card, &self.shape, states)?;
            }
            self.end(states)?;
            Ok(true)
        };
        let has_ended = if tokens <= FEW { self.card.repeat(steps)? } else { steps()? };
        if has_ended { self.read(texts, states).map(Some) } else { Ok(None) }
    }

    /// Writes which rows of tables tokens have, and where texts begin; whether any token is of another type than 0.
    fn write(&self, texts: &[Text<'_>], states: &mut States) -> Result<bool, CardError> {
        let mut ids: Vec<u32> = texts.iter().flat_map(|text| text.ids).copied().collect();
        let mut places: Vec<u32> = texts.iter().flat_map(|text| self.embeddings.places(text.ids)).collect();
        let mut begins = vec![0];
        begins.extend(texts.iter().scan(0, |end, text| {
            *end += text.ids.len() as u32;
            Some(*end)
        }));
        let has_types = texts.iter().any(|text| text.types.iter().any(|kind| *kind != 0));
        let mut types = Vec::new();
        for text in texts.iter().filter(|_| has_types) {
            types.extend_from_slice(text.types);
            types.resize(types.len() + text.ids.len() - text.types.len(), 0);
        }
        if ids.len() <= FEW {
            // Rows of no text, whatever they hold: so there are fewer numbers of rows to record.
            let rows = ids.len().next_multiple_of(ROWS);
            ids.resize(rows, 0);
            places.resize(rows, 0);
            types.resize(if has_types { rows } else { 0 }, 0);
        }
        self.card.write_indices(&[&ids, &places, &begins, &types], &mut states.indices)?;
        Ok(has_types)
    }

    /// Hidden states before the first layer.
    fn begin(&self, has_types: bool, states: &mut States) -> Result<(), CardError> {
        let States { indices, hidden, sum, .. } = states;
        let Tables { words, positions, types } = &self.tables;
        let chosen = [(words, indices.part(WORDS)), (positions, indices.part(POSITIONS)), (types, indices.part(TYPES))];
        let chosen = &chosen[..2 + usize::from(has_types)];
        let Some(widen) = &self.embeddings.widen else { return self.card.embed(chosen, &self.norm, hidden) };
        self.card.embed(chosen, &self.norm, sum)?;
        self.dense(sum, widen, Finish::By(Activation::None), hidden)
    }

    fn dense(&self, x: &CardRows, dense: &Dense, finish: Finish, y: &mut CardRows) -> Result<(), CardError> {
        self.card.multiply(x, &dense.weights, y)?;
        self.card.finish(y, &dense.bias, finish)
    }

    /// What the model's head makes of hidden states: a row for each text, or for each token.
    fn end(&self, states: &mut States) -> Result<(), CardError> {
        let States { indices, hidden, pooled, outputs, .. } = states;
        let (card, begins) = (&self.card, indices.part(BEGINS));
        let plain = Finish::By(Activation::None);
        match &self.head {
            Head::Pool(Pooling::Cls) => card.firsts(hidden, begins, outputs),
            Head::Pool(Pooling::Mean) => card.means(hidden, begins, outputs),
            Head::First { dense, squash, last } => {
                let finish = match squash {
                    Squash::Tanh => Finish::Tanh,
                    Squash::By(activation) => Finish::By(*activation),
                };
                card.firsts(hidden, begins, outputs)?;
                self.dense(outputs, dense, finish, pooled)?;
                self.dense(pooled, last, plain, outputs)
            }
            Head::Each(last) => {
                card.widen(hidden, pooled)?;
                self.dense(pooled, last, plain, outputs)
            }
        }
    }

    /// The numbers of each text.
    fn read(&self, texts: &[Text<'_>], states: &States) -> Result<Vec<Vec<f32>>, CardError> {
        let (numbers, columns) = (self.card.read(&states.outputs)?, states.outputs.columns());
        let mut rest = numbers.as_slice();
        let of_text = |text: &Text<'_>| {
            let rows = if matches!(self.head, Head::Each(_)) { text.ids.len() } else { 1 };
            let (own, others) = rest.split_at(rows * columns);
            rest = others;
            own.to_vec()
        };
        Ok(texts.iter().map(of_text).collect())
    }
}

/// What is told of a fault: a fault of this server's, which another try or another worker may not have.
fn failed(error: &CardError) -> Failure {
    tracing::error!(%error, "a device failed");
    let message = if error.is_out_of_memory {
        "the device has too little free memory for this input"
    } else {
        "the device that runs the model failed"
    };
    Failure::new(FailureCode::Internal, message)
}
