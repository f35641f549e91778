//! Versions of one model beside each other: `<owner>/<name>/` and `<owner>/<name>@<label>/`, as directories are called; and which of
//! them the name alone means: the one without a label, unless the file `<owner>/<name>@default` has the label of another.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use prediction::{Label, ModelName};

use crate::{
    LoadError,
    manifest::read_text,
    places::{Place, directories, of_owner, owners},
};

/// Between a model's name and a label, and before what says which version is the default.
const AT: char = '@';

/// The versions of a model that lie in a directory of models, sound or not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Versions {
    /// The one without a label first.
    pub all: Vec<Beside>,
    /// What is wrong with the file that says which version is the default.
    pub fault: Option<LoadError>,
}

/// One version of a model, where several may lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beside {
    /// Its directory.
    pub dir: PathBuf,
    /// What sets it apart from the others.
    pub label: Option<Label>,
    /// Whether the name alone means it.
    pub is_default: bool,
}

/// What the files of an owner say of default versions, by model.
pub(crate) type Declared = BTreeMap<ModelName, Result<Label, LoadError>>;

/// Names of directories, as models have them and with the labels that they end in.
pub(crate) fn split(own: &str) -> Option<(&str, Option<Label>)> {
    match own.split_once(AT) {
        None => Some((own, None)),
        Some((name, label)) => Some((name, Some(label.parse().ok()?))),
    }
}

/// What a directory is called, by its last two parts.
pub(crate) fn called(dir: &Path) -> Option<(ModelName, Option<Label>)> {
    let dir = std::path::absolute(dir).ok()?;
    let owner = dir.parent()?.file_name()?.to_str()?;
    let (name, label) = split(dir.file_name()?.to_str()?)?;
    Some((format!("{owner}/{name}").parse().ok()?, label))
}

/// What the directory of a version is called within its owner's: `name`, or `name@label`.
#[must_use]
pub fn directory_name(name: &ModelName, label: Option<&Label>) -> String {
    label.map_or_else(|| name.name().to_owned(), |label| format!("{}{AT}{label}", name.name()))
}

/// What the file is called that says which version is the default, within the owner's directory.
#[must_use]
pub fn default_file_name(name: &ModelName) -> String {
    format!("{}{AT}{}", name.name(), Label::DEFAULT)
}

/// Writes or, for the version without a label, removes the file that says which version is the default; in one step.
///
/// # Errors
/// When that is not possible.
pub fn write_default(file: &Path, label: Option<&Label>) -> io::Result<()> {
    let owner = file.parent().unwrap_or(Path::new("."));
    match label {
        Some(label) => {
            let own = file.file_name().unwrap_or_default().to_string_lossy();
            let draft = owner.join(format!(".{own}-{}", std::process::id()));
            let written = File::create(&draft).and_then(|mut draft| {
                writeln!(draft, "{label}")?;
                draft.sync_all()
            });
            written.and_then(|()| fs::rename(&draft, file)).inspect_err(|_| drop(fs::remove_file(&draft)))?;
        }
        None => match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        },
    }
    File::open(owner)?.sync_all()
}

/// What an owner's directory says of default versions: of each model that has a file for it, the label of a directory that is there.
pub(crate) fn declared(owner: &Path) -> Result<Declared, LoadError> {
    let failed = |error: io::Error| LoadError::new(owner, format!("cannot be read: {error}"));
    let mut declared = Declared::new();
    let mut labels = None;
    for entry in fs::read_dir(owner).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let Some(name) = declares(&path) else { continue };
        let labels = match &mut labels {
            Some(labels) => labels,
            none => none.insert(labels_in(owner)?),
        };
        let label = match declared.contains_key(&name) {
            true => Err(LoadError::new(&path, "says what another file says, which is called so in other letters")),
            false => read(&path).and_then(|label| match labels.contains(&(name.clone(), label.clone())) {
                true => Ok(label),
                false => {
                    let missing = directory_name(&name, Some(&label));
                    Err(LoadError::new(&path, format!("says {label}, but there is no directory {missing} beside it")))
                }
            }),
        };
        declared.insert(name, label);
    }
    Ok(declared)
}

/// Whether a model's name alone means the version with this label, or without one; that cannot be told where what is declared is wrong.
pub(crate) fn is_default(declared: &Declared, name: &ModelName, label: Option<&Label>) -> bool {
    match declared.get(name) {
        Some(declared) => declared.as_ref().is_ok_and(|default| label == Some(default)),
        None => label.is_none(),
    }
}

/// The model whose default version a file's name says that it declares.
fn declares(path: &Path) -> Option<ModelName> {
    let owner = path.parent()?.file_name()?.to_str()?;
    let (name, default) = path.file_name()?.to_str()?.split_once(AT)?;
    let is_declaration = default.eq_ignore_ascii_case(Label::DEFAULT);
    is_declaration.then(|| format!("{owner}/{name}").parse().ok()).flatten()
}

fn labels_in(owner: &Path) -> Result<BTreeSet<(ModelName, Label)>, LoadError> {
    let called = directories(owner)?.into_iter().filter_map(|dir| called(&dir));
    Ok(called.filter_map(|(name, label)| Some((name, label?))).collect())
}

fn read(path: &Path) -> Result<Label, LoadError> {
    if !path.is_file() {
        return Err(LoadError::new(path, "no file; one is called so that has the label of the default version"));
    }
    let text = read_text(path)?;
    text.trim().parse().map_err(|error| {
        let said: String = text.trim().chars().take(80).collect();
        LoadError::new(path, format!("says {said:?}, and {error}"))
    })
}

/// The versions of a model in a directory of models.
///
/// # Errors
/// When a directory cannot be read, and when the owner has two that are called the same, in other letters.
pub fn versions(models_dir: &Path, name: &ModelName) -> Result<Versions, LoadError> {
    let mut found = Versions::default();
    for owner in owners(models_dir)? {
        let is_owner = owner.dir.file_name().is_some_and(|own| own.eq_ignore_ascii_case(name.owner()));
        if !is_owner {
            continue;
        }
        owner.refuse_clash()?;
        let (places, mut declared) = of_owner(&owner)?;
        for Place { dir, label, .. } in places.into_iter().filter(|place| place.name.as_ref() == Some(name)) {
            let is_default = is_default(&declared, name, label.as_ref());
            found.all.push(Beside { dir, label, is_default });
        }
        if let Some(Err(fault)) = declared.remove(name) {
            found.fault = Some(fault);
        }
    }
    found.all.sort_by(|one, other| one.label.cmp(&other.label));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(directories: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let home = tempfile::tempdir().expect("a temporary directory");
        let owner = home.path().join("org");
        directories.iter().for_each(|dir| fs::create_dir_all(owner.join(dir)).expect("a directory"));
        (home, owner)
    }

    fn name() -> ModelName {
        "org/model".parse().expect("a name")
    }

    #[test]
    fn directories_are_called_by_name_and_label() {
        let label = |text: &str| Some(text.parse::<Label>().expect("a label"));
        for (dir, expected) in [
            ("org/Model", Some(("org/model", None))),
            ("org/model@INT8", Some(("org/model", label("int8")))),
            ("org/model@", None),
            ("org/model@default", None),
            ("org/model@a@b", None),
            ("org/model@a b", None),
            ("org/@int8", None),
        ] {
            let called = called(Path::new(dir));
            let called = called.as_ref().map(|(name, label)| (name.as_str(), label.clone()));
            assert_eq!(called, expected, "{dir}");
        }
        assert_eq!(directory_name(&name(), label("int8").as_ref()), "model@int8");
        assert_eq!(
            (directory_name(&name(), None), default_file_name(&name())),
            ("model".into(), "model@default".into())
        );
    }

    #[test]
    fn the_default_is_the_one_without_a_label_unless_another_is_declared() {
        let (home, owner) = home(&["model@int8", "Model", "other", "model@bf16"]);
        let listed = || {
            let found = versions(home.path(), &name()).expect("they are listed").all;
            let of = |found: Beside| (found.label.map(|label| label.to_string()), found.is_default);
            found.into_iter().map(of).collect::<Vec<_>>()
        };
        let expected = |default: Option<&str>| {
            [None, Some("bf16"), Some("int8")].map(|label| (label.map(str::to_owned), label == default)).to_vec()
        };
        assert_eq!(listed(), expected(None));
        let file = owner.join(default_file_name(&name()));
        write_default(&file, "int8".parse().ok().as_ref()).expect("it is written");
        assert_eq!(listed(), expected(Some("int8")));
        fs::write(&file, " BF16\n").expect("writes");
        assert_eq!(listed(), expected(Some("bf16")), "as people write it");
        write_default(&file, None).expect("it is removed");
        write_default(&file, None).expect("it is not there");
        assert_eq!(listed(), expected(None));
        assert_eq!(fs::read_dir(&owner).expect("a list").count(), 4, "nothing is left over");
    }

    #[test]
    fn declarations_that_lead_nowhere_are_refused() {
        let (home, owner) = home(&["model", "model@int8", "other@int4"]);
        let file = owner.join("model@default");
        for (said, part) in [
            ("int4", "says int4, but there is no directory model@int4"),
            ("", "says \"\", and a label is"),
            ("../../etc", "says \"../../etc\", and a label is"),
            ("default", "no version has the label \"default\""),
            ("int8\nbf16", "and a label is"),
            (&"x".repeat(2 << 20), "longer than"),
        ] {
            fs::write(&file, said).expect("writes");
            let Versions { all, fault } = versions(home.path(), &name()).expect("they are listed");
            assert!(all.len() == 2 && all.iter().all(|version| !version.is_default), "{all:?}");
            let error = fault.expect(part);
            assert!(error.path == file && error.reason.contains(part), "{error}");
            assert_eq!(declared(&owner).expect("a list").len(), 1);
        }
        fs::remove_file(&file).expect("removes");
        fs::create_dir(&file).expect("a directory");
        let fault = || versions(home.path(), &name()).expect("they are listed").fault.expect("a fault");
        assert!(fault().reason.starts_with("no file"));
        fs::remove_dir(&file).expect("removes");
        ["model@default", "MODEL@Default"].iter().for_each(|file| fs::write(owner.join(file), "int8").expect("writes"));
        assert!(fault().reason.contains("in other letters"), "{}", fault());
    }
}
