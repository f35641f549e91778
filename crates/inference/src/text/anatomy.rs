//! Which tensors of an encoder's file make up its layers and heads: for what is made of the file.

use std::path::Path;

use super::{encoder::prefix, files::Settings};
use crate::{LoadError, map::Weights, transformer::LayerNames};

/// The layers of an encoder, as its files have them.
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
    /// Reads it for the task that the model does.
    ///
    /// # Errors
    /// When a file is missing or cannot be read.
    pub(crate) fn read(dir: &Path, task: &str, weights: &Weights) -> Result<Self, LoadError> {
        let config = Settings::read(dir, Some(task))?.config;
        Ok(Self {
            layers: format!("{}{}.", prefix(config.family, weights), config.family.layers()),
            names: config.family.layer(),
            head_width: config.head_width(),
            heads_at_first: config.num_attention_heads,
            heads: (0..config.num_hidden_layers).map(|layer| config.heads(layer)).collect(),
        })
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
}
