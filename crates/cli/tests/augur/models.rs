//! `augur models`: what is listed, shown and added.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    once::{Ran, augur},
    served::{MODELS, flag},
    tiny, tiny_image,
};

fn temporary() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// A model's directory in a directory of models, with the digits in it, as they are shipped.
fn digits(models: &Path, name: &str) -> PathBuf {
    let dir = models.join(name);
    fs::create_dir_all(&dir).expect("a directory");
    for file in ["model.toml", "input.schema.json", "output.schema.json", tiny::WEIGHTS] {
        fs::copy(Path::new(MODELS).join("augur/digits").join(file), dir.join(file)).expect("a copy");
    }
    dir
}

/// Everything in a directory of models, what is hidden included.
fn all_in(models: &Path) -> Vec<String> {
    let entries = fs::read_dir(models).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

async fn models(models_dir: &Path, arguments: &[&str]) -> Ran {
    let models_dir = flag("models-dir", models_dir);
    augur(&[&["models"], arguments, &[&models_dir]].concat()).await
}

fn printed(ran: &Ran) -> Value {
    assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    serde_json::from_str(&ran.out).expect("JSON")
}

#[tokio::test]
async fn what_is_bundled_is_listed() {
    let ran = models(Path::new(MODELS), &["ls"]).await;
    assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    let rows: Vec<Vec<&str>> = ran.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "TASK", "VERSION", "SIZE", "DEFAULT"]);
    assert_eq!(rows[1][..2], ["augur/digits", "image-classification"]);
    assert_eq!((rows[2][0], rows.len()), ("augur/iris", 3));
    let listed = printed(&models(Path::new(MODELS), &["ls", "--json"]).await);
    assert!(listed[0]["version"].as_str().expect("a version").starts_with(rows[1][2]), "{listed}");
    assert_eq!(listed[0]["parameters"], 17_226 + 128, "weights, biases, offset and scale");
}

#[tokio::test]
async fn what_is_broken_is_listed_with_its_reason() {
    let home = temporary();
    digits(home.path(), "augur/digits");
    fs::write(digits(home.path(), "augur/short").join(tiny::WEIGHTS), "short").expect("writes");
    fs::create_dir_all(home.path().join("augur/empty")).expect("a directory");
    fs::create_dir_all(home.path().join(".pull-augur--half/augur/half")).expect("a directory");
    digits(home.path(), "alone");
    let ran = models(home.path(), &["ls"]).await;
    assert_eq!((ran.status, ran.out.lines().count()), (Some(0), 5), "{ran:?}");
    let line = |name: &str| ran.out.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    assert!(line("augur/short").contains("broken: says it is augur/digits"), "{}", ran.out);
    assert!(line("augur/empty").contains("broken: no model"), "{}", ran.out);
    assert!(line("augur/alone").contains("broken: a model lies in <models>/<owner>/<name>"), "{}", ran.out);
    let listed = printed(&models(home.path(), &["ls", "--json"]).await);
    let errors = listed.as_array().expect("a list").iter().filter(|model| model["error"].is_string()).count();
    assert_eq!(errors, 3, "{listed}");

    let ran = models(&home.path().join("absent"), &["ls"]).await;
    assert!(ran.status == Some(1) && ran.err.contains("absent"), "{ran:?}");
}

#[tokio::test]
async fn a_model_is_shown_with_all_that_it_is() {
    let ran = models(Path::new(MODELS), &["inspect", "digits"]).await;
    assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    for part in
        ["architecture  mlp", "parameters    17,354", "held-out", "\"pixels\"", "model.safetensors", "128 in a batch"]
    {
        let expected = part != "held-out";
        assert_eq!(ran.out.contains(part), expected, "{part}:\n{}", ran.out);
    }
    let shown = printed(&models(Path::new(MODELS), &["inspect", "augur/iris", "--json"]).await);
    assert_eq!((&shown["task"], &shown["architecture"]), (&"tabular-classification".into(), &"mlp".into()), "{shown}");
    assert_eq!(shown["memory"]["weight_bytes"], shown["parameters"].as_u64().expect("a number") * 4);
    let digests = shown["files"].as_array().expect("files").iter().filter_map(|file| file["sha256"].as_str());
    assert!(digests.clone().count() >= 4 && digests.clone().all(|digest| digest.len() == 64), "{shown}");
    assert!(shown["input_schema"]["properties"].is_object() && shown["limits"]["max_batch"].is_u64(), "{shown}");

    let ran = models(Path::new(MODELS), &["inspect", "nobody/nothing"]).await;
    assert!(ran.status == Some(1) && ran.err.contains("augur models ls"), "{ran:?}");
}

#[tokio::test]
async fn a_classifier_of_images_is_added_listed_and_shown() {
    let (home, models_dir) = (temporary(), temporary());
    let from = home.path().join("My-Org/My-Vit");
    tiny_image::write(&from, 1);
    let ran = models(models_dir.path(), &["add", from.to_str().expect("a path")]).await;
    assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    let files = all_in(&models_dir.path().join("my-org/my-vit"));
    assert_eq!(files, ["README.md", "config.json", tiny::WEIGHTS, "preprocessor_config.json"]);
    let listed = printed(&models(models_dir.path(), &["ls", "--json"]).await);
    assert_eq!((&listed[0]["name"], &listed[0]["task"]), (&"my-org/my-vit".into(), &"image-classification".into()));
    let shown = printed(&models(models_dir.path(), &["inspect", "my-org/my-vit", "--json"]).await);
    assert_eq!((&shown["architecture"], &shown["license"]), (&"vit".into(), &"mit".into()), "{shown}");
    assert_eq!(shown["output_schema"]["items"]["properties"]["label"]["enum"], json!(["cat", "dog", "ship"]));
    assert!(shown["input_schema"]["properties"]["image"]["maxLength"].is_u64(), "{shown}");
    assert_eq!(shown["files"].as_array().map(Vec::len), Some(3), "{shown}");

    fs::write(from.join("preprocessor_config.json"), r#"{"size": 8, "do_pad": true}"#).expect("writes");
    let ran = models(models_dir.path(), &["add", "--replace", from.to_str().expect("a path")]).await;
    assert!(ran.status == Some(1) && ran.err.contains("preprocessor_config.json: do_pad true is not known"), "{ran:?}");
}

#[tokio::test]
async fn a_directory_is_added_whole_under_its_name_or_another() {
    let (home, models_dir) = (temporary(), temporary());
    let from = home.path().join("My-Org/My-Encoder");
    tiny::write(&from, 1);
    let from = from.to_str().expect("a path");
    let ran = models(models_dir.path(), &["add", from]).await;
    assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    assert!(ran.out.starts_with("added my-org/my-encoder, version "), "{ran:?}");
    let added = models_dir.path().join("my-org/my-encoder");
    let mut files = all_in(&added);
    files.sort();
    assert_eq!(files, ["1_Pooling", "README.md", "config.json", tiny::WEIGHTS, "modules.json", "tokenizer.json"]);
    let shown = printed(&models(models_dir.path(), &["inspect", "my-org/my-encoder", "--json"]).await);
    assert_eq!((&shown["license"], &shown["precision"]), (&"apache-2.0".into(), &"f32".into()), "{shown}");

    // Directories need not be in lower case, as names are.
    let ran = models(home.path(), &["inspect", "My-Org/My-Encoder"]).await;
    assert!(ran.status == Some(0) && ran.out.starts_with("my-org/my-encoder\n"), "{ran:?}");

    let ran = models(models_dir.path(), &["add", from, "--name", "other"]).await;
    assert!(ran.out.starts_with("added augur/other, version "), "{ran:?}");
    assert_eq!(all_in(models_dir.path()), [".prepared", "augur", "my-org"], "nothing else is left over");
    // For the first start of a server.
    let remembered = fs::read(models_dir.path().join(".prepared/digests.json")).expect("is there");
    let remembered: serde_json::Map<_, _> = serde_json::from_slice(&remembered).expect("JSON");
    let weights = |dir: &str| fs::canonicalize(models_dir.path().join(dir).join(tiny::WEIGHTS)).expect("is there");
    let weights = ["augur/other", "my-org/my-encoder"].map(|dir| weights(dir).to_str().expect("a path").to_owned());
    assert_eq!(remembered.keys().collect::<Vec<_>>(), weights.iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn what_is_there_is_replaced_only_when_that_is_said() {
    let (home, models_dir) = (temporary(), temporary());
    let from = [1, 2].map(|seed| {
        let from = home.path().join(format!("{seed}/org/encoder"));
        tiny::write(&from, seed);
        from.to_str().expect("a path").to_owned()
    });
    let version = async || printed(&models(models_dir.path(), &["ls", "--json"]).await)[0]["version"].clone();
    assert_eq!(models(models_dir.path(), &["add", &from[0]]).await.status, Some(0));
    let first = version().await;
    let ran = models(models_dir.path(), &["add", &from[1]]).await;
    assert!(ran.status == Some(1) && ran.err.contains("--replace"), "{ran:?}");
    assert_eq!(version().await, first);
    let ran = models(models_dir.path(), &["add", &from[1], "--replace"]).await;
    assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    assert_ne!(version().await, first);
    assert_eq!(all_in(models_dir.path()), [".prepared", "org"], "nothing else is left over");
}

#[tokio::test]
async fn what_does_not_run_is_not_added() {
    let (home, models_dir) = (temporary(), temporary());
    let spoilt = |name: &str, file: &str, content: Option<&str>| {
        let dir = home.path().join("org").join(name);
        tiny::write(&dir, 1);
        match content {
            Some(content) => fs::write(dir.join(file), content).expect("writes"),
            None => fs::remove_file(dir.join(file)).expect("removes"),
        }
        dir.to_str().expect("a path").to_owned()
    };
    let pickle = home.path().join("model.pt").to_str().expect("a path").to_owned();
    let other = digits(home.path(), "augur/digits").to_str().expect("a path").to_owned();
    let cases = [
        (vec![spoilt("no-weights", tiny::WEIGHTS, None)], "pickle, which can run code"),
        (vec![spoilt("no-tokenizer", "tokenizer.json", Some("{}"))], "tokenizer.json"),
        (vec![spoilt("short", tiny::WEIGHTS, Some("short"))], "safetensors"),
        (vec![pickle], "pickle, which can run code"),
        (vec![home.path().join("absent").to_str().expect("a path").to_owned()], "is not a directory"),
        (vec![other, "--name=augur/numbers".to_owned()], "says that the model is augur/digits"),
    ];
    for (arguments, said) in cases {
        let arguments: Vec<&str> = ["add"].into_iter().chain(arguments.iter().map(String::as_str)).collect();
        let ran = models(models_dir.path(), &arguments).await;
        assert_eq!((ran.status, ran.out.as_str()), (Some(1), ""), "{ran:?}");
        assert!(ran.err.contains(said), "{said}: {ran:?}");
        assert!(all_in(models_dir.path()).is_empty(), "nothing is left over");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_measured_by_length_and_by_how_many_ask() {
    let models_dir = temporary();
    tiny::write(&models_dir.path().join(tiny::NAME), 1);
    digits(models_dir.path(), "augur/digits");
    let measured = printed(&models(models_dir.path(), &["bench", tiny::NAME, "--each=20ms", "--json"]).await);
    let rows = measured.as_array().expect("a list");
    assert_eq!(rows.len(), 9, "{measured}");
    assert!(
        rows.iter().all(|row| row["per_second"].as_f64() > Some(0.0) && row["tokens"].as_u64() <= Some(16)),
        "{measured}"
    );
    assert!(rows[0]["tokens"].as_u64() < rows[8]["tokens"].as_u64(), "longer texts have more: {measured}");
    assert_eq!((&rows[0]["mean_batch"], &rows[0]["at_once"]), (&1.0.into(), &1.into()), "{measured}");

    let ran = models(models_dir.path(), &["bench", "digits", "--each=20ms"]).await;
    assert_eq!((ran.status, ran.out.lines().count(), ran.err.as_str()), (Some(0), 6, ""), "{ran:?}");
    assert!(ran.out.contains("█") && ran.out.contains("AT ONCE"), "{}", ran.out);
    assert!(ran.out.contains("P99") && !ran.out.contains("WORDS"), "digits have none: {}", ran.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generator_is_measured_by_what_it_reads_and_what_it_writes() {
    let home = temporary();
    let file = Path::new(MODELS).join("../crates/inference/tests/goldens/generators/llama-f32.gguf");
    assert_eq!(models(home.path(), &["add", &file.to_string_lossy(), "--name", "my/generator"]).await.status, Some(0));
    let rows = printed(&models(home.path(), &["bench", "my/generator", "--each=5ms", "--json"]).await);
    let rows = rows.as_array().expect("a list");
    let of = |most: f64| {
        rows.iter().filter(move |row| row["written_tokens"].as_f64().is_some_and(|written| written <= most))
    };
    assert!(of(1.0).count() >= 3 && of(32.0).count() > of(1.0).count(), "{rows:?}");
    for row in rows {
        let number = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key}: {row}"));
        let counted = if number("written_tokens") > 1.0 { "written_tokens" } else { "tokens" };
        let expected = number(counted) * number("per_second");
        assert!((number("tokens_per_second") - expected).abs() <= expected * 1e-9, "{row}");
    }
    // Its context is shorter than the longest prompt.
    let ran = models(home.path(), &["bench", "my/generator", "--each=5ms"]).await;
    assert!(ran.status == Some(0) && ran.out.contains("WRITTEN") && ran.out.contains("TOKENS/S"), "{ran:?}");
    assert!(ran.out.contains("left out: ") && ran.out.contains("of the model's context"), "{}", ran.out);
}

#[tokio::test]
async fn a_gguf_file_is_a_model() {
    let (home, file) =
        (temporary(), Path::new(MODELS).join("../crates/inference/tests/goldens/generators/qwen2-q4_0.gguf"));
    let added = models(home.path(), &["add", &file.to_string_lossy()]).await;
    assert_eq!((added.status, added.err.as_str()), (Some(0), ""), "{added:?}");
    assert!(added.out.contains("added augur/qwen2-q4_0, version "), "{added:?}");
    assert_eq!(all_in(home.path()), [".prepared", "augur"]);
    let shown = printed(&models(home.path(), &["inspect", "qwen2-q4_0", "--json"]).await);
    assert_eq!((&shown["task"], &shown["architecture"]), (&"text-generation".into(), &"decoder".into()), "{shown}");
    let again = models(home.path(), &["add", &file.to_string_lossy()]).await;
    assert!(again.status != Some(0) && again.err.contains("is there already"), "{again:?}");

    let broken = home.path().join("broken.gguf");
    fs::write(&broken, b"GGUF\x03\0\0\0\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F").expect("writes");
    let refused = models(home.path(), &["add", &broken.to_string_lossy(), "--name", "my/model"]).await;
    assert!(
        refused.status != Some(0) && refused.err.contains("not sound GGUF: states 9223372036854775807 tensors"),
        "{refused:?}"
    );
    assert_eq!(all_in(home.path()), [".prepared", "augur", "broken.gguf"]);
}
