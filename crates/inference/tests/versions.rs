//! Several versions of a model beside each other in one directory of models: all are served, and one is the default.

use std::{
    fs,
    path::{Path, PathBuf},
};

use inference::{Config, LoadError, Look, Models, survey, versions};
use prediction::{ModelName, Version};
use tempfile::TempDir;

const IRIS: &str = "augur/iris";

/// A directory of models.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn config(&self) -> Config {
        Config { models_dir: Some(self.0.path().to_owned()), ..Config::default() }
    }

    fn path(&self, own: &str) -> PathBuf {
        self.0.path().join("augur").join(own)
    }

    /// Puts the bundled flowers into a directory of this name, whole at once; each remark makes another version.
    fn put(&self, own: &str, remark: &str) {
        let (from, made) =
            (Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/augur/iris"), self.0.path().join(".made"));
        fs::create_dir_all(&made).expect("a directory");
        for file in ["model.toml", "input.schema.json", "output.schema.json", "model.safetensors"] {
            fs::copy(from.join(file), made.join(file)).expect("a copy");
        }
        let manifest = fs::read_to_string(made.join("model.toml")).expect("the manifest");
        fs::write(made.join("model.toml"), format!("# {remark}\n{manifest}")).expect("writes");
        fs::create_dir_all(self.0.path().join("augur")).expect("a directory");
        let _ = fs::remove_dir_all(self.path(own));
        fs::rename(made, self.path(own)).expect("moves");
    }

    fn declare(&self, said: &str) {
        fs::write(self.path("iris@default"), said).expect("writes");
    }

    /// The version in a directory.
    fn version(&self, own: &str) -> Version {
        inference::inspect(&self.path(own)).expect("it is sound").spec.version
    }
}

/// The version that the name alone means.
fn default(models: &Models) -> Option<Version> {
    let defaults: Vec<_> = models.offers().into_iter().filter(|offer| offer.is_default).collect();
    assert!(defaults.len() <= 1, "a name means one version: {defaults:?}");
    defaults.into_iter().next().map(|offer| offer.spec.version)
}

fn served(models: &Models) -> Vec<Version> {
    models.specs().into_iter().map(|spec| spec.version).collect()
}

fn iris() -> ModelName {
    IRIS.parse().expect("a name")
}

/// Looks until there is nothing left to load; whether anything changed.
fn look(models: &Models) -> bool {
    let mut changed = false;
    loop {
        let changes = models.look(Look::AtOnce);
        assert!(changes.faults.is_empty(), "{changes:?}");
        changed |= !changes.is_empty();
        if !changes.is_partial() {
            return changed;
        }
    }
}

#[test]
fn all_versions_are_served_and_the_one_without_a_label_is_the_default() {
    let home = Home::new();
    home.put("iris@new", "new");
    home.put("iris", "old");
    home.put("IRIS@Older", "older");
    let models = Models::load(&home.config()).expect("they load");
    assert_eq!(served(&models).len(), 3);
    assert_eq!(default(&models), Some(home.version("iris")));
    for own in ["iris", "iris@new", "IRIS@Older"] {
        assert!(models.get(&iris(), &home.version(own)).is_some(), "{own}");
    }
    assert!(!look(&models), "nothing has changed");

    let listed = survey(home.0.path()).expect("a list");
    let of = |label: Option<&str>| label.map(str::to_owned);
    let listed: Vec<_> =
        listed.iter().map(|listed| (listed.label.as_ref().map(ToString::to_string), listed.is_default)).collect();
    assert_eq!(listed, [(of(None), true), (of(Some("new")), false), (of(Some("older")), false)]);
}

#[test]
fn another_default_is_declared_while_they_run_and_one_that_is_gone_is_retired() {
    let home = Home::new();
    home.put("iris", "old");
    let models = Models::load(&home.config()).expect("it loads");
    let old = home.version("iris");
    home.put("iris@new", "new");
    assert!(look(&models));
    assert_eq!((served(&models).len(), default(&models)), (2, Some(old.clone())), "a new one is not the default");

    home.declare("new\n");
    let changes = models.look(Look::AtOnce);
    assert_eq!(changes.defaults.into_iter().collect::<Vec<_>>(), [iris()]);
    assert!(changes.served.is_empty() && changes.retired.is_empty());
    let new = home.version("iris@new");
    assert_eq!((served(&models).len(), default(&models)), (2, Some(new.clone())));

    // What the label names changes; the default follows it as soon as it is loaded.
    home.put("iris@new", "newer");
    assert!(look(&models));
    assert_eq!(default(&models), Some(home.version("iris@new")));
    assert_eq!(models.retired(), [(iris(), new)]);

    fs::remove_file(home.path("iris@default")).expect("removes");
    assert!(look(&models));
    assert_eq!(default(&models), Some(old));

    let newer = home.version("iris@new");
    fs::remove_dir_all(home.path("iris@new")).expect("removes");
    assert!(look(&models));
    assert_eq!(served(&models), [home.version("iris")]);
    assert!(models.get(&iris(), &newer).is_some(), "what was accepted for it is finished");
    models.unload(&iris(), &newer);
    assert!(models.get(&iris(), &newer).is_none());
}

#[test]
fn a_declaration_that_leads_nowhere_changes_nothing_but_the_log() {
    let home = Home::new();
    home.put("iris", "old");
    home.put("iris@new", "new");
    home.declare("new");
    let models = Models::load(&home.config()).expect("they load");
    let new = home.version("iris@new");
    for said in ["absent", "../../iris", "", "default"] {
        home.declare(said);
        let changes = models.look(Look::AtOnce);
        assert!(changes.is_empty() && changes.faults.len() == 1, "{said}: {changes:?}");
        assert_eq!(changes.faults[0].path, home.path("iris@default"));
        let again = models.look(Look::Settled);
        assert!(again.is_empty() && again.faults.is_empty(), "it is told once: {again:?}");
        assert_eq!(default(&models), Some(new.clone()), "{said}");
        let error = Models::load(&home.config()).err().expect("at the start it is an error");
        assert_eq!(error.path, home.path("iris@default"));
    }
    // Half written, it is not told of.
    home.declare("new");
    assert!(!look(&models));
    home.declare("");
    assert!(models.look(Look::Settled).faults.is_empty());
    home.declare("new");
    assert!(models.look(Look::Settled).faults.is_empty());

    // Its version goes, and no other takes its place.
    fs::remove_dir_all(home.path("iris@new")).expect("removes");
    let changes = models.look(Look::AtOnce);
    assert_eq!((changes.retired, changes.faults.len()), (vec![(iris(), new)], 1));
    assert_eq!((served(&models), default(&models)), (vec![home.version("iris")], None));
}

#[test]
fn what_shall_be_the_default_is_not_before_it_is_loaded() {
    let home = Home::new();
    home.put("iris", "old");
    let models = Models::load(&home.config()).expect("it loads");
    fs::create_dir(home.path("iris@new")).expect("makes a directory");
    home.declare("new");
    models.look(Look::AtOnce);
    assert_eq!(default(&models), Some(home.version("iris")), "its files are still to come");
    fs::remove_dir(home.path("iris@new")).expect("is empty");
    home.put("iris@new", "new");
    let weights = home.path("iris@new").join("model.safetensors");
    let sound = fs::read(&weights).expect("weights");
    fs::write(&weights, "no weights").expect("writes");
    home.declare("new");
    let changes = models.look(Look::AtOnce);
    assert!(changes.is_empty() && changes.faults.len() == 1, "{changes:?}");
    assert_eq!(default(&models), Some(home.version("iris")));
    fs::write(&weights, sound).expect("writes");
    assert!(look(&models));
    assert_eq!(default(&models), Some(home.version("iris@new")));
}

#[test]
fn labels_without_a_declaration_make_no_default() {
    let home = Home::new();
    home.put("iris@a", "a");
    home.put("iris@b", "b");
    let models = Models::load(&home.config()).expect("they load");
    assert_eq!((served(&models).len(), default(&models)), (2, None));
    home.declare("b");
    assert!(look(&models));
    assert_eq!(default(&models), Some(home.version("iris@b")));

    // Of directories that are named by themselves, the first is; what a directory of models declares goes before.
    let named = |own: [&str; 2]| own.map(|own| home.path(own)).to_vec();
    for own in [["iris@a", "iris@b"], ["iris@b", "iris@a"]] {
        let models = Models::load(&Config { model_dirs: named(own), ..Config::default() }).expect("they load");
        assert_eq!((served(&models).len(), default(&models)), (2, Some(home.version(own[0]))), "{own:?}");
    }
    let other = Home::new();
    other.put("iris", "other");
    let models = Models::load(&Config { model_dirs: named(["iris@a", "iris@b"]), ..other.config() });
    assert_eq!(default(&models.expect("they load")), Some(other.version("iris")));
}

#[test]
fn the_same_content_is_the_same_version_whatever_it_is_called() {
    let home = Home::new();
    home.put("iris", "same");
    home.put("iris@stable", "same");
    let bytes = inference::inspect(&home.path("iris")).expect("it is sound").weight_bytes;
    let models = Models::load(&Config { memory: Some(bytes), ..home.config() }).expect("it takes its memory once");
    assert_eq!(served(&models), [home.version("iris")]);
    fs::remove_dir_all(home.path("iris")).expect("removes");
    let changes = models.look(Look::AtOnce);
    assert!(changes.served.is_empty() && changes.retired.is_empty(), "{changes:?}");
    assert_eq!(default(&models), None, "the label was not declared");
    home.declare("stable");
    assert!(look(&models));
    assert_eq!(default(&models), Some(home.version("iris@stable")));
}

#[test]
fn two_directories_that_are_called_the_same_are_refused() {
    let home = Home::new();
    home.put("iris", "old");
    home.put("iris@new", "one");
    let models = Models::load(&home.config()).expect("they load");
    let before = served(&models);
    home.put("iris@NEW", "another");
    let changes = models.look(Look::AtOnce);
    assert!(changes.is_empty() && changes.faults.len() == 1, "{changes:?}");
    assert!(changes.faults[0].reason.contains("in other letters"), "{changes:?}");
    assert_eq!(served(&models), before);
    let error = Models::load(&home.config()).err().expect("at the start it is an error");
    assert!(error.reason.contains("iris@") && error.reason.contains("in other letters"), "{error}");
    let broken = survey(home.0.path()).expect("a list").into_iter().filter(|listed| listed.found.is_err()).count();
    assert_eq!(broken, 2);
}

#[test]
fn two_owners_that_are_called_the_same_are_refused() {
    let home = Home::new();
    home.put("iris", "old");
    home.put("iris@new", "new");
    let models = Models::load(&home.config()).expect("they load");
    let (before, old) = (served(&models), home.version("iris"));
    fs::create_dir_all(home.0.path().join("AUGUR/.made")).expect("makes a directory");
    let changes = models.look(Look::AtOnce);
    assert!(changes.is_empty() && changes.faults.is_empty(), "one with nothing in it is nobody's: {changes:?}");
    assert_eq!(versions(home.0.path(), &iris()).expect("one owner has it").all.len(), 2);
    let other = Home::new();
    other.put("iris@newer", "newer");
    other.declare("newer");
    fs::rename(other.0.path().join("augur"), home.0.path().join("Augur")).expect("moves");
    let (one, another) = (home.0.path().join("Augur"), home.0.path().join("augur"));
    let names_both = |error: &LoadError| {
        let text = error.to_string();
        [&one, &another].iter().all(|dir| text.contains(&*dir.to_string_lossy())) && text.contains("in other letters")
    };
    let changes = models.look(Look::AtOnce);
    assert!(changes.is_empty() && changes.faults.len() == 2 && changes.faults.iter().all(names_both), "{changes:?}");
    assert_eq!((served(&models), default(&models)), (before, Some(old)), "what runs stays as it is");
    let error = Models::load(&home.config()).err().expect("at the start it is an error");
    assert!(names_both(&error), "{error}");
    let error = versions(home.0.path(), &iris()).expect_err("which of both?");
    assert!(names_both(&error), "{error}");
    let listed = survey(home.0.path()).expect("a list");
    let faults: Vec<_> = listed.iter().filter_map(|listed| listed.found.as_ref().err()).collect();
    assert!(listed.len() == 4 && faults.len() == 4 && faults.into_iter().all(names_both), "{listed:?}");
    fs::remove_file(one.join("iris@default")).expect("removes");
    let error = Models::load(&home.config()).err().expect("whatever is declared");
    assert!(names_both(&error), "{error}");
}

#[test]
fn memory_counts_every_version() {
    let home = Home::new();
    home.put("iris", "old");
    let bytes = inference::inspect(&home.path("iris")).expect("it is sound").weight_bytes;
    let config = Config { memory: Some(2 * bytes), ..home.config() };
    let models = Models::load(&config).expect("there is room");
    home.put("iris@a", "a");
    home.put("iris@b", "b");
    home.declare("b");
    assert_eq!(models.look(Look::AtOnce).served.len(), 1);
    let changes = models.look(Look::AtOnce);
    assert!(changes.is_empty() && changes.faults[0].path == home.path("iris@b"), "{changes:?}");
    assert!(changes.faults[0].reason.contains("--models-memory"), "{changes:?}");
    assert_eq!(default(&models), Some(home.version("iris")), "it stays what it was");
    let away = (iris(), home.version("iris@a"));
    fs::remove_dir_all(home.path("iris@a")).expect("removes");
    assert_eq!(models.look(Look::AtOnce).retired.len(), 1);
    models.unload(&away.0, &away.1);
    assert!(look(&models));
    assert_eq!(default(&models), Some(home.version("iris@b")));
}
