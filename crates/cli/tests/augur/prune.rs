//! `augur models prune`: what it makes, what it shows, and what it refuses. What is computed afterwards, `inference` tests.

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
        (vec![GENERATOR, "--layers", "1"], "does text-generation; only encoders of texts can be pruned"),
        (vec!["my/vit", "--heads", "1"], "does image-classification; only encoders of texts can be pruned"),
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
