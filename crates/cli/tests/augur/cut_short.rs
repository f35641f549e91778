//! Commands that make versions of models, cut short while they write: nothing half-made is left where a server looks.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    once::{ended, limited},
    quantize::{GENERATOR, Home},
    tiny,
};

/// All files that are not hidden, below hidden directories neither.
fn seen(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("it can be read").map(|entry| entry.expect("it can be read").path());
    let shown = entries.filter(|path| !path.file_name().expect("a name").to_string_lossy().starts_with('.'));
    let mut found: Vec<_> = shown.flat_map(|path| if path.is_dir() { seen(&path) } else { vec![path] }).collect();
    found.sort();
    found
}

#[tokio::test]
async fn what_was_not_written_to_its_end_is_no_model() {
    let home = Home::new().await;
    let root = home.0.path();
    let (before, files) = (home.listed().await, seen(root));
    let blocks = |file: &str| fs::metadata(root.join(file)).expect("is there").len() / 512 / 3;
    let (weights, generator) = (format!("{}/{}", tiny::NAME, tiny::WEIGHTS), "my/generator/llama-f32.gguf");
    for (arguments, file) in [
        (["prune", tiny::NAME, "--heads", "1"], weights.as_str()),
        (["prune", tiny::NAME, "--sparsity", "0.5"], &weights),
        (["quantize", tiny::NAME, "--to", "bf16"], &weights),
        (["prune", "my/vit", "--heads", "1"], "my/vit/model.safetensors"),
        (["prune", GENERATOR, "--layers", "1"], generator),
        (["prune", GENERATOR, "--sparsity", "0.5"], generator),
        (["quantize", GENERATOR, "--to", "q8_0"], generator),
    ] {
        let all = home.arguments(&[&arguments[..], &["--yes"]].concat());
        let all: Vec<_> = all.iter().map(String::as_str).collect();
        // The result in 8 bits is a quarter as large.
        let blocks = if arguments.contains(&"q8_0") { blocks(file) / 3 } else { blocks(file) };
        let killed = ended(limited(&all, blocks, false), "").await;
        assert_eq!((killed.status, killed.out.as_str()), (None, ""), "a signal ends it: {killed:?}");
        assert_eq!((seen(root), home.listed().await), (files.clone(), before.clone()), "{arguments:?}");
        assert_eq!(home.owners(), 3, "what was gathered is left, hidden");
        let full = ended(limited(&all, blocks, true), "").await;
        assert_eq!((full.status, full.out.as_str()), (Some(1), ""), "{full:?}");
        assert!(full.err.contains("cannot be written: "), "{full:?}");
        assert_eq!((seen(root), home.listed().await), (files.clone(), before.clone()), "{arguments:?}");
        assert_eq!(home.owners(), 2, "nothing is left over, not of the attempt before either");
    }
    // What another process gathers stays.
    let other = root.join(".prune-1-my--generator@less-1-layer");
    fs::create_dir(&other).expect("makes a directory");
    let lock = fs::File::create(other.join("lock")).expect("makes a file");
    lock.lock().expect("locks");
    let again = home.run(&["prune", GENERATOR, "--layers", "1", "--yes"]).await;
    assert_eq!((again.status, other.exists()), (Some(0), true), "{again:?}");
}
