//! Text encoders of the BERT family, from plain Hugging Face directories: embeddings as sentence-transformers makes them,
//! classifiers of texts, of pairs and of tokens as transformers' pipelines run them.

mod basic;
mod classify;
mod config;
mod device;
mod embed;
mod embeddings;
mod encoder;
mod family;
mod files;
mod head;
mod importance;
mod relative;
mod runner;
mod tag;
mod task;
#[cfg(test)]
mod tests;
mod tokenize;
mod vocabulary;
mod word_piece;
mod words;
mod zero_shot;

use std::{panic::resume_unwind, path::Path, thread};

use kernels::Precision;
use prediction::{Failure, Limits};
use serde_json::{Value, json, value::RawValue};

use self::{
    encoder::{Text, prefix},
    files::Settings,
    runner::Runner,
    tokenize::{Tokenizer, Tokens},
};
use crate::{
    Abandon, LoadError, Machine,
    architecture::{Architecture, Described},
    card,
    contract::{Contract, failed, invalid},
    device::Device,
    engine,
    map::Weights,
    plain::CONFIG,
    transformer::Anatomy,
    turn::Turn,
};

pub(crate) use self::{
    classify::Classifier, embed::Embedder, family::model_types, files::is_setting, importance::Study, tag::Tagger,
    task::Task, zero_shot::ZeroShot,
};
pub use self::{
    device::DeviceEncoder,
    encoder::{Encoder, Sharer},
};

/// The longest text that is read, in characters (of JSON Schema, which are Unicode's code points); some tens of times what any
/// model of the family looks at.
const LONGEST_TEXT: usize = 100_000;

/// The most texts in a batch: so many that it is their tokens that count.
const MAX_BATCH: usize = 64;

/// What a text encoder is asked to do: how an input is read, and what becomes of the numbers that its texts give.
pub(crate) trait TextTask: Sized + Send + Sync + 'static {
    /// What an input asks besides its texts.
    type Asked: Send + Sync + 'static;
    /// What is made of one text's numbers at once, on the thread that computed them.
    type Part: Send;

    /// The task of this directory.
    ///
    /// # Errors
    /// Says what its configuration lacks.
    fn new(settings: &Settings) -> Result<Self, String>;

    /// What goes in and what comes out.
    fn contract(&self, settings: &Settings) -> Contract;

    /// Reads an input: its texts, at least one, and what else it asks.
    fn read(&self, tokenizer: &Tokenizer, input: &RawValue) -> Result<(Vec<Tokens>, Self::Asked), Failure>;

    /// Makes something of what the head gave of one text.
    fn part(&self, tokenizer: &Tokenizer, asked: &Self::Asked, numbers: Vec<f32>) -> Self::Part;

    /// The answer, of the parts of all texts in their order.
    fn whole(&self, asked: &Self::Asked, parts: Vec<Self::Part>) -> Result<Box<RawValue>, Failure>;
}

/// A loaded model.
pub(crate) struct TextModel<T> {
    task: T,
    tokenizer: Tokenizer,
    runner: Runner,
}

/// An input, read.
pub(crate) struct Item<A> {
    texts: Vec<Tokens>,
    asked: A,
}

/// What a directory's files say of its model, and what it does: what a manifest asks for, else what it was made for.
///
/// # Errors
/// When a file is missing or cannot be read, and when the model needs what this server does not do.
pub(crate) fn describe(dir: &Path, asked: Option<&str>) -> Result<(Described, Task), LoadError> {
    let settings = Settings::read(dir, asked)?;
    let Contract { description, input_schema, output_schema, example } = match settings.task {
        Task::FeatureExtraction => task_of::<Embedder>(dir, &settings)?.contract(&settings),
        Task::TextClassification => task_of::<Classifier>(dir, &settings)?.contract(&settings),
        Task::TokenClassification => task_of::<Tagger>(dir, &settings)?.contract(&settings),
        Task::ZeroShotClassification => task_of::<ZeroShot>(dir, &settings)?.contract(&settings),
    };
    let described = Described {
        name: card::name(dir)?,
        task: settings.task.name().into(),
        description,
        license: card::license(dir),
        source: None,
        input_schema,
        output_schema,
        limits: Limits { max_batch: MAX_BATCH, ..Limits::default() },
        files: settings.files,
        example,
    };
    Ok((described, settings.task))
}

/// The layers of a directory's encoder, as its files have them, for the task that it does.
///
/// # Errors
/// When a file is missing or cannot be read, or the weights are not what the configuration says.
pub(crate) fn anatomy(dir: &Path, task: &str, weights: &Weights) -> Result<Anatomy, LoadError> {
    let config = Settings::read(dir, Some(task))?.config;
    let layers = format!("{}{}", prefix(config.family, weights), config.family.layers());
    let heads = (config.num_attention_heads, config.head_width());
    Anatomy::new(weights, (layers, config.family.layer()), config.num_hidden_layers, heads, &config.pruned_heads)
}

fn task_of<T: TextTask>(dir: &Path, settings: &Settings) -> Result<T, LoadError> {
    T::new(settings).map_err(|reason| LoadError::new(&dir.join(CONFIG), reason))
}

impl<T: TextTask> TextModel<T> {
    /// Reads the tokenizer and the encoder for what [`describe`] found.
    ///
    /// # Errors
    /// When a file cannot be read, the files do not fit each other, or a tensor is missing or of another shape.
    pub(crate) fn load(
        dir: &Path,
        task: Task,
        weights: &Weights,
        machine: Machine,
        precision: Precision,
    ) -> Result<Self, LoadError> {
        let settings = Settings::read(dir, Some(task.name()))?;
        // Where nobody takes digests meanwhile, another thread has time for the tokenizer.
        let (tokenizer, runner) = if weights.is_trusted() {
            thread::scope(|scope| {
                let tokenizer = scope.spawn(|| Tokenizer::load(dir, &settings));
                let runner = Runner::load(&settings, weights, machine, precision);
                Ok((tokenizer.join().unwrap_or_else(|panic| resume_unwind(panic))?, runner?))
            })?
        } else {
            (Tokenizer::load(dir, &settings)?, Runner::load(&settings, weights, machine, precision)?)
        };
        Ok(Self { task: task_of(dir, &settings)?, tokenizer, runner })
    }
}

impl<T: TextTask> Architecture for TextModel<T> {
    type Item = Item<T::Asked>;

    fn prepare(&self, input: &RawValue) -> Result<Self::Item, Failure> {
        let (texts, asked) = self.task.read(&self.tokenizer, input)?;
        Ok(Item { texts, asked })
    }

    fn cost(&self, item: &Self::Item) -> usize {
        item.texts.iter().map(|text| text.ids.len()).sum()
    }

    fn max_batch_cost(&self) -> usize {
        self.runner.max_tokens()
    }

    fn tokens(&self, item: &Self::Item) -> Option<u32> {
        u32::try_from(self.cost(item)).ok()
    }

    fn device(&self) -> Device {
        self.runner.device()
    }

    fn complete(&self) -> Result<(), LoadError> {
        self.runner.complete()
    }

    fn is_broken(&self) -> bool {
        self.runner.is_broken()
    }

    fn under_way(&self) -> usize {
        self.runner.under_way()
    }

    fn run(
        &self,
        batch: &[(Self::Item, Abandon)],
        turn: &mut Turn<'_>,
    ) -> Result<Vec<Result<Box<RawValue>, Failure>>, Failure> {
        let (texts, asked): (Vec<Text<'_>>, Vec<&T::Asked>) =
            batch.iter().flat_map(|(item, _)| item.texts.iter().map(|text| (Text::from(text), &item.asked))).unzip();
        let unwanted = || batch.iter().all(|(_, abandon)| abandon.is_abandoned());
        let part = |text: usize, numbers: Vec<f32>| self.task.part(&self.tokenizer, asked[text], numbers);
        let Some(parts) = self.runner.run(&texts, turn, unwanted, part)? else {
            return Ok(batch.iter().map(|_| Err(engine::canceled())).collect());
        };
        let mut parts = parts.into_iter();
        let whole = |(item, _): &(Self::Item, Abandon)| {
            self.task.whole(&item.asked, parts.by_ref().take(item.texts.len()).collect())
        };
        Ok(batch.iter().map(whole).collect())
    }
}

/// Why an input has no tokens. The cause is for the log, because it names what only the operator knows.
fn unreadable(error: &dyn std::fmt::Display) -> Failure {
    tracing::warn!(%error, "a text could not be cut into tokens");
    invalid("the text cannot be cut into tokens")
}

/// The one part of a text that is an input alone.
fn only<P>(parts: Vec<Result<P, Failure>>) -> Result<P, Failure> {
    parts.into_iter().next().unwrap_or_else(|| Err(failed(&"a text gave nothing")))
}

/// The schema of a text.
fn text_schema(description: &str) -> Value {
    json!({"type": "string", "maxLength": LONGEST_TEXT, "description": description})
}
