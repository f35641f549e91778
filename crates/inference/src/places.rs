//! Where models lie: the directories that a configuration asks for, and what each must be called.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use prediction::{Label, ModelName};

use crate::{
    Config, LoadError, generate,
    manifest::MANIFEST,
    plain::Plain,
    registry::{Found, describe},
    versions::{self, Declared},
};

/// Where a version of a model lies, and what the model must be called there.
pub(crate) struct Place {
    /// The directory.
    pub(crate) dir: PathBuf,
    /// As its place in `models_dir` calls it; a directory named by itself may be called anything.
    pub(crate) name: Option<ModelName>,
    /// What sets it apart from other versions of that name there.
    pub(crate) label: Option<Label>,
    /// A directory that is called the same, in other letters: as this one, or as its owner's.
    pub(crate) clashes_with: Option<PathBuf>,
}

/// The places of all models that a configuration asks for, and which of several versions are declared to be the default.
///
/// # Errors
/// When directories cannot be read, and when one of `only` is not there.
pub(crate) fn places(config: &Config) -> Result<(Vec<Place>, Declared), LoadError> {
    let (mut places, mut declared) = (Vec::new(), Declared::new());
    if let Some(models_dir) = &config.models_dir {
        let optional = config.enable_echo || !config.model_dirs.is_empty();
        (places, declared) = find(models_dir, &config.only, optional)?;
    }
    places.extend(config.model_dirs.iter().cloned().map(Place::of));
    Ok((places, declared))
}

impl Place {
    /// A directory that is named by itself.
    pub(crate) fn of(dir: PathBuf) -> Self {
        Self { dir, name: None, label: None, clashes_with: None }
    }

    /// Reads what the directory says about its model.
    ///
    /// # Errors
    /// Names the file that is missing or wrong.
    pub(crate) fn describe(&self) -> Result<Found, LoadError> {
        if let Some(other) = &self.clashes_with {
            let reason = match self.dir.parent() {
                Some(owner) if other.parent() != Some(owner) => {
                    format!("lies in {}, which is called as {} is, in other letters", owner.display(), other.display())
                }
                _ => format!("is called as {} is, in other letters", other.display()),
            };
            return Err(LoadError::new(&self.dir, reason));
        }
        let found = describe(&self.dir)?;
        match &self.name {
            Some(name) if found.described.name != *name => {
                let reason = format!("says it is {}, but lies where {name} would", found.described.name);
                Err(LoadError::new(&self.dir, reason))
            }
            _ => Ok(found),
        }
    }
}

/// An owner's directory.
pub(crate) struct Owner {
    pub(crate) dir: PathBuf,
    /// Another owner's that is called the same, in other letters.
    clashes_with: Option<PathBuf>,
}

/// The owners' directories in a directory of models, by name. One in which nothing lies is nobody's, and clashes with none.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn owners(models_dir: &Path) -> Result<Vec<Owner>, LoadError> {
    let mut dirs = directories(models_dir)?;
    dirs.retain(|dir| !is_empty(dir));
    let own = |dir: &Path| dir.file_name().unwrap_or_default().to_ascii_lowercase();
    let mut by_name: BTreeMap<_, Vec<&PathBuf>> = BTreeMap::new();
    dirs.iter().for_each(|dir| by_name.entry(own(dir)).or_default().push(dir));
    let another = |dir: &PathBuf| by_name[&own(dir)].iter().find(|other| **other != dir).map(|other| (*other).clone());
    Ok(dirs.iter().map(|dir| Owner { dir: dir.clone(), clashes_with: another(dir) }).collect())
}

impl Owner {
    /// Refuses one that is called as another is: which version is the default is declared in one directory.
    ///
    /// # Errors
    /// Names both.
    pub(crate) fn refuse_clash(&self) -> Result<(), LoadError> {
        let Some(other) = &self.clashes_with else { return Ok(()) };
        Err(LoadError::new(&self.dir, format!("is called as {} is, in other letters", other.display())))
    }
}

/// The `<owner>/<name>` and `<owner>/<name>@<label>` directories of an owner, whatever is in them, and what is declared there.
///
/// # Errors
/// When the directory cannot be read.
pub(crate) fn of_owner(owner: &Owner) -> Result<(Vec<Place>, Declared), LoadError> {
    let called = |dir: PathBuf| {
        let (name, label) = versions::called(&dir)?;
        Some(Place { dir, name: Some(name), label, clashes_with: owner.clashes_with.clone() })
    };
    let mut places: Vec<Place> = directories(&owner.dir)?.into_iter().filter_map(called).collect();
    places.sort_by(|one, other| (&one.name, &one.label).cmp(&(&other.name, &other.label)));
    for next in 1..places.len() {
        let [one, other] = &mut places[next - 1..=next] else { continue };
        if (&one.name, &one.label) == (&other.name, &other.label) {
            one.clashes_with = Some(other.dir.clone());
            other.clashes_with = Some(one.dir.clone());
        }
    }
    let mut declared = versions::declared(&owner.dir)?;
    if let Err(fault) = owner.refuse_clash() {
        declared.values_mut().for_each(|label| *label = Err(fault.clone()));
    }
    Ok((places, declared))
}

/// The versions in a directory of models, those of `only` unless it is empty, by name, and what is declared of them.
fn find(models_dir: &Path, only: &[ModelName], optional: bool) -> Result<(Vec<Place>, Declared), LoadError> {
    let (mut found, mut declared) = (Vec::new(), Declared::new());
    if optional && !models_dir.exists() {
        return Ok((found, declared));
    }
    for owner in owners(models_dir)? {
        let (places, of_owner) = match of_owner(&owner) {
            // It has gone since it was found.
            Err(_) if !owner.dir.exists() => continue,
            listed => listed?,
        };
        let is_asked_for = |name: &ModelName| only.is_empty() || only.contains(name);
        let is_model = |dir: &Path| {
            dir.join(MANIFEST).exists() || Plain::of(dir).is_some() || !matches!(generate::file(dir), Ok(None))
        };
        let asked_for = |place: &Place| place.name.as_ref().is_some_and(is_asked_for) && is_model(&place.dir);
        found.extend(places.into_iter().filter(asked_for));
        declared.extend(of_owner.into_iter().filter(|(name, _)| is_asked_for(name)));
    }
    if let Some(missing) = only.iter().find(|name| !found.iter().any(|place| place.name.as_ref() == Some(*name))) {
        return Err(LoadError::new(&models_dir.join(missing.as_str()), "no such model"));
    }
    Ok((found, declared))
}

/// Says which models lie where none is looked for.
pub(crate) fn warn_of_misplaced(models_dir: &Path) {
    for dir in directories(models_dir).into_iter().flatten().filter(|dir| dir.join(MANIFEST).exists()) {
        tracing::warn!(dir = %dir.display(), "not loaded: a model lies in <models>/<owner>/<name>, this one in <models>/<name>");
    }
    let within = directories(models_dir).into_iter().flatten().filter_map(|owner| directories(&owner).ok()).flatten();
    for dir in within.filter(|dir| dir.join(MANIFEST).exists() && versions::called(dir).is_none()) {
        tracing::warn!(dir = %dir.display(), "not loaded: that is no name of a model, nor one with a label behind an @");
    }
}

/// The directories in a directory, by name; what is hidden is being made, or nobody's model.
pub(crate) fn directories(dir: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let failed = |error: std::io::Error| LoadError::new(dir, format!("cannot be read: {error}"));
    let entries = fs::read_dir(dir).map_err(failed)?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect::<Result<Vec<_>, _>>()?;
    let mut directories: Vec<_> = paths.into_iter().filter(|path| path.is_dir() && !is_hidden(path)).collect();
    directories.sort();
    Ok(directories)
}

/// Whether nothing lies there but what is hidden.
fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|entries| entries.flatten().all(|entry| is_hidden(&entry.path())))
}

pub(crate) fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}
