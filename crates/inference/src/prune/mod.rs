//! Models without what matters least in them: heads, layers, or small weights.

mod config;
mod decoder;
mod network;
mod parts;
mod tensors;
#[cfg(test)]
mod tests;
pub(crate) mod words;

use std::path::Path;

use prediction::ModelName;
use serde_json::Value;

use crate::{Description, LoadError, Machine};

/// What shall be removed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cut {
    /// So many attention heads of each layer: those that add least to hidden states.
    Heads(usize),
    /// So many layers: those without which the outputs change least.
    Layers(usize),
    /// This share (above 0, below 1) of each matrix of each layer: the weights that are nearest to 0 become 0.
    Sparsity(f64),
}

/// What was removed.
#[derive(Clone, Debug, PartialEq)]
pub enum Removed {
    /// Heads by layer, from 0: of encoders as they were counted in the model that transformers knows, of text generators as they were
    /// in the file.
    Heads(Vec<Vec<usize>>),
    /// Layers, from 0.
    Layers(Vec<usize>),
    /// No number: some are 0 now.
    Weights {
        /// How many numbers of the whole model are 0.
        zeros: u64,
        /// How many it has.
        parameters: u64,
    },
}

/// What is made of which model.
struct Job<'a> {
    found: &'a Description,
    cut: Cut,
    /// What the model is judged by.
    inputs: &'a [Value],
    /// What the result is called.
    name: &'a ModelName,
    /// Where it is written.
    to: &'a Path,
    machine: Machine,
}

impl Job<'_> {
    /// What is wrong with the model.
    fn wrong(&self, reason: impl Into<String>) -> LoadError {
        LoadError::new(&self.found.dir, reason)
    }

    /// The inputs, of which there must be one.
    fn judges(&self) -> Result<&[Value], LoadError> {
        if self.inputs.is_empty() { Err(self.wrong("cannot be judged without inputs")) } else { Ok(self.inputs) }
    }
}

/// Writes the model `found` without what matters least in it, called `name`, into the directory `to`, which is there and empty. What
/// matters is judged by `inputs` of the model. Slow, blocking.
///
/// # Errors
/// When that model cannot be pruned, has no more than what shall be removed, or fails on an input, and when a file cannot be read or
/// written.
pub fn prune(
    found: &Description,
    cut: Cut,
    inputs: &[Value],
    name: &ModelName,
    to: &Path,
    machine: Machine,
) -> Result<Removed, LoadError> {
    let job = Job { found, cut, inputs, name, to, machine };
    match (cut, found.architecture) {
        (Cut::Heads(0) | Cut::Layers(0), _) => Err(job.wrong("stays as it is when nothing is removed")),
        (Cut::Sparsity(share), _) if !(share > 0.0 && share < 1.0) => {
            Err(job.wrong(format!("cannot be pruned by a share of {share}; it is above 0 and below 1")))
        }
        (_, "mlp") => Err(job.wrong("is an mlp, which is small and has neither heads nor layers of one shape")),
        (_, "decoder") => decoder::prune(&job),
        _ => network::prune(&job),
    }
}

/// Why no more can be removed.
fn at_most(has: usize, what: &str) -> String {
    match has {
        1 => format!("has one {what}, which stays"),
        _ => format!("has {has} {what}s; at most {} can be removed", has - 1),
    }
}
