//! `model.toml`: what a model directory says about itself, read strictly.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Component, Path, PathBuf},
};

use prediction::{Limits, ModelName};
use serde::Deserialize;
use serde_json::Value;

use crate::{LoadError, mlp};

/// The manifest's name in a model directory.
pub(crate) const MANIFEST: &str = "model.toml";

/// The most bytes of a manifest, or of a JSON file beside it.
const MAX_BYTES: u64 = 1 << 20;

/// Endings of weights that are Python pickles: reading them means running what is in them.
const PICKLES: &[&str] = &["bin", "pt", "pth", "pkl", "pickle", "ckpt"];

/// A manifest as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    /// `owner/name`; what the directory is called when absent.
    pub(crate) name: Option<ModelName>,
    /// What the model does, in the field's standard words.
    pub(crate) task: String,
    /// What runs it.
    pub(crate) architecture: Kind,
    /// A sentence for people.
    pub(crate) description: String,
    /// SPDX expression.
    pub(crate) license: Option<String>,
    /// Where weights and data come from.
    pub(crate) source: Option<String>,
    /// JSON file with the schema of inputs; the architecture's own where it has one.
    pub(crate) input_schema: Option<PathBuf>,
    /// JSON file with the schema of outputs; the architecture's own where it has one.
    pub(crate) output_schema: Option<PathBuf>,
    /// An input to warm the model with; the architecture's own where it has one.
    pub(crate) example: Option<Value>,
    /// Weights and whatever else the model reads.
    pub(crate) files: Vec<PinnedFile>,
    /// What bounds one prediction.
    #[serde(default)]
    pub(crate) limits: Limits,
    /// How exact it is, for `architecture = "encoder"`; `f32` when absent.
    pub(crate) precision: Option<Precision>,
    /// For `architecture = "mlp"`.
    pub(crate) mlp: Option<mlp::Settings>,
    /// How the weights came to be.
    pub(crate) training: Option<Training>,
}

/// What can run a model that has a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// A feed-forward network for pictures and tables.
    Mlp,
    /// A text encoder of the BERT family; which, its `config.json` says.
    Encoder,
}

/// How exact products are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Precision {
    /// As 32-bit floats.
    F32,
    /// Operands rounded to 8 significant bits where the machine is faster with those.
    Bf16,
    /// Operands as whole numbers of 8 bits.
    Int8,
}

impl From<Precision> for kernels::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::Bf16 => Self::Bf16,
            Precision::Int8 => Self::Int8,
        }
    }
}

/// A file that must be as it was.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PinnedFile {
    /// Where, inside the directory.
    pub(crate) path: PathBuf,
    /// Its SHA-256, 64 lower-case hex digits.
    pub(crate) sha256: String,
}

/// How the weights were trained, and what they reached.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Training {
    /// The command that makes the same weights again.
    pub(crate) command: String,
    /// Seeds initial weights, order and augmentation.
    pub(crate) seed: u64,
    /// Rows trained on.
    pub(crate) rows: usize,
    /// Rows never trained on.
    pub(crate) held_out_rows: usize,
    /// Share of the held-out rows labelled rightly.
    pub(crate) held_out_accuracy: f64,
}

impl Manifest {
    /// Reads the directory's manifest, and checks what can be checked without another file.
    ///
    /// # Errors
    /// When it is missing, not TOML, has unknown or missing fields, or names files that it may not.
    pub(crate) fn read(dir: &Path) -> Result<Self, LoadError> {
        let path = dir.join(MANIFEST);
        let wrong = |reason: String| LoadError::new(&path, reason);
        let manifest: Self = toml::from_str(&read_text(&path)?).map_err(|error| wrong(error.to_string()))?;
        for file in &manifest.files {
            let is_digest = file.sha256.len() == 64 && file.sha256.bytes().all(|b| b.is_ascii_hexdigit());
            if !is_digest {
                return Err(wrong(format!("sha256 of {} is not 64 hex digits", file.path.display())));
            }
        }
        if let Some(training) = &manifest.training
            && !(0.0..=1.0).contains(&training.held_out_accuracy)
        {
            return Err(wrong("held_out_accuracy is a share, 0 to 1".into()));
        }
        Ok(manifest)
    }

    /// The pinned digests by file.
    ///
    /// # Errors
    /// When a file lies outside the directory or is a pickle.
    pub(crate) fn pinned(&self, dir: &Path) -> Result<BTreeMap<PathBuf, String>, LoadError> {
        let pinned = self.files.iter().map(|file| {
            refuse_pickle(dir, &file.path)?;
            check_inside(dir, &file.path)?;
            Ok((file.path.clone(), file.sha256.to_ascii_lowercase()))
        });
        pinned.collect()
    }
}

/// Reads a JSON file of the directory.
///
/// # Errors
/// When it is missing, outside the directory, too large or not JSON.
pub(crate) fn read_json(dir: &Path, file: &Path) -> Result<Value, LoadError> {
    check_inside(dir, file)?;
    let path = dir.join(file);
    serde_json::from_str(&read_text(&path)?).map_err(|error| LoadError::new(&path, format!("not JSON: {error}")))
}

/// Refuses weights that are pickles, by name.
///
/// # Errors
/// When the file's ending is one of a pickle.
pub(crate) fn refuse_pickle(dir: &Path, file: &Path) -> Result<(), LoadError> {
    let ending = file.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    if ending.is_some_and(|ending| PICKLES.contains(&ending.as_str())) {
        return Err(LoadError::new(
            &dir.join(file),
            "a pickle, which can run code when it is read: convert the weights to safetensors",
        ));
    }
    Ok(())
}

/// Checks that `file` is a relative path of plain names that leads, links followed, to a file inside the directory.
fn check_inside(dir: &Path, file: &Path) -> Result<(), LoadError> {
    let path = dir.join(file);
    let plain = file.components().all(|part| matches!(part, Component::Normal(_)));
    if !plain || file.as_os_str().is_empty() {
        return Err(LoadError::new(&path, "not a plain path inside the model's directory"));
    }
    let real = path.canonicalize().map_err(|error| LoadError::new(&path, format!("cannot be read: {error}")))?;
    let real_dir = dir.canonicalize().map_err(|error| LoadError::new(dir, format!("cannot be read: {error}")))?;
    if !real.starts_with(&real_dir) {
        return Err(LoadError::new(&path, "a link that leads out of the model's directory"));
    }
    Ok(())
}

/// Reads a file of text that is not too long.
///
/// # Errors
/// When it cannot be read, is too long or not UTF-8.
pub(crate) fn read_text(path: &Path) -> Result<String, LoadError> {
    let failed = |error: std::io::Error| LoadError::new(path, format!("cannot be read: {error}"));
    let mut text = String::new();
    let length = File::open(path).map_err(failed)?.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if length as u64 > MAX_BYTES {
        return Err(LoadError::new(path, format!("longer than {MAX_BYTES} bytes")));
    }
    Ok(text)
}
