//! Models, read by candle and run by our own kernels, those of encoders and ViT on a processor as operations on its tensors:
//! found in directories, checked, loaded once, warmed, and each driven in dynamic batches by threads of its own.

mod abandon;
mod architecture;
mod card;
mod compare;
mod contract;
mod derived;
mod device;
mod digest;
mod draft;
mod echo;
mod engine;
mod generate;
mod gguf;
mod identity;
mod image;
mod importance;
mod kept;
mod labels;
mod machine;
mod manifest;
mod map;
mod mlp;
mod model;
mod models;
mod origin;
mod picture;
mod places;
mod plain;
mod prune;
mod quantize;
mod registry;
mod remembered;
mod signature;
mod survey;
mod text;
mod transformer;
mod turn;
mod versions;
mod vision;
mod warm;

use std::path::{Path, PathBuf};

pub use abandon::Abandon;
pub use card::CARD;
pub use compare::{Agreement, Comparison, Measured, calibration, compare};
pub use derived::copy_files;
pub use device::{Device, DeviceError};
pub use draft::{Audience, Draft};
pub use generate::{Divergence, is_gguf};
pub use kernels::{Cpu, Isa, IsaError, Precision};
pub use machine::{Machine, MachineError};
pub use model::{Model, Output};
pub use models::{Changes, Config, Look, Models};
pub use origin::Origin;
pub use plain::is_setting;
pub use prune::{Cut, Removed, prune};
pub use quantize::{Form, quantize};
pub use remembered::{prepared, remember_moved};
pub use survey::{Description, Listed, PinnedFile, inspect, refuse_pickle, survey};
pub use text::{DeviceEncoder, Encoder, Sharer};
pub use versions::{Beside, Versions, default_file_name, directory_name, versions, write_default};

/// A model could not be loaded; names the model and the file, for the operator.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct LoadError {
    /// The directory or file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

impl LoadError {
    pub(crate) fn new(path: &Path, reason: impl Into<String>) -> Self {
        Self { path: path.to_owned(), reason: reason.into() }
    }
}
