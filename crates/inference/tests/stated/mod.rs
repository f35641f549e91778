//! How goldens state what to remove of a model.

use serde::Deserialize;

use super::Cut;

/// A cut, in words of JSON.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stated {
    Heads(usize),
    Layers(usize),
    Sparsity(f64),
}

impl From<Stated> for Cut {
    fn from(stated: Stated) -> Self {
        match stated {
            Stated::Heads(count) => Self::Heads(count),
            Stated::Layers(count) => Self::Layers(count),
            Stated::Sparsity(share) => Self::Sparsity(share),
        }
    }
}
