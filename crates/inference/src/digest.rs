//! What makes a version: the digests of a model's files.

use std::{
    collections::BTreeMap,
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use prediction::Version;
use sha2::{Digest, Sha256};

use crate::LoadError;

/// Bytes read at a time.
const CHUNK: usize = 1 << 16;

/// The SHA-256 of a file, as 64 hex digits.
///
/// # Errors
/// Names the file that is missing or cannot be read.
pub(crate) fn of_file(path: &Path) -> Result<String, LoadError> {
    let file = File::open(path).map_err(|error| LoadError::new(path, format!("cannot be read: {error}")))?;
    of(&file, path)
}

/// The same of a file that is open, whatever its path leads to by now.
///
/// # Errors
/// As [`of_file`].
pub(crate) fn of(file: &File, path: &Path) -> Result<String, LoadError> {
    let (mut hasher, mut at, mut chunk) = (Sha256::new(), 0, vec![0; CHUNK]);
    loop {
        let read = file.read_at(&mut chunk, at);
        match read.map_err(|error| LoadError::new(path, format!("cannot be read: {error}")))? {
            0 => return Ok(hex::encode(hasher.finalize())),
            length => {
                hasher.update(&chunk[..length]);
                at += length as u64;
            }
        }
    }
}

/// The version made by these files: SHA-256 over their names, each ended by a zero byte and followed by the file's digest, in
/// the order of the names.
#[must_use]
pub(crate) fn version(files: &BTreeMap<PathBuf, String>) -> Version {
    let mut hasher = Sha256::new();
    for (name, digest) in files {
        hasher.update(name.to_string_lossy().as_bytes());
        hasher.update([0]);
        hasher.update(digest);
    }
    to_version(hasher)
}

/// The version of a model that has no files, from a text that changes whenever the model does.
#[must_use]
pub(crate) fn version_of_text(text: &str) -> Version {
    to_version(Sha256::new_with_prefix(text))
}

fn to_version(hasher: Sha256) -> Version {
    hex::encode(hasher.finalize()).parse().expect("a SHA-256 in hex is a version")
}
