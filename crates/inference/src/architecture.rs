//! What every architecture provides: a description of its model, reading an input off the engine's threads, its cost, and
//! running a batch.

use std::{io, path::PathBuf, sync::Arc};

use prediction::{Failure, Limits, ModelName, ModelSpec, Version};
use serde_json::{Value, value::RawValue};
use tokio::sync::mpsc;

use crate::{
    Abandon, Device, LoadError,
    engine::{self, Job},
    turn::Turn,
};

/// What a model's directory says about it, before its weights are read.
#[derive(Clone, Debug)]
pub(crate) struct Described {
    /// `owner/name`.
    pub(crate) name: ModelName,
    /// What it does, in the field's standard words.
    pub(crate) task: String,
    /// A sentence for people.
    pub(crate) description: String,
    /// SPDX expression, where known.
    pub(crate) license: Option<String>,
    /// Where weights and data come from, where known.
    pub(crate) source: Option<String>,
    /// JSON Schema that every input fits.
    pub(crate) input_schema: Value,
    /// JSON Schema that every output fits.
    pub(crate) output_schema: Value,
    /// What bounds one prediction.
    pub(crate) limits: Limits,
    /// The files that make the version, relative to the directory: weights, tokenizer, configuration.
    pub(crate) files: Vec<PathBuf>,
    /// An input that the model runs once before it is reported loaded.
    pub(crate) example: Value,
}

impl Described {
    /// What is published of it in this version.
    pub(crate) fn spec(self, version: Version) -> ModelSpec {
        let Self { name, task, description, license, source, input_schema, output_schema, limits, .. } = self;
        ModelSpec { name, version, task, description, license, source, input_schema, output_schema, limits }
    }
}

/// A loaded model of one architecture. Weights are read-only, so one instance serves every thread.
pub(crate) trait Architecture: Send + Sync + 'static {
    /// An input, read and ready to run.
    type Item: Send + 'static;

    /// Reads one input (which fits the schema); runs off the engine's threads, for many inputs at once.
    fn prepare(&self, input: &RawValue) -> Result<Self::Item, Failure>;

    /// The longest input, in bytes, that is read where it is: handing it to another thread would take longer.
    fn inline_bytes(&self) -> usize {
        1 << 10
    }

    /// What one item costs, in units of the architecture's own (tokens for text, 1 for fixed shapes); a batch costs what its
    /// items do, since nothing is padded.
    fn cost(&self, item: &Self::Item) -> usize;

    /// The most that a batch may cost; one item alone may cost more.
    fn max_batch_cost(&self) -> usize {
        usize::MAX
    }

    /// Tokens of one item, for text.
    fn tokens(&self, item: &Self::Item) -> Option<u32> {
        let _ = item;
        None
    }

    /// Whether a run that took too long may be done in time if it is begun again: what held it up need not be there then.
    fn may_be_faster_again(&self) -> bool {
        true
    }

    /// What it computes on.
    fn device(&self) -> Device {
        Device::Cpu
    }

    /// Reads what it did not need so far of its files.
    ///
    /// # Errors
    /// When that cannot be read, or is not what it was; then it [is broken](Self::is_broken).
    fn complete(&self) -> Result<(), LoadError> {
        Ok(())
    }

    /// Whether what it computes on, or with, has failed so that nothing can be run in this process any more.
    fn is_broken(&self) -> bool {
        false
    }

    /// How many batches may be under way: more than one where a run passes its turn before it ends.
    fn under_way(&self) -> usize {
        1
    }

    /// Runs one batch on a thread of the engine: one result per item, in order. An `Err` for the whole means that the batch failed as
    /// one; the engine then splits it until the guilty item stands alone, unless the architecture is broken.
    fn run(
        &self,
        batch: &[(Self::Item, Abandon)],
        turn: &mut Turn<'_>,
    ) -> Result<Vec<Result<Box<RawValue>, Failure>>, Failure>;

    /// Starts the threads that run what is sent to them: in batches, each to its end, unless the architecture has a way of its own.
    ///
    /// # Errors
    /// When the system gives no thread.
    fn start(self: &Arc<Self>, name: &str, max_batch: usize) -> io::Result<mpsc::Sender<Job<Self::Item>>>
    where
        Self: Sized,
    {
        engine::start(name, Arc::clone(self), max_batch)
    }
}
