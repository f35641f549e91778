//! Where a Hugging Face directory came from: written beside its files by whoever fetched them.

use std::{collections::BTreeMap, fs, path::Path, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::LoadError;

/// What a model that was fetched says of where it is from. Its files are pinned by it: those that the model reads must be as they
/// were.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Where to look at it: a URL that names the commit.
    pub source: String,
    /// What was asked for: a branch, a tag or a commit.
    pub revision: String,
    /// The commit that this was then.
    pub commit: String,
    /// The SHA-256 of each file, 64 lower-case hex digits, by its path inside the directory.
    pub files: BTreeMap<PathBuf, String>,
}

impl Origin {
    /// The file that says it, in the model's directory.
    pub const FILE: &str = "augur-source.json";

    /// Reads it; `None` where there is none.
    ///
    /// # Errors
    /// When the file cannot be read or is not one of ours.
    pub fn read(dir: &Path) -> Result<Option<Self>, LoadError> {
        let path = dir.join(Self::FILE);
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read(&path).map_err(|error| LoadError::new(&path, format!("cannot be read: {error}")))?;
        serde_json::from_slice(&text).map(Some).map_err(|error| LoadError::new(&path, error.to_string()))
    }

    /// Writes it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<(), LoadError> {
        let path = dir.join(Self::FILE);
        let text = serde_json::to_string_pretty(self).map_err(|error| LoadError::new(&path, error.to_string()))?;
        fs::write(&path, text + "\n").map_err(|error| LoadError::new(&path, format!("cannot be written: {error}")))
    }
}
