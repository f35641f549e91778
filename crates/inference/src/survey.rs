//! What is in model directories, for people: described and checked, but not loaded.

use std::{
    fs,
    path::{Path, PathBuf},
};

use prediction::{ModelName, ModelSpec};
use serde_json::Value;

use crate::{
    LoadError, Origin, generate, manifest,
    manifest::MANIFEST,
    registry::{self, Place},
};

/// A model directory whose files are as they should be. Whether the model runs only loading it shows.
#[derive(Clone, Debug)]
pub struct Description {
    /// The directory.
    pub dir: PathBuf,
    /// What would be published.
    pub spec: ModelSpec,
    /// What runs it: as a manifest names it, and for images the family.
    pub architecture: &'static str,
    /// How exact its products are, as a manifest says it; `None` where that cannot be chosen.
    pub precision: Option<&'static str>,
    /// How many numbers its weights are.
    pub parameters: u64,
    /// The most bytes of memory that its weights take when it is loaded.
    pub weight_bytes: u64,
    /// An input that it takes.
    pub example: Value,
    /// The files that make the version.
    pub files: Vec<PinnedFile>,
    /// Where it was fetched from, if that is written down.
    pub origin: Option<Origin>,
}

/// A file of a model.
#[derive(Clone, Debug)]
pub struct PinnedFile {
    /// Where, inside the directory.
    pub path: PathBuf,
    /// Its SHA-256, 64 lower-case hex digits.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
}

/// A directory where a model should be.
#[derive(Debug)]
pub struct Listed {
    /// What lies there is called so.
    pub name: ModelName,
    /// The directory.
    pub dir: PathBuf,
    /// What is in it, or what is wrong with it.
    pub found: Result<Description, LoadError>,
}

impl Description {
    /// Bytes of all files that make the version.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// Every `<owner>/<name>` directory in a directory of models, by name, those without a sound model included; reads their files.
///
/// # Errors
/// When the directory itself, or that of an owner, cannot be read.
pub fn survey(models_dir: &Path) -> Result<Vec<Listed>, LoadError> {
    let mut listed = Vec::new();
    for owner in registry::directories(models_dir)? {
        let is_model = owner.join(MANIFEST).exists() || owner.join("config.json").exists();
        if is_model || !matches!(generate::file(&owner), Ok(None)) {
            let reason = "a model lies in <models>/<owner>/<name>, this one in <models>/<name>";
            if let Some(name) = owner.file_name().and_then(|name| ModelName::local(&name.to_string_lossy()).ok()) {
                let found = Err(LoadError::new(&owner, reason));
                listed.push(Listed { name, dir: owner, found });
            }
            continue;
        }
        for dir in registry::directories(&owner)? {
            // What cannot be a model's name is none to be served.
            let Some(name) = registry::name_of(&dir) else { continue };
            let found = look(&Place { dir: dir.clone(), name: Some(name.clone()) });
            listed.push(Listed { name, dir, found });
        }
    }
    Ok(listed)
}

/// What is in one model directory; reads its files.
///
/// # Errors
/// Names the file that is missing or wrong.
pub fn inspect(dir: &Path) -> Result<Description, LoadError> {
    look(&Place { dir: dir.to_owned(), name: None })
}

/// Refuses a file that is a Python pickle, by its name.
///
/// # Errors
/// When the file's ending is one of a pickle.
pub fn refuse_pickle(file: &Path) -> Result<(), LoadError> {
    manifest::refuse_pickle(file.parent().unwrap_or(Path::new("")), Path::new(file.file_name().unwrap_or_default()))
}

fn look(place: &Place) -> Result<Description, LoadError> {
    let dir = &place.dir;
    let checked = place.describe()?.check()?;
    let (parameters, weight_bytes) = (checked.parameters(), checked.bytes());
    let (architecture, precision) = (checked.found.architecture(), checked.found.precision());
    let files = checked.digests.into_iter().map(|(path, sha256)| {
        let whole = dir.join(&path);
        let metadata = fs::metadata(&whole);
        let bytes = metadata.map_err(|error| LoadError::new(&whole, format!("cannot be read: {error}")))?.len();
        Ok(PinnedFile { path, sha256, bytes })
    });
    let files = files.collect::<Result<_, LoadError>>()?;
    let described = checked.found.described;
    let spec = ModelSpec {
        name: described.name,
        version: checked.version,
        task: described.task,
        description: described.description,
        license: described.license,
        source: described.source,
        input_schema: described.input_schema,
        output_schema: described.output_schema,
        limits: described.limits,
    };
    Ok(Description {
        dir: dir.clone(),
        spec,
        architecture,
        precision,
        parameters,
        weight_bytes,
        example: described.example,
        files,
        origin: Origin::read(dir)?,
    })
}
