//! What is in model directories, for people: described and checked, but not loaded.

use std::{
    fs,
    path::{Path, PathBuf},
};

use prediction::{Label, ModelName, ModelSpec};
use serde_json::Value;

use crate::{
    LoadError, Origin, digest, generate, manifest,
    manifest::MANIFEST,
    places::{self, Place},
    versions,
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
    /// What sets it apart from other versions of that name.
    pub label: Option<Label>,
    /// Whether the name alone means it.
    pub is_default: bool,
    /// The directory; or the file that says which version is the default, when that is wrong.
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

/// Every `<owner>/<name>` and `<owner>/<name>@<label>` directory in a directory of models, by name, those without a sound model included; reads their files.
///
/// # Errors
/// When the directory itself, or that of an owner, cannot be read.
pub fn survey(models_dir: &Path) -> Result<Vec<Listed>, LoadError> {
    let mut listed = Vec::new();
    for owner in places::owners(models_dir)? {
        let dir = &owner.dir;
        let is_model = dir.join(MANIFEST).exists() || dir.join("config.json").exists();
        if is_model || !matches!(generate::file(dir), Ok(None)) {
            let reason = "a model lies in <models>/<owner>/<name>, this one in <models>/<name>";
            if let Some(name) = dir.file_name().and_then(|name| ModelName::local(&name.to_string_lossy()).ok()) {
                let found = Err(LoadError::new(dir, reason));
                listed.push(Listed { name, label: None, is_default: false, dir: owner.dir, found });
            }
            continue;
        }
        // What cannot be a model's name is none to be served.
        let (places, declared) = places::of_owner(&owner)?;
        for (name, fault) in declared.iter().filter_map(|(name, label)| Some((name, label.as_ref().err()?))) {
            let (name, dir, found) = (name.clone(), fault.path.clone(), Err(fault.clone()));
            listed.push(Listed { name, label: None, is_default: false, dir, found });
        }
        for place in places {
            let (found, Place { dir, name, label, .. }) = (look(&place), place);
            let Some(name) = name else { continue };
            let is_default = versions::is_default(&declared, &name, label.as_ref());
            listed.push(Listed { name, label, is_default, dir, found });
        }
    }
    Ok(listed)
}

/// What is in one model directory; reads its files.
///
/// # Errors
/// Names the file that is missing or wrong.
pub fn inspect(dir: &Path) -> Result<Description, LoadError> {
    look(&Place::of(dir.to_owned()))
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
    let opened = place.describe()?.open()?;
    let digests = opened.digests()?;
    let (version, parameters, weight_bytes) = (digest::version(&digests), opened.parameters(), opened.bytes());
    let (architecture, precision) = (opened.found.architecture(), opened.found.precision());
    let files = digests.into_iter().map(|(path, sha256)| {
        let whole = dir.join(&path);
        let metadata = fs::metadata(&whole);
        let bytes = metadata.map_err(|error| LoadError::new(&whole, format!("cannot be read: {error}")))?.len();
        Ok(PinnedFile { path, sha256, bytes })
    });
    let files = files.collect::<Result<_, LoadError>>()?;
    let described = opened.found.described;
    let example = described.example.clone();
    Ok(Description {
        dir: dir.clone(),
        spec: described.spec(version),
        architecture,
        precision,
        parameters,
        weight_bytes,
        example,
        files,
        origin: Origin::read(dir)?,
    })
}
