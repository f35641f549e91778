//! Classifiers of images without some of their heads, layers or weights, as `augur models prune` makes them: against what transformers
//! answers (`goldens/make_pruned_images.py`), which also found by itself what to remove.

#[path = "../stated/mod.rs"]
mod stated;

use std::{
    fs,
    path::{Path, PathBuf},
};

use inference::{Cut, Machine, Removed, inspect, prune};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use self::stated::Stated;
use super::{Goldens, Scored, TOLERANCE, Tiny, load, predict};

#[derive(Deserialize)]
struct Pruned {
    /// The images that models are judged by.
    seen: Vec<String>,
    models: Vec<Golden>,
}

#[derive(Deserialize)]
struct Golden {
    cut: Stated,
    removed: Value,
    #[serde(flatten)]
    tiny: Tiny,
}

impl Pruned {
    fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/pruned_images.json");
        serde_json::from_slice(&fs::read(path).expect("goldens")).expect("goldens")
    }

    fn inputs(&self) -> Vec<Value> {
        let goldens = Goldens::read();
        self.seen.iter().map(|image| json!({"image": goldens.images[image].file})).collect()
    }
}

/// Where the model is.
fn made(home: &TempDir) -> PathBuf {
    home.path().join("owner/tiny")
}

fn pruned(from: &Path, cut: Cut, inputs: &[Value]) -> Result<(TempDir, Removed), String> {
    let home = tempfile::tempdir().expect("a directory");
    fs::create_dir_all(made(&home)).expect("makes a directory");
    let found = inspect(from).expect("sound");
    let removed = prune(&found, cut, inputs, &"my/pruned".parse().expect("a name"), &made(&home), Machine::default());
    removed.map(|removed| (home, removed)).map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_answers_what_transformers_does_without_the_rest() {
    let goldens = Pruned::read();
    let (images, inputs) = (Goldens::read(), goldens.inputs());
    for golden in &goldens.models {
        let cut = Cut::from(golden.cut);
        let who = format!("{}, {cut:?}", golden.tiny.name);
        let original = golden.tiny.directory();
        let (home, removed) = pruned(&made(&original), cut, &inputs).unwrap_or_else(|error| panic!("{who}: {error}"));
        let (before, after) = (inspect(&made(&original)).expect("sound"), inspect(&made(&home)).expect("sound"));
        let removed = match removed {
            Removed::Heads(heads) => json!(heads),
            Removed::Layers(layers) => json!(layers),
            Removed::Weights { zeros, parameters } => {
                assert_eq!((parameters, after.parameters), (before.parameters, before.parameters), "{who}");
                json!(zeros)
            }
        };
        assert_eq!(removed, golden.removed, "{who}: what is removed");
        assert_eq!(after.parameters < before.parameters, !matches!(cut, Cut::Sparsity(_)), "{who}");
        let model = load(&home, Machine::default()).unwrap_or_else(|error| panic!("{who}: {error}"));
        for case in &golden.tiny.cases {
            let answer =
                predict(&model, &images.input(case)).await.unwrap_or_else(|failure| panic!("{who}: {failure}"));
            let ours: Vec<Scored> = serde_json::from_str(answer.get()).expect("labels with scores");
            assert_eq!(ours.len(), case.output.len(), "{who}");
            for (ours, theirs) in ours.iter().zip(&case.output) {
                let apart = (ours.score - theirs.score).abs();
                assert!(ours.label == theirs.label && apart <= TOLERANCE, "{who}: {answer}, not {:?}", case.output);
            }
        }
    }
}

#[test]
fn what_was_pruned_can_be_pruned_further() {
    let goldens = Pruned::read();
    let (golden, inputs) = (&goldens.models[0], goldens.inputs());
    let original = golden.tiny.directory();
    let (first, removed) = pruned(&made(&original), Cut::Heads(1), &inputs).expect("prunes");
    let (second, further) = pruned(&made(&first), Cut::Heads(1), &inputs).expect("prunes");
    let (third, gone) = pruned(&made(&second), Cut::Layers(1), &inputs).expect("prunes");
    let (Removed::Heads(removed), Removed::Heads(further), Removed::Layers(gone)) = (removed, further, gone) else {
        panic!("heads, heads and layers")
    };
    let config = |home: &TempDir| -> Value {
        serde_json::from_slice(&fs::read(made(home).join("config.json")).expect("reads")).expect("JSON")
    };
    // Heads are counted as before any was removed, layers as they are.
    let left = (0..3).filter(|layer| !gone.contains(layer)).map(|layer| {
        let mut heads = [removed[layer][0], further[layer][0]];
        heads.sort_unstable();
        json!(heads)
    });
    let left: serde_json::Map<_, _> = left.enumerate().map(|(layer, heads)| (layer.to_string(), heads)).collect();
    assert_eq!((&config(&third)["pruned_heads"], &config(&third)["num_hidden_layers"]), (&json!(left), &json!(2)));
    load(&third, Machine::default()).expect("loads");
    let (sparse, _) = pruned(&made(&third), Cut::Sparsity(0.25), &inputs).expect("prunes");
    let said = inspect(&made(&sparse)).expect("sound").spec.description;
    let lacks = "Each layer lacks 2 attention heads. It lacks 1 layer. Of each matrix of its layers, the smallest 25 % were set to 0.";
    assert!(said.ends_with(&format!(" pixels. {lacks}")), "{said}");
}

#[test]
fn what_cannot_be_removed_is_refused() {
    let (goldens, inputs) = (Goldens::read(), Pruned::read().inputs());
    for (name, cut, part) in [
        ("vit", Cut::Heads(3), "layer 0 has 3 attention heads; at most 2 can be removed"),
        ("vit", Cut::Layers(2), "has 2 layers; at most 1 can be removed"),
        ("resnet", Cut::Heads(1), "is a resnet, which has no attention heads to remove"),
        ("resnet", Cut::Layers(1), "is a resnet, which has no layers of one shape"),
        ("mobilenet_v2", Cut::Heads(1), "is a mobilenet_v2, which has no attention heads to remove"),
        ("mobilenet_v2", Cut::Layers(1), "is a mobilenet_v2, which has no layers of one shape"),
        ("mobilenet_v2", Cut::Sparsity(1e-9), "no whole number of any matrix"),
        ("resnet", Cut::Sparsity(1.0), "above 0 and below 1"),
    ] {
        let original = goldens.tiny(name).directory();
        let refusal = pruned(&made(&original), cut, &inputs).expect_err(part);
        assert!(refusal.contains(part), "{name}, {cut:?}: {refusal}");
    }
    let mut tiny = goldens.tiny("vit");
    let unread = pruned(&made(&tiny.directory()), Cut::Heads(1), &[]).expect_err("nothing to judge by");
    assert!(unread.contains("without inputs"), "{unread}");
    let none = pruned(&made(&tiny.directory()), Cut::Layers(1), &[json!({"image": "AAAA"})]).expect_err("no image");
    assert!(none.contains("fails on input 1"), "{none}");
    tiny.config["num_hidden_layers"] = json!(1_000_000_000_000_u64);
    let huge = pruned(&made(&tiny.directory()), Cut::Layers(1), &inputs).expect_err("more than the file has");
    assert!(huge.contains("\"vit.encoder.layer.2.attention.output.dense.weight\", but"), "{huge}");
}
