//! Encoders without some of their heads, layers or weights, as `augur models prune` makes them: against what transformers computes
//! (`goldens/make_pruned.py`), which also found by itself what to remove.

#[path = "../stated/mod.rs"]
mod stated;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use inference::{Cut, Device, Machine, Removed, inspect, prune};
use prediction::ModelName;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use self::stated::Stated;
use crate::{
    TOLERANCE,
    tiny::{Tiny, apart, family, load, predict},
};

#[derive(Deserialize)]
struct Goldens {
    /// What models are judged by.
    texts: Vec<String>,
    models: Vec<Golden>,
}

#[derive(Deserialize)]
struct Golden {
    family: String,
    cut: Stated,
    removed: Value,
    #[serde(flatten)]
    tiny: Tiny,
}

fn goldens() -> Goldens {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/pruned.json");
    serde_json::from_slice(&fs::read(path).expect("goldens")).expect("goldens")
}

/// Where the model is.
fn made(home: &TempDir) -> PathBuf {
    home.path().join("pruned")
}

fn pruned(from: &Path, cut: Cut, texts: &[String]) -> Result<(TempDir, Removed), String> {
    let home = tempfile::tempdir().expect("a directory");
    fs::create_dir(made(&home)).expect("makes a directory");
    let found = inspect(from).expect("sound");
    let inputs: Vec<Value> = texts.iter().map(|text| json!({"text": text})).collect();
    let name: ModelName = "my/pruned".parse().expect("a name");
    let removed = prune(&found, cut, &inputs, &name, &made(&home), Machine::default());
    removed.map(|removed| (home, removed)).map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_computes_what_transformers_does_without_the_rest() {
    let Goldens { texts, models } = goldens();
    for golden in &models {
        let who = format!("{}, {}, {:?}", golden.family, golden.tiny.name, Cut::from(golden.cut));
        let original = family(&golden.family).directory(&golden.tiny);
        let from = original.path().join("tiny");
        let (home, removed) = pruned(&from, golden.cut.into(), &texts).unwrap_or_else(|error| panic!("{who}: {error}"));
        let (before, after) = (inspect(&from).expect("sound"), inspect(&made(&home)).expect("sound"));
        let expected = match &removed {
            Removed::Heads(heads) => json!(heads),
            Removed::Layers(layers) => json!(layers),
            Removed::Weights { zeros, parameters } => {
                assert_eq!((*parameters, after.parameters), (before.parameters, before.parameters), "{who}");
                json!(zeros)
            }
        };
        assert_eq!(expected, golden.removed, "{who}: what is removed");
        assert_eq!(after.parameters < before.parameters, !matches!(golden.cut, Stated::Sparsity(_)), "{who}");
        assert_eq!((after.spec.name.as_str(), &after.spec.task), ("my/pruned", &before.spec.task), "{who}");
        for machine in [Machine::default(), Machine { device: Device::Plain, ..Machine::default() }] {
            let who = format!("{who}, {}", machine.device);
            let model = load(&made(&home), machine).unwrap_or_else(|error| panic!("{who}: {error}"));
            for case in &golden.tiny.cases {
                let answer: Value = serde_json::from_str(predict(&model, &case.input).await.get()).expect("JSON");
                let what = format!("{who}: {}\nours {answer}\ntheirs {}", case.input, case.output);
                let apart = apart(&answer, &case.output, &what);
                assert!(apart <= TOLERANCE, "{apart} from the reference: {what}");
            }
        }
    }
}

#[tokio::test]
async fn what_was_pruned_can_be_pruned_further() {
    let Goldens { texts, models } = goldens();
    let golden = models.iter().find(|golden| golden.tiny.name == "embedder").expect("one");
    let original = family(&golden.family).directory(&golden.tiny);
    let (shorter, _) = pruned(&original.path().join("tiny"), Cut::Layers(1), &texts).expect("prunes");
    let config = |home: &TempDir| -> Value {
        serde_json::from_slice(&fs::read(made(home).join("config.json")).expect("reads")).expect("JSON")
    };
    let (first, removed) = pruned(&made(&shorter), Cut::Heads(1), &texts).expect("prunes");
    let (second, further) = pruned(&made(&first), Cut::Heads(2), &texts).expect("prunes");
    let [Removed::Heads(removed), Removed::Heads(further)] = [removed, further] else { panic!("heads") };
    assert!(removed.iter().zip(&further).all(|(one, other)| !other.contains(&one[0])), "{removed:?}, {further:?}");
    let all: serde_json::Map<String, Value> = (0..3)
        .map(|layer| {
            let mut heads = [removed[layer].clone(), further[layer].clone()].concat();
            heads.sort_unstable();
            (layer.to_string(), json!(heads))
        })
        .collect();
    assert_eq!((&config(&second)["pruned_heads"], &config(&second)["num_hidden_layers"]), (&json!(all), &json!(3)));
    // Another layer gone, the others' heads are counted by their new numbers.
    let (last, gone) = pruned(&made(&second), Cut::Layers(1), &texts).expect("prunes");
    let Removed::Layers(gone) = gone else { panic!("layers") };
    let left = (0..3).filter(|layer| !gone.contains(layer)).map(|layer| all[&layer.to_string()].clone());
    let left: serde_json::Map<_, _> = left.enumerate().map(|(layer, heads)| (layer.to_string(), heads)).collect();
    assert_eq!(config(&last)["pruned_heads"], json!(left));
    load(&made(&last), Machine::default()).expect("loads");
}

#[test]
fn what_cannot_be_removed_is_refused() {
    let Goldens { texts, models } = goldens();
    let golden = models.iter().find(|golden| golden.tiny.name == "embedder").expect("one");
    let original = family(&golden.family).directory(&golden.tiny);
    let from = original.path().join("tiny");
    for (cut, part) in [
        (Cut::Heads(0), "when nothing is removed"),
        (Cut::Layers(0), "when nothing is removed"),
        (Cut::Heads(4), "layer 0 has 4 attention heads; at most 3 can be removed"),
        (Cut::Heads(usize::MAX), "at most 3 can be removed"),
        (Cut::Layers(4), "has 4 layers; at most 3 can be removed"),
        (Cut::Sparsity(0.0), "above 0 and below 1"),
        (Cut::Sparsity(1.0), "above 0 and below 1"),
        (Cut::Sparsity(f64::NAN), "above 0 and below 1"),
        (Cut::Sparsity(1e-9), "no whole number of any matrix"),
    ] {
        let refusal = pruned(&from, cut, &texts).expect_err(part);
        assert!(refusal.contains(part), "{cut:?}: {refusal}");
    }
    let unread = pruned(&from, Cut::Heads(1), &[]).expect_err("nothing to judge by");
    assert!(unread.contains("without inputs"), "{unread}");
    let digits = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/augur/digits");
    let tabular = pruned(&digits, Cut::Heads(1), &texts).expect_err("no encoder");
    assert!(tabular.contains("is an mlp, which is small"), "{tabular}");
}

#[test]
fn what_a_configuration_only_states_is_not_believed() {
    let Goldens { texts, models } = goldens();
    let golden = models.iter().find(|golden| golden.tiny.name == "embedder").expect("one");
    for (key, number, part) in [
        ("num_hidden_layers", 1_000_000_000_000_u64, "encoder.layer.4.attention.output.dense.weight"),
        ("num_hidden_layers", u64::MAX, "encoder.layer.4.attention.output.dense.weight"),
        ("num_attention_heads", 1 << 40, "which is not of 1099511627776 heads"),
    ] {
        let mut tiny = golden.tiny.clone();
        tiny.config[key] = json!(number);
        if key == "num_attention_heads" {
            tiny.config["hidden_size"] = json!(number);
        }
        let original = family(&golden.family).directory(&tiny);
        for cut in [Cut::Heads(1), Cut::Layers(1), Cut::Sparsity(0.5)] {
            let refusal = pruned(&original.path().join("tiny"), cut, &texts).expect_err("more than the file has");
            assert!(refusal.contains(part), "{key}, {cut:?}: {refusal}");
        }
    }
}

#[test]
fn copies_may_be_written_to_though_originals_may_not() {
    use std::os::unix::fs::PermissionsExt;

    let Goldens { texts, models } = goldens();
    let golden = models.iter().find(|golden| golden.tiny.name == "embedder").expect("one");
    let original = family(&golden.family).directory(&golden.tiny);
    let from = original.path().join("tiny");
    let permissions = |path: &Path| fs::metadata(path).expect("is there").permissions();
    let usual = permissions(&from.join("config.json"));
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::set_permissions(from.join(file), fs::Permissions::from_mode(0o444)).expect("changes");
    }
    for cut in [Cut::Heads(1), Cut::Layers(1), Cut::Sparsity(0.5)] {
        let (home, _) = pruned(&from, cut, &texts).expect("prunes");
        for file in ["config.json", "tokenizer.json", "model.safetensors", "model.toml"] {
            assert_eq!(permissions(&made(&home).join(file)), usual, "{cut:?}: {file}");
        }
    }
}

#[test]
fn a_manifest_says_what_is_true_of_the_new_weights() {
    let Goldens { texts, models } = goldens();
    let golden = models.iter().find(|golden| golden.tiny.name == "embedder").expect("one");
    let tiny = Tiny { task: Some("feature-extraction".into()), files: BTreeMap::new(), ..golden.tiny.clone() };
    let original = family(&golden.family).directory(&tiny);
    let manifest = original.path().join("tiny/model.toml");
    let trained = "[training]\ncommand = \"train\"\nseed = 1\nrows = 2\nheld_out_rows = 1\nheld_out_accuracy = 0.5\n";
    let own = fs::read_to_string(&manifest).expect("reads").replace("description = \"\"", "description = \"Ours.\"");
    fs::write(&manifest, own + trained).expect("writes");
    let (once, _) = pruned(&original.path().join("tiny"), Cut::Heads(1), &texts).expect("prunes");
    let (twice, _) = pruned(&made(&once), Cut::Heads(2), &texts).expect("prunes");
    let (thrice, _) = pruned(&made(&twice), Cut::Sparsity(0.07), &texts).expect("prunes");
    let said = |home: &TempDir| inspect(&made(home)).expect("sound").spec.description;
    assert_eq!(said(&once), "Ours. Each layer lacks 1 attention head.");
    assert_eq!(said(&twice), "Ours. Each layer lacks 3 attention heads.");
    let zeros = "Of each matrix of its layers, the smallest 7 % were set to 0.";
    assert_eq!(said(&thrice), format!("Ours. Each layer lacks 3 attention heads. {zeros}"));
    for home in [&once, &twice, &thrice] {
        let manifest = fs::read_to_string(made(home).join("model.toml")).expect("reads");
        assert!(!manifest.contains("training") && !manifest.contains("held_out"), "{manifest}");
    }
}
