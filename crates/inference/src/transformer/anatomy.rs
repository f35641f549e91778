//! Which tensors of a transformer's file make up its layers and heads: for what is made of the file.

use super::{LayerNames, PrunedHeads};
use crate::{LoadError, map::Weights};

/// The layers of an encoder of texts or images, as its files have them.
pub(crate) struct Anatomy {
    /// What the names of layers' tensors begin with, before the layer's number.
    layers: String,
    /// What they are called after it, less `.weight` and `.bias`.
    pub(crate) names: LayerNames,
    /// Columns of one head.
    pub(crate) head_width: usize,
    /// The heads of each layer before any was removed.
    pub(crate) heads_at_first: usize,
    /// The heads that each layer has, as they were counted at first.
    pub(crate) heads: Vec<Vec<usize>>,
}

impl Anatomy {
    /// That of an encoder of so many layers, whose tensors' names begin with `layers`, a dot and the layer's number; of its heads, each so
    /// many columns wide, it lacks those that were pruned.
    ///
    /// # Errors
    /// When the file has not so many layers, or none with so many heads: nothing is allocated for what a configuration only states.
    pub(crate) fn new(
        weights: &Weights,
        (layers, names): (String, LayerNames),
        count: usize,
        (heads_at_first, head_width): (usize, usize),
        pruned: &PrunedHeads,
    ) -> Result<Self, LoadError> {
        let mut anatomy = Self { layers: layers + ".", names, head_width, heads_at_first, heads: Vec::new() };
        for layer in 0..count {
            let name = anatomy.name(layer, &format!("{}.weight", anatomy.names.attended));
            let columns = head_width.checked_mul(heads_at_first - pruned.of(layer));
            match weights.shape(&name) {
                Some([rows, found]) if *rows > 0 && Some(*found) == columns => {}
                Some(shape) => {
                    let reason = format!("tensor {name:?} has shape {shape:?}, which is not of {heads_at_first} heads");
                    return Err(LoadError::new(weights.path(), reason));
                }
                None => {
                    let reason =
                        format!("has no tensor {name:?}, but its configuration says that it has {count} layers");
                    return Err(LoadError::new(weights.path(), reason));
                }
            }
            anatomy.heads.push(pruned.left(layer, heads_at_first));
        }
        Ok(anatomy)
    }

    /// The layer that a tensor belongs to, and what it is called there; `None` for those of no layer.
    pub(crate) fn place<'a>(&self, tensor: &'a str) -> Option<(usize, &'a str)> {
        let (layer, part) = tensor.strip_prefix(self.layers.as_str())?.split_once('.')?;
        Some((layer.parse().ok().filter(|layer| *layer < self.heads.len())?, part))
    }

    /// The name of a layer's tensor.
    pub(crate) fn name(&self, layer: usize, part: &str) -> String {
        format!("{}{layer}.{part}", self.layers)
    }

    /// Whether a tensor is a matrix of a layer.
    pub(crate) fn is_matrix(&self, tensor: &str) -> bool {
        let names = &self.names;
        let mut matrices = names.query_key_value.iter().chain([&names.attended, &names.up, &names.down]);
        let part = self.place(tensor).and_then(|(_, part)| part.strip_suffix(".weight"));
        part.is_some_and(|part| matrices.any(|matrix| *matrix == part))
    }
}
