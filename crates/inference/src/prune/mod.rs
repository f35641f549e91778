//! Models without what matters least in them: heads, layers, or small weights.

mod config;
mod tensors;

use std::path::Path;

use prediction::ModelName;
use serde_json::Value;

use crate::{
    Description, LoadError, Machine, derived,
    map::Weights,
    plain::{CONFIG, WEIGHTS},
    text::{Anatomy, Study},
};

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
    /// Heads by layer, as they were counted in the model that transformers knows, from 0.
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

impl Cut {
    /// For the names of what it makes.
    #[must_use]
    pub fn words(self) -> String {
        match self {
            Self::Heads(count) => format!("less-{count}-head{}", plural(count)),
            Self::Layers(count) => format!("less-{count}-layer{}", plural(count)),
            Self::Sparsity(share) => format!("sparse-{share}"),
        }
    }

    /// A sentence for people, who read it behind the model's description.
    fn sentence(self) -> String {
        match self {
            Self::Heads(count) => format!("Each layer lacks {count} attention head{}.", plural(count)),
            Self::Layers(count) => format!("It lacks {count} layer{}.", plural(count)),
            Self::Sparsity(share) => format!("Of the layers' weights, the smallest {} % are 0.", share * 100.0),
        }
    }
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
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
    let (dir, task) = (&found.dir, found.spec.task.as_str());
    let wrong = |reason: String| LoadError::new(dir, reason);
    if found.architecture != "encoder" {
        return Err(wrong(format!("does {task}; only encoders of texts can be pruned")));
    }
    let weights = Weights::open(&dir.join(WEIGHTS))?;
    let anatomy = Anatomy::read(dir, task, &weights)?;
    check(cut, &anatomy).map_err(wrong)?;
    let study = || match inputs {
        [] => Err(wrong("cannot be judged without inputs".into())),
        _ => Study::open(dir, task, &weights, inputs, machine),
    };
    let removed = match cut {
        Cut::Heads(count) => {
            let norms = study()?.head_norms(&anatomy, &weights)?;
            let places = norms.iter().map(|norms| least(norms, count)).collect::<Vec<_>>();
            tensors::write_without_heads(&weights, &anatomy, &places, &to.join(WEIGHTS))?;
            let heads = places.iter().zip(&anatomy.heads);
            Removed::Heads(heads.map(|(places, heads)| places.iter().map(|place| heads[*place]).collect()).collect())
        }
        Cut::Layers(count) => {
            let layers = study()?.dispensable_layers(count);
            tensors::write_without_layers(&weights, &anatomy, &layers, &to.join(WEIGHTS))?;
            Removed::Layers(layers)
        }
        Cut::Sparsity(share) => {
            let (zeros, parameters) = tensors::write_sparse(&weights, &anatomy, share, &to.join(WEIGHTS))?;
            Removed::Weights { zeros, parameters }
        }
    };
    derived::copy_all_else(found, to)?;
    config::write(&to.join(CONFIG), &anatomy, &removed)?;
    let (description, precision) = (&found.spec.description, found.precision.unwrap_or("f32"));
    derived::write_manifest(found, name, format!("{description} {}", cut.sentence()).trim(), precision, to)?;
    Ok(removed)
}

/// Says why this cannot be removed, if it cannot.
fn check(cut: Cut, anatomy: &Anatomy) -> Result<(), String> {
    let most = |has: usize, what: &str| match has {
        1 => format!("has one {what}, which stays"),
        _ => format!("has {has} {what}s; at most {} can be removed", has - 1),
    };
    let layers = anatomy.heads.len();
    match cut {
        Cut::Heads(0) | Cut::Layers(0) => Err("stays as it is when nothing is removed".into()),
        Cut::Heads(count) => match anatomy.heads.iter().enumerate().find(|(_, heads)| heads.len() <= count) {
            Some((layer, heads)) => Err(format!("layer {layer} {}", most(heads.len(), "attention head"))),
            None => Ok(()),
        },
        Cut::Layers(count) if count >= layers => Err(most(layers, "layer")),
        Cut::Sparsity(share) if !(share > 0.0 && share < 1.0) => {
            Err(format!("cannot be pruned by a share of {share}; it is above 0 and below 1"))
        }
        Cut::Layers(_) | Cut::Sparsity(_) => Ok(()),
    }
}

/// The places of the least so many of these numbers, ascending.
fn least(numbers: &[f64], count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..numbers.len()).collect();
    places.sort_by(|one, other| numbers[*one].total_cmp(&numbers[*other]));
    places.truncate(count);
    places.sort_unstable();
    places
}
