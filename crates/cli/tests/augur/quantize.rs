//! `augur models quantize`: what it makes, what it shows, and what it refuses.

use std::{fs, path::Path};

use serde_json::{Value, json};
use servers::answered;
use tempfile::TempDir;

use crate::{
    once::{Ran, command, ended},
    served::{MODELS, flag, serve},
    tiny, tiny_image,
};

#[path = "../../../inference/tests/wide/mod.rs"]
mod wide;

pub(crate) const GENERATOR: &str = "my/generator";

pub(crate) struct Home(pub(crate) TempDir);

impl Home {
    /// With a text encoder, a network for images and a text generator.
    pub(crate) async fn new() -> Self {
        let home = Self(tempfile::tempdir().expect("a temporary directory"));
        tiny::write(&home.0.path().join(tiny::NAME), 1);
        tiny_image::write(&home.0.path().join("my/vit"), 1);
        let goldens = Path::new(MODELS).join("../crates/inference/tests/goldens/generators");
        let added = home.run(&["add", &goldens.join("llama-f32.gguf").to_string_lossy(), "--name", GENERATOR]).await;
        assert_eq!(added.status, Some(0), "{added:?}");
        home
    }

    pub(crate) async fn run(&self, arguments: &[&str]) -> Ran {
        ended(command(&self.arguments(arguments).iter().map(String::as_str).collect::<Vec<_>>()), "").await
    }

    /// Those of a command that finds its models here.
    pub(crate) fn arguments(&self, arguments: &[&str]) -> Vec<String> {
        let here = flag("models-dir", self.0.path());
        [&["models"], arguments, &[&here]].concat().into_iter().map(str::to_owned).collect()
    }

    /// Names with labels, versions, sizes, and whether each is the default, by name; nothing may be broken.
    pub(crate) async fn listed(&self) -> Vec<(String, String, u64, bool)> {
        let ran = self.run(&["ls", "--json"]).await;
        let listed: Vec<Value> = serde_json::from_str(&ran.out).expect("JSON");
        let of = |model: &Value| {
            let text = |key: &str| model[key].as_str().unwrap_or_else(|| panic!("{model}")).to_owned();
            let label = model["label"].as_str().map_or_else(String::new, |label| format!("@{label}"));
            let is_default = model["is_default"].as_bool().expect("yes or no");
            (text("name") + &label, text("version"), model["bytes"].as_u64().expect("a number"), is_default)
        };
        listed.iter().map(of).collect()
    }

    /// How many owners there are, and whatever else there is but what the first start of a server needs.
    pub(crate) fn owners(&self) -> usize {
        let entries = fs::read_dir(self.0.path()).expect("it can be read").flatten();
        entries.filter(|entry| entry.file_name() != ".prepared").count()
    }
}

#[tokio::test]
async fn the_report_comes_first_and_without_a_yes_nothing_is_kept() {
    let home = Home::new().await;
    let before = home.listed().await;
    let ran = home.run(&["quantize", tiny::NAME, "--to", "int8"]).await;
    assert_eq!(ran.status, Some(3), "{ran:?}");
    assert!(ran.err.contains("test-org/tiny-encoder@int8 was not kept; --yes keeps it"), "{ran:?}");
    for part in ["ORIGINAL", "files", "an input", "on 25 inputs: cosine with the original 0.9"] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    assert_eq!((home.listed().await, home.owners()), (before, 2), "nothing is left over");
}

#[tokio::test]
async fn smaller_versions_stand_beside_their_originals() {
    let home = Home::new().await;
    let before = home.listed().await;
    let mut made = Vec::new();
    for (model, to) in [(tiny::NAME, "bf16"), (tiny::NAME, "int8"), (GENERATOR, "q8_0"), ("my/vit", "bf16")] {
        let ran = home.run(&["quantize", model, "--to", to, "--yes", "--json"]).await;
        assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""), "{ran:?}");
        let report: Value = serde_json::from_str(&ran.out).expect("JSON");
        let (original, result, agreement) = (&report["original"], &report["result"], &report["agreement"]);
        assert!(result["file_bytes"].as_u64() < original["file_bytes"].as_u64(), "{report}");
        assert!(result["seconds_each"].as_f64() > Some(0.0) && original["seconds_each"].as_f64() > Some(0.0));
        let least = |key: &str, least: f64| assert!(agreement[key].as_f64().expect(key) >= least, "{report}");
        match (model, to) {
            (tiny::NAME, "bf16") => least("worst_cosine", 0.9999),
            (tiny::NAME, _) => least("worst_cosine", 0.995),
            (GENERATOR, _) => least("same_token", 0.8),
            _ => least("same_label", 1.0),
        }
        made.push((format!("{model}@{to}"), report));
    }
    let after = home.listed().await;
    assert!(before.iter().all(|model| after.contains(model)), "originals are as they were: {after:?}");
    for (name, report) in made {
        let (version, precision) = (report["result"]["version"].clone(), report["result"]["precision"].clone());
        let listed = after.iter().find(|(listed, ..)| *listed == name).expect("it is listed");
        assert_eq!((json!(listed.1), listed.3), (version, false), "{name}: the default stays what it was");
        let inspect = async |name: &str| -> Value {
            serde_json::from_str(&home.run(&["inspect", name, "--json"]).await.out).expect("JSON")
        };
        let (shown, original) = (inspect(&name).await, inspect(name.split_once('@').expect("a label").0).await);
        assert_eq!(shown["precision"], if precision.is_null() { json!("f32") } else { precision }, "{name}");
        assert_eq!(shown["limits"], original["limits"], "{name}");
        assert_eq!((&shown["report"], &original["report"]), (&report, &Value::Null), "{name}: what was shown is kept");
    }
    assert_eq!(home.owners(), 2, "nothing is left over");
    let again = home.run(&["quantize", tiny::NAME, "--to", "int8", "--yes"]).await;
    assert!(again.status == Some(1) && again.err.contains("is there already"), "{again:?}");
    let twice = home.run(&["quantize", "test-org/tiny-encoder@int8", "--to", "int8", "--yes", "--name", "b"]).await;
    assert!(twice.status == Some(1) && twice.err.contains("is int8 already"), "{twice:?}");
    let back = home.run(&["quantize", "test-org/tiny-encoder@int8", "--to", "bf16", "--yes"]).await;
    assert!(back.status == Some(1) && back.err.contains("begin with the model that it was made of"), "{back:?}");
}

#[tokio::test]
async fn the_report_stays_with_the_version_that_it_is_of() {
    let home = Home::new().await;
    let ran = home.run(&["quantize", tiny::NAME, "--to", "int8", "--yes", "--isa", "portable"]).await;
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let made = format!("{}@int8", tiny::NAME);
    let shown = home.run(&["inspect", &made]).await;
    let (report, _) = ran.out.split_once("\nadded ").expect("it says what was added");
    for line in report.lines().filter(|line| !line.is_empty()) {
        assert!(shown.out.contains(line.trim_end()), "{line:?} is shown again: {}", shown.out);
    }
    assert!(report.contains("times with portable, "), "{report}");
    assert!(shown.out.contains(&format!("made of {}, version ", tiny::NAME)), "{}", shown.out);
    assert!(shown.out.contains("\nprecision     int8: embeddings' cosine with f32's at least 0.995"), "{}", shown.out);

    // It goes where the version goes.
    let dir = home.0.path().join(&made);
    let file = dir.join("augur-report.json");
    let kept = fs::read(&file).expect("it is kept");
    let added = home.run(&["add", &dir.to_string_lossy(), "--label", "again"]).await;
    assert_eq!(added.status, Some(0), "{added:?}");
    let again = home.0.path().join(format!("{}@again/augur-report.json", tiny::NAME));
    assert!(fs::read(again).expect("it is copied") == kept);

    // That of another version says nothing of this one, and one that cannot be read keeps nothing from being shown.
    let version = serde_json::from_slice::<Value>(&kept).expect("JSON")["result"]["version"].clone();
    let version = version.as_str().expect("a version");
    let other = String::from_utf8(kept.clone()).expect("text").replace(version, &"0".repeat(version.len()));
    for (content, said) in [(other.as_str(), Value::Null), ("{}", json!("augur-report.json: missing field"))] {
        fs::write(&file, content).expect("writes");
        let ran = home.run(&["inspect", &made, "--json"]).await;
        let shown: Value = serde_json::from_str(&ran.out).expect("JSON");
        assert_eq!((ran.status, shown["version"].as_str()), (Some(0), Some(version)), "{ran:?}");
        match said.as_str() {
            Some(said) => assert!(shown["report"]["error"].as_str().is_some_and(|text| text.contains(said)), "{shown}"),
            None => assert_eq!(shown["report"], Value::Null),
        }
    }
}

#[tokio::test]
async fn whatever_runs_a_model_runs_it_with_the_instructions_that_are_named() {
    let home = Home::new().await;
    let absent = if cfg!(target_arch = "x86_64") { "neon" } else { "avx2" };
    let dir = home.0.path().join(tiny::NAME);
    let dir = dir.to_str().expect("a path");
    for arguments in [
        vec!["inspect", tiny::NAME],
        vec!["bench", tiny::NAME, "--each=1ms"],
        vec!["add", dir, "--label", "copy"],
        vec!["quantize", tiny::NAME, "--to", "bf16", "--yes"],
        vec!["prune", tiny::NAME, "--heads", "1", "--yes"],
    ] {
        let with = async |isa| home.run(&[&arguments[..], &["--isa", isa]].concat()).await;
        let refused = with(absent).await;
        assert!(refused.status == Some(1) && refused.err.contains(absent), "{arguments:?}: {refused:?}");
        let ran = with("portable").await;
        assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""), "{arguments:?}: {ran:?}");
    }
}

#[tokio::test]
async fn the_result_is_called_as_is_said() {
    let home = Home::new().await;
    for (arguments, called) in [
        (vec!["--name", "other"], "augur/other"),
        (vec!["--label", "Small"], "test-org/tiny-encoder@small"),
        (vec!["--name", "my/other", "--label", "a"], "my/other@a"),
    ] {
        let ran = home.run(&[&["quantize", tiny::NAME, "--to", "int8", "--yes"], &arguments[..]].concat()).await;
        assert!(ran.status == Some(0) && ran.out.contains(&format!("added {called}, version")), "{ran:?}");
        let listed = home.listed().await;
        let listed = listed.iter().find(|(name, ..)| name == called).expect("it is listed");
        assert_eq!(listed.3, !called.contains('@'), "{listed:?}");
    }
    // Of a version with a label, both are told.
    let again = Path::new("test-org").join("again");
    tiny::write(&home.0.path().join(&again), 2);
    let labelled = home.0.path().join("test-org/tiny-encoder@v2");
    fs::rename(home.0.path().join(again), labelled).expect("moves");
    let ran = home.run(&["quantize", "test-org/tiny-encoder@v2", "--to", "bf16", "--yes"]).await;
    assert!(ran.status == Some(0) && ran.out.contains("added test-org/tiny-encoder@v2-bf16, version"), "{ran:?}");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_leaves_nothing() {
    let home = Home::new().await;
    let before = home.listed().await;
    let inputs = home.0.path().join("../").join(format!("{}.jsonl", std::process::id()));
    fs::write(&inputs, "{\"text\": \"w1\"}\n\n{\"words\": 1}\n").expect("writes");
    let calibration = flag("calibration", &inputs);
    for (arguments, said) in [
        (vec!["nobody/nothing", "--to", "int8"], "there is no model nobody/nothing"),
        (vec![tiny::NAME, "--to", "q8_0"], "does feature-extraction; q8_0 is for text generators"),
        (vec![GENERATOR, "--to", "int8"], "is a text generator, which can be q8_0 or q4_k, not int8"),
        (vec![GENERATOR, "--to", "q4_k"], "no multiple of 256"),
        (vec!["my/vit", "--to", "int8"], "only its weights can be stored as bf16"),
        (vec![tiny::NAME, "--to", "int8", &calibration], "line 3"),
        (vec![tiny::NAME, "--to", "int8", "--calibration=absent.jsonl"], "absent.jsonl: cannot be read"),
        (vec![tiny::NAME, "--to", "int8", "--name", "my/vit"], "my/vit is there already"),
    ] {
        let ran = home.run(&[&["quantize", "--yes"], &arguments[..]].concat()).await;
        assert_eq!((ran.status, ran.out.as_str()), (Some(1), ""), "{ran:?}");
        assert!(ran.err.contains(said), "{said}: {ran:?}");
    }
    fs::remove_file(&inputs).expect("removes");
    let unknown = home.run(&["quantize", tiny::NAME, "--to", "q2_k"]).await;
    assert!(unknown.status == Some(2) && unknown.err.contains("q8_0"), "{unknown:?}");
    assert_eq!((home.listed().await, home.owners()), (before, 2), "nothing is left over");
}

#[tokio::test]
async fn what_is_in_blocks_is_served_and_writes_what_a_reference_writes() {
    let goldens = Path::new(MODELS).join("../crates/inference/tests/goldens/wide.json");
    let goldens: Value = serde_json::from_slice(&fs::read(goldens).expect("reads")).expect("JSON");
    let home = Home(tempfile::tempdir().expect("a temporary directory"));
    let beside = tempfile::tempdir().expect("a temporary directory");
    let (file, inputs) = (beside.path().join("wide.gguf"), beside.path().join("inputs.jsonl"));
    fs::write(&file, wide::gguf()).expect("writes");
    fs::write(&inputs, json!({"prompt": "Two"}).to_string()).expect("writes");
    let added = home.run(&["add", &file.to_string_lossy(), "--name", "test/wide"]).await;
    assert_eq!(added.status, Some(0), "{added:?}");
    for form in ["q4_k", "q8_0"] {
        let arguments = ["quantize", "test/wide", "--to", form, "--yes", &flag("calibration", &inputs)];
        let ran = home.run(&arguments).await;
        assert_eq!(ran.status, Some(0), "{ran:?}");
    }
    let listed = home.listed().await;
    let served = serve(&[&flag("models-dir", home.0.path()), &flag("data-dir", &beside.path().join("data"))]).await;
    for form in ["q4_k", "q8_0"] {
        let (_, version, ..) = listed.iter().find(|(name, ..)| name.ends_with(form)).expect("it is listed");
        for told in goldens[form]["texts"].as_array().expect("texts") {
            let text = told["text"].as_str().expect("a text");
            let input = json!({"prompt": told["prompt"], "max_tokens": text.len(), "temperature": 0});
            let call = json!({"version": format!("test/wide:{version}"), "input": input});
            let url = format!("{}/v1/predictions", served.address);
            let (_, made) = answered(reqwest::Client::new().post(url).json(&call)).await;
            let finished = served.finished(made["id"].as_str().unwrap_or_else(|| panic!("{made}"))).await;
            assert_eq!(finished["output"]["text"], text, "{form}: {finished}");
        }
    }
    served.stop().await;
}
