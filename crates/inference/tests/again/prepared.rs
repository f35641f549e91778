//! What was found out and packed when a model was brought into a directory of models: those who serve that believe it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use inference::{Config, Look, Models, prepared, remember_moved};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{false_digest, fetched, outputs, served, settled};

/// A directory of models with one that was just brought there, and what it says of each text.
struct Brought {
    home: TempDir,
    truth: Vec<String>,
}

impl Brought {
    async fn new() -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let [staged, target] = [".add/owner/encoder", "owner/encoder"].map(|dir| home.path().join(dir));
        copy(&fetched::dir(), &staged);
        let (model_dirs, digests) = (vec![staged.clone()], Some(prepared(home.path())));
        let config = Config { model_dirs, digests, is_fresh: true, ..Config::default() };
        let models = Models::load(&config).expect("the model loads");
        assert!(models.look(Look::AtOnce).is_empty());
        let truth = outputs(&models).await;
        let from = fs::canonicalize(&staged).expect("is there");
        fs::create_dir_all(target.parent().expect("an owner")).expect("a directory");
        fs::rename(staged, &target).expect("moves");
        remember_moved(&prepared(home.path()), &from, &target).expect("is remembered");
        Self { home, truth }
    }

    fn config(&self) -> Config {
        let models_dir = self.home.path();
        Config { models_dir: Some(models_dir.to_owned()), prepared: Some(prepared(models_dir)), ..Config::default() }
    }

    fn start(&self) -> Models {
        Models::load(&self.config()).expect("the model loads")
    }

    /// Has another digest be remembered; the version that it makes.
    fn falsify(&self) -> String {
        let ((digest, version), mut remembered) = (false_digest(), self.remembered());
        for entry in remembered.as_object_mut().expect("files").values_mut() {
            (entry["sha256"], entry["version"]) = (json!(digest), json!(version));
        }
        fs::write(prepared(self.home.path()), remembered.to_string()).expect("writes");
        version
    }

    /// Has its packed weights be something else.
    fn spoil_packed(&self) -> PathBuf {
        let packed = prepared(self.home.path()).with_extension("json.packed");
        let files: Vec<_> =
            fs::read_dir(packed).expect("is there").map(|entry| entry.expect("an entry").path()).collect();
        let [file] = &files[..] else { panic!("{files:?}") };
        let mut bytes = fs::read(file).expect("reads");
        let middle = bytes.len() / 2;
        bytes[middle..middle + 4096].fill(0);
        fs::write(file, bytes).expect("writes");
        file.clone()
    }

    fn remembered(&self) -> Value {
        serde_json::from_slice(&fs::read(prepared(self.home.path())).expect("there are digests")).expect("JSON")
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let (path, to) = entry.map(|entry| (entry.path(), to.join(entry.file_name()))).expect("an entry");
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(path, to).map(drop).expect("a copy");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_believed_and_checked_while_the_model_is_served() {
    let brought = Brought::new().await;
    let own = brought.home.path().join("own.json");
    let models = Models::load(&Config { digests: Some(own.clone()), ..brought.config() }).expect("the model loads");
    let truth = served(&models);
    assert_eq!(outputs(&models).await, brought.truth);
    assert!(models.look(Look::AtOnce).is_empty());
    assert_eq!(outputs(&models).await, brought.truth);
    assert!(!own.exists() && !own.with_extension("json.packed").exists(), "what is there is not written again");

    // What was there before, as a server remembers it.
    let mut before = brought.remembered();
    let entries = before.as_object_mut().expect("files");
    assert_eq!(entries.len(), 1, "the weights are remembered where they lie now");
    entries.values_mut().for_each(|entry| entry["identity"]["inode"] = json!(1));
    fs::write(&own, before.to_string()).expect("writes");
    let version = brought.falsify();
    let models = Models::load(&Config { digests: Some(own), ..brought.config() }).expect("the model loads");
    let wrong = served(&models);
    assert_eq!(wrong.1.to_string(), version, "it was believed");
    let changes = models.look(Look::AtOnce);
    assert_eq!((changes.retired, changes.served), (vec![wrong], vec![truth.clone()]));
    assert_eq!(brought.remembered(), json!({}));
    assert_eq!(served(&brought.start()), truth);
}

#[tokio::test(flavor = "multi_thread")]
async fn packed_weights_are_used_and_checked() {
    let brought = Brought::new().await;
    let file = brought.spoil_packed();
    let models = brought.start();
    assert_ne!(outputs(&models).await, brought.truth, "it is what is used");
    let changes = models.look(Look::AtOnce);
    assert!(changes.faults[0].reason.contains("not what an earlier start has written"), "{:?}", changes.faults);
    assert_eq!(outputs(&models).await, brought.truth);
    assert!(!file.exists());
    // Who has no place of its own keeps none.
    let models = brought.start();
    assert!(models.look(Look::AtOnce).is_empty() && !file.exists());
    assert_eq!(outputs(&models).await, brought.truth);
}

#[tokio::test(flavor = "multi_thread")]
async fn packed_weights_are_nothing_without_what_was_found_out() {
    let brought = Brought::new().await;
    brought.spoil_packed();
    fs::write(prepared(brought.home.path()), "{}").expect("writes");
    settled();
    let own = brought.home.path().join("own.json");
    // The first start remembers and keeps its own, the second uses that.
    for _ in 0..2 {
        let models = Models::load(&Config { digests: Some(own.clone()), ..brought.config() }).expect("the model loads");
        assert_eq!(outputs(&models).await, brought.truth);
        assert!(models.look(Look::AtOnce).is_empty());
        let kept = fs::read_dir(own.with_extension("json.packed")).expect("is there");
        assert_eq!(kept.count(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_touched_since_is_not_believed() {
    let brought = Brought::new().await;
    let truth = served(&brought.start());
    brought.falsify();
    let weights = brought.home.path().join("owner/encoder/model.safetensors");
    let bytes = fs::read(&weights).expect("reads");
    fs::write(&weights, bytes).expect("writes in place");
    assert_eq!(served(&brought.start()), truth);
}
