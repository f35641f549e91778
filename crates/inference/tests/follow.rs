//! What is served follows the directories: new, changed, broken and removed models, and the memory that they may take.

use std::{
    fs,
    path::{Path, PathBuf},
};

use inference::{Abandon, Config, Look, Models};
use prediction::{ModelName, Version};
use serde_json::{json, value::to_raw_value};
use tempfile::TempDir;

/// Models in directories of a test's own.
struct Home {
    dir: TempDir,
}

impl Home {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory") }
    }

    fn config(&self) -> Config {
        Config { models_dir: Some(self.dir.path().to_owned()), ..Config::default() }
    }

    fn path(&self, model: &str) -> PathBuf {
        self.dir.path().join("augur").join(model)
    }

    /// Puts a bundled model there, whole at once, as models are installed.
    fn put(&self, model: &str) {
        let (from, made) =
            (Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/augur"), self.dir.path().join("made"));
        fs::create_dir_all(&made).expect("a directory");
        for file in ["model.toml", "input.schema.json", "output.schema.json", "model.safetensors"] {
            fs::copy(from.join(model).join(file), made.join(file)).expect("a copy");
        }
        fs::create_dir_all(self.path(model).parent().expect("a parent")).expect("a directory");
        fs::rename(made, self.path(model)).expect("moves");
    }

    /// Another version: the manifest is part of it.
    fn change(&self, model: &str) {
        let manifest = self.path(model).join("model.toml");
        let text = fs::read_to_string(&manifest).expect("the manifest");
        fs::write(manifest, text + "\n# changed\n").expect("writes");
    }
}

fn names(of: &[(ModelName, Version)]) -> Vec<&str> {
    of.iter().map(|(name, _)| name.as_str()).collect()
}

fn served(models: &Models) -> Vec<(ModelName, Version)> {
    models.specs().into_iter().map(|spec| (spec.name, spec.version)).collect()
}

#[tokio::test]
async fn a_new_model_is_served_and_a_removed_one_is_retired_until_it_is_unloaded() {
    let home = Home::new();
    home.put("iris");
    let models = Models::load(&home.config()).expect("it loads");
    assert!(models.look(Look::AtOnce).is_empty(), "nothing has changed");

    home.put("digits");
    let changes = models.look(Look::AtOnce);
    assert_eq!((names(&changes.served), changes.retired.len()), (vec!["augur/digits"], 0));
    assert_eq!(names(&served(&models)), ["augur/digits", "augur/iris"]);

    fs::remove_dir_all(home.path("iris")).expect("removes");
    let changes = models.look(Look::AtOnce);
    assert_eq!((changes.served.len(), names(&changes.retired)), (0, vec!["augur/iris"]));
    assert_eq!(
        (names(&served(&models)), names(&models.runnable())),
        (vec!["augur/digits"], vec!["augur/digits", "augur/iris"])
    );
    let (name, version) = &changes.retired[0];
    let flower = json!({"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2});
    let model = models.get(name, version).expect("what was accepted is still to be run");
    models.unload(name, version);
    assert!(models.get(name, version).is_none() && models.retired().is_empty());
    let run = model.predict(&to_raw_value(&flower).expect("JSON"), Abandon::default()).await;
    assert!(run.expect("who holds it can run it").value.get().contains("setosa"));

    let (name, version) = served(&models).remove(0);
    models.unload(&name, &version);
    assert!(models.get(&name, &version).is_some(), "what is served is not unloaded");
}

#[test]
fn another_version_replaces_the_one_before_and_may_come_back() {
    let home = Home::new();
    home.put("iris");
    let models = Models::load(&home.config()).expect("it loads");
    let first = served(&models);
    let original = fs::read(home.path("iris").join("model.toml")).expect("the manifest");

    home.change("iris");
    let changes = models.look(Look::AtOnce);
    assert_eq!(changes.retired, first);
    assert_eq!(changes.served, served(&models));
    assert_ne!(served(&models), first);
    assert_eq!(models.runnable().len(), 2, "both can be run");

    let second = served(&models);
    fs::write(home.path("iris").join("model.toml"), original).expect("writes");
    let changes = models.look(Look::AtOnce);
    assert_eq!((changes.served, changes.retired), (first.clone(), second));
    assert_eq!(served(&models), first);

    // Files that no version is made of change nothing.
    fs::write(home.path("iris").join("notes.txt"), "").expect("writes");
    assert!(models.look(Look::AtOnce).is_empty());
}

#[test]
fn what_is_being_written_is_left_until_it_stays_as_it_is() {
    let home = Home::new();
    home.put("iris");
    let models = Models::load(&home.config()).expect("it loads");
    home.put("digits");
    assert!(models.look(Look::Settled).is_empty(), "seen for the first time");
    home.change("digits");
    assert!(models.look(Look::Settled).is_empty(), "changed since");
    assert_eq!(names(&models.look(Look::Settled).served), ["augur/digits"]);
    assert!(models.look(Look::Settled).is_empty());

    fs::remove_dir_all(home.path("digits")).expect("removes");
    assert!(models.look(Look::Settled).is_empty(), "it may be gone for a moment");
    assert_eq!(names(&models.look(Look::Settled).retired), ["augur/digits"]);
}

#[test]
fn what_is_broken_is_told_once_and_leaves_what_ran() {
    let home = Home::new();
    ["iris", "digits"].iter().for_each(|model| home.put(model));
    let models = Models::load(&home.config()).expect("they load");
    let before = served(&models);
    let breaks: [&dyn Fn(); 4] = [
        &|| fs::write(home.path("iris").join("model.safetensors"), "no weights").expect("writes"),
        &|| fs::write(home.path("iris").join("model.toml"), "no manifest").expect("writes"),
        &|| fs::remove_file(home.path("iris").join("model.toml")).expect("removes"),
        &|| fs::rename(home.dir.path(), home.dir.path().with_extension("away")).expect("moves"),
    ];
    for (number, damage) in breaks.iter().enumerate() {
        damage();
        let changes = models.look(Look::AtOnce);
        assert!(changes.is_empty() && changes.faults.len() == 1, "{number}: {changes:?}");
        let again = models.look(Look::Settled);
        assert!(again.is_empty() && again.faults.is_empty(), "{number}: {again:?}");
        assert_eq!(served(&models), before, "{number}");
    }
    fs::rename(home.dir.path().with_extension("away"), home.dir.path()).expect("moves");
    fs::remove_dir_all(home.path("iris")).expect("removes");
    home.put("iris");
    home.change("iris");
    let changes = models.look(Look::AtOnce);
    assert_eq!((names(&changes.served), names(&changes.retired)), (vec!["augur/iris"], vec!["augur/iris"]));
}

#[test]
fn what_is_loaded_does_not_wait_for_what_is_left() {
    let home = Home::new();
    home.put("iris");
    let models = Models::load(&Config { enable_echo: true, ..home.config() }).expect("it loads");
    fs::remove_dir_all(home.path("iris")).expect("removes");
    ["iris", "digits"].iter().for_each(|model| home.put(model));
    ["iris", "digits"].iter().for_each(|model| home.change(model));
    let first = models.look(Look::AtOnce);
    assert_eq!((names(&first.served), first.is_partial()), (vec!["augur/digits"], true));
    let second = models.look(Look::AtOnce);
    assert_eq!((names(&second.served), second.is_partial()), (vec!["augur/iris"], true));
    let third = models.look(Look::AtOnce);
    assert!(third.is_empty() && !third.is_partial(), "{third:?}");
}

#[test]
fn what_could_not_be_looked_at_is_looked_at_again_when_somebody_says_so() {
    let home = Home::new();
    home.put("iris");
    let models = Models::load(&Config { enable_echo: true, ..home.config() }).expect("it loads");
    // Nobody can enter it, not even root.
    fs::rename(home.path("iris"), home.dir.path().join(".away")).expect("moves");
    std::os::unix::fs::symlink(home.path("iris"), home.path("iris")).expect("a link to itself");
    for look in [Look::AtOnce, Look::AtOnce] {
        let changes = models.look(look);
        assert!(changes.is_empty() && changes.faults.len() == 1, "{changes:?}");
    }
    let changes = models.look(Look::Settled);
    assert!(changes.is_empty() && changes.faults.is_empty(), "{changes:?}");
    assert!(names(&served(&models)).contains(&"augur/iris"));
}

#[test]
fn a_model_that_memory_has_no_room_for_is_refused_and_others_stay() {
    let home = Home::new();
    home.put("iris");
    let small = inference::inspect(&home.path("iris")).expect("it is sound").weight_bytes;
    let config = Config { memory: Some(small + 1000), ..home.config() };
    let models = Models::load(&config).expect("there is room for one");
    let before = served(&models);
    home.put("digits");
    let changes = models.look(Look::AtOnce);
    assert!(changes.is_empty() && changes.faults[0].path == home.path("digits"), "{changes:?}");
    let large = inference::inspect(&home.path("digits")).expect("it is sound").weight_bytes;
    let said = format!("take {large} bytes of memory, but models may take {} in all", small + 1000);
    assert!(changes.faults[0].reason.contains(&said), "{changes:?}");
    assert_eq!(served(&models), before);
    let error = Models::load(&config).err().expect("at the start it is an error");
    assert!(error.reason.contains("--models-memory"), "{error}");

    // Room that an unloaded model leaves is room, also for what had none before.
    let models =
        Models::load(&Config { memory: Some(small + large), ..home.config() }).expect("there is room for both");
    home.change("iris");
    assert_eq!(models.look(Look::AtOnce).faults.len(), 1, "the old version is still there");
    fs::remove_dir_all(home.path("digits")).expect("removes");
    let retired = models.look(Look::AtOnce).retired.remove(0);
    assert!(models.look(Look::AtOnce).is_empty(), "what is retired takes room");
    models.unload(&retired.0, &retired.1);
    assert_eq!(names(&models.look(Look::AtOnce).served), ["augur/iris"]);
}
