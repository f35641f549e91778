//! Hugging Face directories made of others: what of a model's files stays as it is, its tensors when they change, and a manifest
//! that pins the result.

use std::{
    borrow::Cow,
    fs::{self, File},
    io,
    path::Path,
};

use prediction::ModelName;
use safetensors::{Dtype, SafeTensorError, View, serialize_to_file};
use toml::{Table, Value};

use crate::{
    Description, LoadError,
    card::CARD,
    digest,
    manifest::{self, MANIFEST},
    plain::WEIGHTS,
};

/// A tensor as it will be stored.
pub(crate) struct Tensor<'a> {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Cow<'a, [usize]>,
    pub(crate) bytes: Cow<'a, [u8]>,
}

impl View for Tensor<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Writes a safetensors file.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn write_tensors(tensors: Vec<(String, Tensor<'_>)>, to: &Path) -> Result<(), LoadError> {
    let said = [("format".to_owned(), "pt".to_owned())].into();
    let failed = |error: io::Error| LoadError::new(to, format!("cannot be written: {error}"));
    // What writes it makes a file that only its owner may read, and moves that here.
    let permissions = File::create(to).and_then(|file| file.metadata()).map_err(failed)?.permissions();
    serialize_to_file(tensors, Some(said), to)
        .map_err(|error: SafeTensorError| LoadError::new(to, format!("cannot be written: {error}")))?;
    fs::set_permissions(to, permissions).map_err(failed)
}

/// Copies all files that make the version, and the card, but for the weights and the manifest, which are made anew.
///
/// # Errors
/// When one cannot be read or written.
pub(crate) fn copy_all_else(found: &Description, to: &Path) -> Result<(), LoadError> {
    let kept = found.files.iter().map(|file| file.path.as_path());
    let kept = kept.filter(|file| *file != Path::new(WEIGHTS) && *file != Path::new(MANIFEST));
    copy_files(&found.dir, to, kept)?;
    copy_card(&found.dir, to)
}

/// Copies the card, where there is one.
///
/// # Errors
/// When it cannot be read or written.
pub(crate) fn copy_card(from: &Path, to: &Path) -> Result<(), LoadError> {
    copy_files(from, to, [CARD])
}

/// Copies what is in these files of a directory, those that there are: whoever may not write to an original may write to its copy.
///
/// # Errors
/// When one cannot be read or written.
pub fn copy_files(from: &Path, to: &Path, files: impl IntoIterator<Item = impl AsRef<Path>>) -> Result<(), LoadError> {
    for file in files {
        let (source, target) = (from.join(&file), to.join(&file));
        if source.is_file() {
            let copied = target
                .parent()
                .map_or(Ok(()), fs::create_dir_all)
                .and_then(|()| io::copy(&mut File::open(&source)?, &mut File::create(&target)?));
            copied.map_err(|error| LoadError::new(&target, format!("cannot be written: {error}")))?;
        }
    }
    Ok(())
}

/// Writes the manifest of an encoder of texts whose other files are there: the model's own where it has one, less how its weights were
/// trained, which are others now; else one that says what its files said. With these words for its name, its description and how exact
/// it is.
///
/// # Errors
/// When a file cannot be read or written.
pub(crate) fn write_manifest(
    found: &Description,
    name: &ModelName,
    description: &str,
    precision: &str,
    to: &Path,
) -> Result<(), LoadError> {
    let (spec, path) = (&found.spec, found.dir.join(MANIFEST));
    let mut manifest: Table = match path.exists() {
        true => {
            let text = manifest::read_text(&path)?;
            text.parse().map_err(|error: toml::de::Error| LoadError::new(&path, error.to_string()))?
        }
        false => {
            let said = [("license", &spec.license), ("source", &spec.source)];
            let said = said.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?.into())));
            // A manifest that says nothing of them means others.
            let limits = Value::try_from(&spec.limits).map_err(|error| LoadError::new(to, error.to_string()))?;
            said.chain([("limits".to_owned(), limits)]).collect()
        }
    };
    manifest.remove("training");
    let texts = [
        ("name", name.as_str()),
        ("task", &spec.task),
        ("architecture", "encoder"),
        ("description", description),
        ("precision", precision),
    ];
    manifest.extend(texts.map(|(key, text)| (key.to_owned(), text.into())));
    let schemas: Vec<_> =
        ["input_schema", "output_schema"].iter().filter_map(|key| manifest.get(*key)?.as_str()).collect();
    let read = found.files.iter().map(|file| &file.path);
    let read =
        read.filter(|file| **file != Path::new(MANIFEST) && !schemas.iter().any(|schema| Path::new(schema) == **file));
    let mut files = Vec::new();
    for file in read {
        let sha256 = digest::of_file(&to.join(file))?;
        let pinned = [("path", file.to_string_lossy().into_owned()), ("sha256", sha256)];
        files.push(Value::Table(pinned.map(|(key, text)| (key.to_owned(), text.into())).into_iter().collect()));
    }
    debug_assert!(to.join(WEIGHTS).exists(), "weights are written first");
    manifest.insert("files".to_owned(), Value::Array(files));
    let path = to.join(MANIFEST);
    fs::write(&path, manifest.to_string()).map_err(|error| LoadError::new(&path, format!("cannot be written: {error}")))
}
