//! Where a version of a model lies in a directory of models, or would.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use inference::{Beside, Versions, directory_name, versions};
use prediction::{Label, ModelName};
use settings::{Fatal, ModelVersion, Which};
use tokio::task::spawn_blocking;

use super::described;

/// A model's name, and what sets the version apart from others of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) name: ModelName,
    pub(crate) label: Option<Label>,
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name.owner(), directory_name(&self.name, self.label.as_ref()))
    }
}

impl Slot {
    /// Its directory: names are in lower case, but directories need not be.
    pub(crate) fn place(&self, models_dir: &Path) -> PathBuf {
        inside(&inside(models_dir, self.name.owner()), &directory_name(&self.name, self.label.as_ref()))
    }
}

/// The entry of a directory that is called so, in whatever letters; in these when there is none.
pub(crate) fn inside(dir: &Path, part: &str) -> PathBuf {
    let exact = dir.join(part);
    let mut entries = fs::read_dir(dir).into_iter().flatten().flatten();
    match entries.find(|entry| !exact.exists() && entry.file_name().eq_ignore_ascii_case(part)) {
        Some(entry) => entry.path(),
        None => exact,
    }
}

/// The version that is asked for, which is there.
///
/// # Errors
/// When there is none, and when it is not clear which.
pub(crate) async fn existing(models_dir: &Path, asked: &ModelVersion) -> Result<Beside, Fatal> {
    let (dir, name) = (models_dir.to_owned(), asked.name.clone());
    let listed = spawn_blocking(move || if dir.exists() { versions(&dir, &name) } else { Ok(Versions::default()) });
    let Versions { all, fault } = listed.await??;
    if all.is_empty() {
        return Err(Fatal::new(format!(
            "there is no model {} in {}; `augur models ls` lists those that are",
            asked.name,
            models_dir.display()
        )));
    }
    let one = |is_it: &dyn Fn(&Beside) -> bool| all.iter().find(|version| is_it(version)).cloned();
    let found = match &asked.which {
        Which::Default => match (one(&|version| version.is_default), fault) {
            (None, Some(fault)) => return Err(fault.into()),
            (found, _) => found,
        },
        Which::Labelled(label) => one(&|version| version.label.as_ref() == Some(label)),
        Which::Digits(digits) => named_by(&all, digits).await?,
    };
    found.ok_or_else(|| {
        let slot = |version: &Beside| Slot { name: asked.name.clone(), label: version.label.clone() }.to_string();
        let all = all.iter().map(slot).collect::<Vec<_>>().join(", ");
        let what = match asked.which {
            Which::Default => format!("{} has no default version", asked.name),
            Which::Labelled(_) | Which::Digits(_) => format!("there is no {asked}"),
        };
        Fatal::new(format!("{what} in {}, but {all}; `augur models ls` shows them", models_dir.display()))
    })
}

/// The version whose digest begins so. Those that are broken have none.
async fn named_by(all: &[Beside], digits: &str) -> Result<Option<Beside>, Fatal> {
    let mut found: Option<(Beside, prediction::Version)> = None;
    for beside in all {
        let Ok(description) = described(&beside.dir).await else { continue };
        let version = description.spec.version;
        if !version.is_named_by(digits) {
            continue;
        }
        match &found {
            Some((_, first)) if *first != version => {
                return Err(Fatal::new(format!("{digits} begins more than one version; give more digits")));
            }
            Some(_) => {}
            None => found = Some((beside.clone(), version)),
        }
    }
    Ok(found.map(|(beside, _)| beside))
}
