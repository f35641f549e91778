//! `augur models prune`: what it makes, what it shows, and what it refuses. What is computed afterwards, `inference` tests.

use std::fs;

use serde_json::{Value, json};

use crate::{
    quantize::{GENERATOR, Home},
    served::flag,
    tiny,
};

#[tokio::test]
async fn the_report_comes_first_and_without_a_yes_nothing_is_kept() {
    let home = Home::new().await;
    let before = home.listed().await;
    for (cut, parts) in [
        (["--heads", "1"], vec!["removed: heads ", " of layer 0 (counted from 0)"]),
        (["--sparsity", "0.5"], vec!["removed: nothing, but 256 of ", "products take as long"]),
    ] {
        let ran = home.run(&[&["prune", tiny::NAME], &cut[..]].concat()).await;
        assert_eq!(ran.status, Some(3), "{ran:?}");
        assert!(ran.err.contains("was not kept; --yes keeps it"), "{ran:?}");
        for part in
            [&["ORIGINAL", "files", "an input", "on 25 inputs: cosine with the original 0."], &parts[..]].concat()
        {
            assert!(ran.out.contains(part), "{part}: {}", ran.out);
        }
    }
    assert_eq!((home.listed().await, home.owners()), (before, 2), "nothing is left over");
}

#[tokio::test]
async fn what_was_pruned_stands_beside_its_original_and_serves() {
    let home = Home::new().await;
    let before = home.listed().await;
    let ran = home.run(&["prune", tiny::NAME, "--heads", "1", "--yes", "--json"]).await;
    assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    let report: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(report["removed"]["heads"][0].as_array().map(Vec::len), Some(1), "{report}");
    assert!(report["result"]["weight_bytes"].as_u64() < report["original"]["weight_bytes"].as_u64(), "{report}");
    let made = format!("{}@less-1-head", tiny::NAME);
    let shown: Value = serde_json::from_str(&home.run(&["inspect", &made, "--json"]).await.out).expect("JSON");
    assert_eq!((&shown["version"], &shown["license"]), (&report["result"]["version"], &json!("apache-2.0")));
    assert!(shown["description"].as_str().is_some_and(|text| text.ends_with("Each layer lacks 1 attention head.")));
    let narrow = home.run(&["quantize", &made, "--to", "int8", "--yes", "--json", "--name", "my/narrow"]).await;
    assert_eq!(narrow.status, Some(0), "what was pruned can be quantised: {narrow:?}");
    let sparse =
        home.run(&["prune", "my/narrow", "--sparsity", "0.25", "--yes", "--json", "--name", "my/sparse"]).await;
    let report: Value = serde_json::from_str(&sparse.out).expect("JSON");
    assert_eq!((sparse.status, &report["result"]["precision"]), (Some(0), &json!("int8")), "{sparse:?}");
    let after = home.listed().await;
    assert!(before.iter().all(|model| after.contains(model)), "originals are as they were: {after:?}");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_leaves_nothing() {
    let home = Home::new().await;
    let before = home.listed().await;
    let absent = flag("calibration", std::path::Path::new("absent.jsonl"));
    for (arguments, said) in [
        (vec!["nobody/nothing", "--heads", "1"], "there is no model nobody/nothing"),
        (vec![tiny::NAME, "--heads", "2"], "layer 0 has 2 attention heads; at most 1 can be removed"),
        (vec![tiny::NAME, "--layers", "1"], "has one layer, which stays"),
        (vec![tiny::NAME, "--sparsity", "0.0001"], "no whole number of any matrix"),
        (vec![GENERATOR, "--layers", "2"], "has 2 layers; at most 1 can be removed"),
        (vec![GENERATOR, "--heads", "1"], "4 attention heads in 2 groups of 2"),
        (vec!["my/vit", "--heads", "2"], "layer 0 has 2 attention heads; at most 1 can be removed"),
        (vec![tiny::NAME, "--heads", "1", &absent], "absent.jsonl: cannot be read"),
        (vec![tiny::NAME, "--heads", "1", "--name", "my/vit"], "my/vit is there already"),
    ] {
        let ran = home.run(&[&["prune", "--yes"], &arguments[..]].concat()).await;
        assert_eq!((ran.status, ran.out.as_str()), (Some(1), ""), "{ran:?}");
        assert!(ran.err.contains(said), "{said}: {ran:?}");
    }
    for (arguments, said) in [
        (vec![], "--heads"),
        (vec!["--heads", "1", "--layers", "1"], "cannot be used with"),
        (vec!["--heads", "0"], "a whole number above 0 is expected"),
        (vec!["--layers=-1"], "a whole number above 0 is expected"),
        (vec!["--sparsity", "1"], "above 0 and below 1"),
        (vec!["--sparsity", "NaN"], "above 0 and below 1"),
    ] {
        let ran = home.run(&[&["prune", tiny::NAME], &arguments[..]].concat()).await;
        assert!(ran.status == Some(2) && ran.err.contains(said), "{said}: {ran:?}");
    }
    assert_eq!((home.listed().await, home.owners()), (before, 2), "nothing is left over");
}

#[tokio::test]
async fn generators_and_networks_for_images_are_pruned_too() {
    let home = Home::new().await;
    let before = home.listed().await;
    let inputs = home.0.path().join(format!("../{}-prompts.jsonl", std::process::id()));
    let prompts = [json!({"prompt": "ships ".repeat(500)}), json!({"prompt": "The ships", "max_tokens": 127})];
    fs::write(&inputs, prompts.map(|prompt| format!("{prompt}\n")).concat()).expect("writes");
    let calibration = flag("calibration", &inputs);
    for (model, arguments, label, removed, lacks) in [
        (GENERATOR, vec!["--layers", "1", &calibration], "less-1-layer", json!({"layers": [1]}), " It lacks 1 layer."),
        (GENERATOR, vec!["--heads", "2", &calibration], "less-2-heads", json!(null), " lacks 2 attention heads."),
        (
            GENERATOR,
            vec!["--sparsity", "0.5", &calibration],
            "sparse-0.5",
            json!(null),
            " smallest 50 % were set to 0.",
        ),
        ("my/vit", vec!["--heads", "1"], "less-1-head", json!(null), " lacks 1 attention head."),
        ("my/vit", vec!["--sparsity", "0.25"], "sparse-0.25", json!(null), " smallest 25 % were set to 0."),
    ] {
        let ran = home.run(&[&["prune", model, "--yes", "--json"], &arguments[..]].concat()).await;
        assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""), "{ran:?}");
        let report: Value = serde_json::from_str(&ran.out).expect("JSON");
        if removed.is_object() {
            assert_eq!(report["removed"], removed, "{report}");
        }
        let is_smaller = report["result"]["file_bytes"].as_u64() < report["original"]["file_bytes"].as_u64();
        assert_eq!(is_smaller, !label.starts_with("sparse"), "{report}");
        if model == GENERATOR {
            // What is longer than the context is cut, and that is said; what shall follow does not count.
            assert_eq!((&report["agreement"]["inputs_cut"], &report["inputs"]), (&json!(1), &json!(2)), "{report}");
            assert!(report["agreement"]["mean_divergence"].as_f64() > Some(0.0), "{report}");
        }
        let shown = home.run(&["inspect", &format!("{model}@{label}"), "--json"]).await;
        let shown: Value = serde_json::from_str(&shown.out).expect("JSON");
        assert_eq!(shown["version"], report["result"]["version"], "it loads and runs: {shown}");
        assert!(shown["description"].as_str().is_some_and(|text| text.ends_with(lacks)), "{shown}");
    }
    let words = home.run(&["quantize", GENERATOR, "--to", "q8_0", &calibration]).await;
    assert!(words.out.contains(" (of 1 prompts only the first 128), mean divergence"), "{words:?}");
    fs::remove_file(&inputs).expect("removes");
    let after = home.listed().await;
    assert!(before.iter().all(|model| after.contains(model)), "originals are as they were: {after:?}");
}
