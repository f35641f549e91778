//! Plain Hugging Face directories, which have no manifest: what one holds, by the `model_type` in its `config.json`.

use std::{fs, io, path::Path};

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{LoadError, text, vision};

/// What the model is, relative to the directory.
pub(crate) const CONFIG: &str = "config.json";

/// The weights, relative to the directory.
pub(crate) const WEIGHTS: &str = "model.safetensors";

/// What a directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plain {
    /// A text encoder.
    Text,
    /// A classifier of images.
    Image,
}

impl Plain {
    /// What this directory holds, if it is of a family that runs here.
    pub(crate) fn of(dir: &Path) -> Option<Self> {
        let kind = model_type(dir)?;
        if text::model_types().any(|name| name == kind) {
            return Some(Self::Text);
        }
        vision::model_types().any(|name| name == kind).then_some(Self::Image)
    }
}

/// Whether a file of this name, in the directory itself, says more about a model than `config.json` does: it is read where it is.
#[must_use]
pub fn is_setting(name: &str) -> bool {
    text::is_setting(name) || vision::is_setting(name)
}

/// Why a directory, which has no manifest, is no model.
pub(crate) fn why_not(dir: &Path) -> String {
    let known: Vec<_> = text::model_types().chain(vision::model_types()).collect();
    let known = known.join(", ");
    match model_type(dir) {
        Some(kind) => format!("no model: its config.json says model_type {kind:?}; known are {known}"),
        None => format!(
            "no model: it has no model.toml, no GGUF file, and no config.json with a model_type that is known: {known}"
        ),
    }
}

fn model_type(dir: &Path) -> Option<String> {
    let config: Value = read_json(&dir.join(CONFIG)).ok().flatten()?;
    Some(config.get("model_type")?.as_str()?.to_owned())
}

/// Reads a JSON file; `None` where there is none.
///
/// # Errors
/// When it cannot be read, or is not what it should be.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, LoadError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(LoadError::new(path, format!("cannot be read: {error}"))),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| LoadError::new(path, error.to_string()))
}
