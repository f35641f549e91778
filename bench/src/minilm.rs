//! The encoder that is measured, all-MiniLM-L6-v2 with its real weights, in each of its precisions, and texts for it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tokio::process::Command;

use crate::program::{program, without_settings};

/// The shortest and the longest text, in tokens.
const LENGTHS: (f64, f64) = (4.0, 256.0);
/// Tokens that stand around a text.
const SPECIAL: usize = 2;
/// What texts are drawn with: the same ones every time.
const SEED: u64 = 20_260_101;

/// How exact products are, as manifests say it.
pub(crate) const PRECISIONS: [&str; 3] = ["f32", "bf16", "int8"];

/// Where it lies; fetched if need be.
///
/// # Errors
/// Says why it cannot be had.
pub(crate) async fn fetched() -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above");
    let fetched = Command::new(root.join("scripts/fetch-test-model")).output().await.expect("a script can be started");
    if fetched.status.success() {
        let path = String::from_utf8(fetched.stdout).expect("paths are in UTF-8");
        Ok(path.trim_end().into())
    } else {
        Err(String::from_utf8_lossy(&fetched.stderr).trim_end().to_owned())
    }
}

/// What it is called in a precision.
pub(crate) fn name(precision: &str) -> String {
    format!("bench/minilm-{precision}")
}

/// Directories of it in each of [`PRECISIONS`], below `parent`: a copy, and what `augur models quantize` makes of that.
pub(crate) async fn variants(model: &Path, parent: &Path) -> Vec<PathBuf> {
    let [original, made @ ..] = PRECISIONS;
    let files = inference::inspect(model).expect("the model is sound").files.into_iter().map(|file| file.path);
    inference::copy_files(model, &parent.join(name(original)), files).expect("files can be copied");
    for precision in made {
        let mut quantize = without_settings(&program("augur"));
        quantize.args(["models", "quantize", &name(original), "--to", precision, "--name", &name(precision), "--yes"]);
        let quantized = quantize.arg("--models-dir").arg(parent).output().await.expect("it can be started");
        assert!(quantized.status.success(), "{}", String::from_utf8_lossy(&quantized.stderr));
    }
    PRECISIONS.iter().map(|precision| parent.join(name(precision))).collect()
}

/// A directory of models with one that lies elsewhere, as `augur models add` brings it.
pub(crate) async fn added(dir: &Path, models: &Path) -> PathBuf {
    let name = dir.file_name().and_then(|name| name.to_str()).expect("variants are called as their models");
    let mut add = without_settings(&program("augur"));
    add.args(["models", "add", "--name", &format!("bench/{name}"), "--models-dir"]).arg(models).arg(dir);
    let added = add.output().await.expect("it can be started");
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    models.to_owned()
}

/// Texts of 4 to 256 tokens, of words that the vocabulary has whole. Lengths are spread evenly over orders of magnitude (of any two
/// powers of two as many texts lie between them and their doubles), as short texts are more common than long ones.
pub(crate) fn texts(model: &Path, count: usize) -> Vec<String> {
    let tokenizer = fs::read(model.join("tokenizer.json")).expect("it has a tokenizer");
    let tokenizer: Value = serde_json::from_slice(&tokenizer).expect("a tokenizer is JSON");
    let vocabulary = tokenizer["model"]["vocab"].as_object().expect("a tokenizer has a vocabulary");
    let is_word = |word: &&String| word.len() > 1 && word.bytes().all(|byte| byte.is_ascii_lowercase());
    let words: Vec<&String> = vocabulary.keys().filter(is_word).collect();
    let mut random = Random(SEED);
    let (shortest, longest) = LENGTHS;
    let text = |_| {
        let tokens = shortest * (longest / shortest).powf(random.share());
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let chosen = (0..tokens.round() as usize - SPECIAL).map(|_| words[random.below(words.len())].as_str());
        chosen.collect::<Vec<_>>().join(" ")
    };
    (0..count).map(text).collect()
}

/// Tokens of such a text.
pub(crate) fn tokens(text: &str) -> usize {
    text.split(' ').count() + SPECIAL
}

/// Numbers that look random: `SplitMix64` (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to 1, less than 1.
    #[allow(clippy::cast_precision_loss)]
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    #[allow(clippy::cast_possible_truncation)]
    fn below(&mut self, count: usize) -> usize {
        (self.next() % count as u64) as usize
    }
}
