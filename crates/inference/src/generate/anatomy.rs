//! Which tensors of a decoder's file make up its layers and heads: for what is made of the file.

use super::config::Config;
use crate::{LoadError, gguf::Gguf};

/// The matrices of a layer, less `.weight`.
pub(super) const MATRICES: [&str; 7] = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];

/// What the names of layers' tensors begin with, before the layer's number.
const LAYERS: &str = "blk.";

/// The layers of a decoder, as its file has them; all have as many heads.
pub(crate) struct Anatomy {
    /// As `general.architecture` names it.
    pub(crate) architecture: &'static str,
    pub(crate) layers: usize,
    /// Heads of queries.
    pub(crate) heads: usize,
    /// Heads of keys and values; each serves as many heads of queries, which are its group.
    pub(crate) key_heads: usize,
    /// Columns of one head.
    pub(crate) head_width: usize,
    /// Columns of hidden states.
    pub(crate) width: usize,
}

impl Anatomy {
    /// Reads it.
    ///
    /// # Errors
    /// When the file says what is not known here.
    pub(crate) fn read(gguf: &Gguf) -> Result<Self, LoadError> {
        let Config { family, layers, heads, key_heads, head_width, width, .. } = Config::read(gguf)?;
        Ok(Self { architecture: family.name, layers, heads, key_heads, head_width, width })
    }

    /// Heads of queries that share a head of keys and values.
    pub(crate) fn group(&self) -> usize {
        self.heads / self.key_heads
    }

    /// The layer that a tensor belongs to, and what it is called there; `None` for those of no layer.
    pub(crate) fn place<'a>(&self, tensor: &'a str) -> Option<(usize, &'a str)> {
        let (layer, part) = tensor.strip_prefix(LAYERS)?.split_once('.')?;
        Some((layer.parse().ok().filter(|layer| *layer < self.layers)?, part))
    }

    /// The name of a layer's tensor.
    pub(crate) fn name(layer: usize, part: &str) -> String {
        format!("{LAYERS}{layer}.{part}")
    }

    /// Whether a tensor is a matrix of a layer.
    pub(crate) fn is_matrix(&self, tensor: &str) -> bool {
        let part = self.place(tensor).and_then(|(_, part)| part.strip_suffix(".weight"));
        part.is_some_and(|part| MATRICES.contains(&part))
    }

    /// A value of the architecture's own, as files name it.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }
}
