//! A start after another: what an earlier one found out about weights is believed while nothing was touched, and checked afterwards; what
//! it packed is used again.

#[path = "../fetched/mod.rs"]
mod fetched;
mod packed;
mod prepared;

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use inference::{Abandon, Config, Look, Models, inspect};
use prediction::{ModelName, Version};
use serde_json::{Value, json, value::to_raw_value};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const TEXTS: [&str; 4] = [
    "",
    "A lighthouse keeper counts the ships.",
    "zymurgy, ærø and 漢字",
    "the quick brown fox jumps over the lazy dog",
];

/// A start's settings, and where it remembers.
struct Home {
    dir: TempDir,
}

impl Home {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory") }
    }

    fn digests(&self) -> PathBuf {
        self.dir.path().join("digests.json")
    }

    /// Files of packed weights.
    fn packed(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir.path().join("digests.json.packed")).into_iter().flatten();
        entries.map(|entry| entry.expect("an entry").path()).collect()
    }

    /// The only one of them, after a start that has kept it.
    fn kept(&self, model: &Path) -> PathBuf {
        assert!(kernels::Kept::is_possible(), "needs Linux 5.14 or later, and not an emulator of it");
        let models = self.start(model);
        assert_eq!(self.packed(), Vec::<PathBuf>::new());
        assert!(models.look(Look::AtOnce).is_empty());
        let packed = self.packed();
        assert_eq!(packed.len(), 1, "{packed:?}");
        packed.into_iter().next().expect("it is there")
    }

    fn config(&self, model: &Path) -> Config {
        Config { model_dirs: vec![model.to_owned()], digests: Some(self.digests()), ..Config::default() }
    }

    fn start(&self, model: &Path) -> Models {
        Models::load(&self.config(model)).expect("the model loads")
    }

    fn remembered(&self) -> Value {
        serde_json::from_slice(&fs::read(self.digests()).expect("there are digests")).expect("JSON")
    }

    /// Changes all that is remembered of a file.
    fn change(&self, change: impl Fn(&mut Value)) {
        let mut entries = self.remembered();
        entries.as_object_mut().expect("files").values_mut().for_each(change);
        fs::write(self.digests(), entries.to_string()).expect("writes");
    }

    /// Has the last change of a file, which is the only one that is remembered, count for none.
    fn overlook(&self, file: &Path) {
        let now = fs::metadata(file).expect("is there");
        let times = [(now.mtime(), now.mtime_nsec()), (now.ctime(), now.ctime_nsec())];
        self.change(|entry| entry["identity"]["times"] = json!(times));
    }
}

/// So long that a file is no longer one that was written just now.
fn settled() {
    sleep(Duration::from_secs(7));
}

/// A copy of a bundled model, whose manifest says what its files are.
fn iris() -> TempDir {
    let made = tempfile::tempdir().expect("a directory");
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/augur/iris");
    for file in ["model.toml", "input.schema.json", "output.schema.json", "model.safetensors"] {
        fs::copy(from.join(file), made.path().join(file)).expect("a copy");
    }
    made
}

fn served(models: &Models) -> (ModelName, Version) {
    let spec = models.specs().remove(0);
    (spec.name, spec.version)
}

/// One that is believed to be what it is not.
fn believed(home: &Home) -> (Models, (ModelName, Version), (ModelName, Version)) {
    let (digest, version) = false_digest();
    let truth = served(&home.start(&fetched::dir()));
    home.change(|entry| (entry["sha256"], entry["version"]) = (json!(digest), json!(version)));
    let models = home.start(&fetched::dir());
    let wrong = served(&models);
    assert_eq!(wrong.1.to_string(), version, "it was believed");
    (models, wrong, truth)
}

/// What the model that is served says of each text.
async fn outputs(models: &Models) -> Vec<String> {
    let mut outputs = Vec::new();
    for text in TEXTS {
        outputs.push(output(models, &json!({"text": text})).await);
    }
    outputs
}

/// What it says of an input.
async fn output(models: &Models, input: &Value) -> String {
    let (name, version) = served(models);
    let model = models.get(&name, &version).expect("what is served can be had");
    let input = to_raw_value(input).expect("JSON");
    model.predict(&input, Abandon::default()).await.expect("an output").value.get().to_owned()
}

/// The version that files with these digests make.
fn version(files: impl IntoIterator<Item = (PathBuf, String)>) -> String {
    let mut hasher = Sha256::new();
    for (path, sha256) in files {
        hasher.update(path.to_str().expect("text"));
        hasher.update([0]);
        hasher.update(sha256);
    }
    hex::encode(hasher.finalize())
}

/// A digest that no file has, and the version that the model would be if its weights had it.
fn false_digest() -> (String, String) {
    let digest = "0".repeat(64);
    let files = inspect(&fetched::dir()).expect("sound").files.into_iter().map(|file| {
        let is_weights = file.path == Path::new("model.safetensors");
        (file.path, if is_weights { digest.clone() } else { file.sha256 })
    });
    let version = version(files);
    (digest, version)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_loaded_before_gives_what_it_gave() {
    let home = Home::new();
    let first = home.start(&fetched::dir());
    let expected = outputs(&first).await;
    assert_eq!(home.remembered().as_object().expect("files").len(), 1, "the weights are remembered");
    let written = fs::metadata(home.digests()).expect("is there").ino();
    let second = home.start(&fetched::dir());
    assert_eq!(
        fs::metadata(home.digests()).expect("is there").ino(),
        written,
        "what was believed is not written again"
    );
    assert_eq!(served(&second), served(&first));
    // While rows are read when they are needed, and when all are there.
    assert_eq!(outputs(&second).await, expected);
    let changes = second.look(Look::AtOnce);
    assert!(changes.is_empty() && changes.faults.is_empty(), "{changes:?}");
    assert_eq!(outputs(&second).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_believed_wrongly_is_found_out_and_served_no_longer() {
    let home = Home::new();
    let (models, wrong, truth) = believed(&home);
    let changes = models.look(Look::AtOnce);
    assert_eq!((changes.retired, changes.served), (vec![wrong.clone()], vec![truth.clone()]));
    assert!(changes.faults[0].reason.contains("is not what it was"), "{:?}", changes.faults);
    assert!(models.get(&wrong.0, &wrong.1).is_none(), "it runs nothing more");
    assert_eq!(served(&models), truth);
    assert_eq!(home.remembered(), json!({}));
    // The next start takes the digests again, and the one after it believes them.
    for _ in 0..2 {
        assert_eq!(served(&home.start(&fetched::dir())), truth);
        assert_eq!(home.remembered().as_object().expect("files").len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_found_out_wherever_it_lies_twice_and_whatever_became_of_its_directory() {
    let (home, made) = (Home::new(), tempfile::tempdir().expect("a directory"));
    drop(believed(&home));
    let linked = made.path().join("linked");
    std::os::unix::fs::symlink(fetched::dir(), &linked).expect("links");
    let model_dirs = vec![fetched::dir(), linked.clone(), fetched::dir()];
    let config = Config { model_dirs, digests: Some(home.digests()), ..Config::default() };
    let models = Models::load(&config).expect("loads");
    let wrong = served(&models);
    fs::remove_file(linked).expect("removes");
    let changes = models.look(Look::AtOnce);
    assert_eq!(changes.retired, vec![wrong.clone()]);
    assert!(models.get(&wrong.0, &wrong.1).is_none());
    assert_eq!(served(&models), served(&home.start(&fetched::dir())));
}

#[test]
fn what_was_touched_since_is_not_believed() {
    let (digest, version) = false_digest();
    for (part, which) in [("length", 0), ("inode", 0), ("times", 0), ("times", 1)] {
        let home = Home::new();
        let truth = served(&home.start(&fetched::dir()));
        home.change(|entry| {
            (entry["sha256"], entry["version"]) = (json!(digest), json!(version));
            let number = entry["identity"].get_mut(part).expect("a part");
            let number = if number.is_array() { &mut number[which][1] } else { number };
            *number = json!(number.as_i64().expect("a number") ^ 1);
        });
        assert_eq!(served(&home.start(&fetched::dir())), truth, "{part}");
    }
}

#[test]
fn what_belongs_to_another_version_is_not_believed() {
    let (home, (digest, _)) = (Home::new(), false_digest());
    let truth = served(&home.start(&fetched::dir()));
    home.change(|entry| entry["sha256"] = json!(digest));
    assert_eq!(served(&home.start(&fetched::dir())), truth);
}

#[test]
fn what_was_written_just_now_is_not_remembered() {
    let (home, made) = (Home::new(), iris());
    home.start(made.path());
    assert!(!home.digests().exists() || home.remembered() == json!({}));
}

#[test]
fn what_is_not_what_its_manifest_says_is_found_out_and_not_loaded_again() {
    let (home, made) = (Home::new(), iris());
    settled();
    let truth = served(&home.start(made.path()));
    let weights = made.path().join("model.safetensors");
    let mut bytes = fs::read(&weights).expect("reads");
    *bytes.last_mut().expect("a byte") ^= 1 << 4;
    fs::write(&weights, bytes).expect("writes in place");
    settled();
    home.overlook(&weights);
    let models = home.start(made.path());
    assert_eq!(served(&models), truth, "it was believed");
    let changes = models.look(Look::AtOnce);
    assert_eq!((changes.retired, changes.served), (vec![truth.clone()], vec![]));
    let reasons: Vec<&str> = changes.faults.iter().map(|fault| fault.reason.as_str()).collect();
    assert!(
        matches!(reasons[..], [first, second] if first.contains("is not what it was") && second.contains("but the manifest says"))
    );
    for _ in 0..2 {
        assert!(models.get(&truth.0, &truth.1).is_none() && models.specs().is_empty());
        assert!(models.look(Look::Settled).is_empty());
    }
}

#[test]
fn what_cannot_be_read_is_as_good_as_nothing() {
    let home = Home::new();
    let truth = served(&home.start(&fetched::dir()));
    for text in ["", "{", "[]", "{\"/a\": {}}"] {
        fs::write(home.digests(), text).expect("writes");
        assert_eq!(served(&home.start(&fetched::dir())), truth, "{text:?}");
        assert_eq!(home.remembered().as_object().expect("files").len(), 1, "{text:?}");
    }
    // Nowhere to write, either.
    fs::remove_file(home.digests()).expect("removes");
    fs::create_dir(home.digests()).expect("a directory");
    assert_eq!(served(&home.start(&fetched::dir())), truth);
}
