//! Text embedding as a server runs it: the fetched model through the registry and the batching engine, against the reference, on the processor and, where there is
//! one, on a card.

mod card;
mod fetched;

use std::{fs, path::PathBuf};

use inference::{Abandon, Config, Cpu, Cut, Device, Machine, Model, Models, Output, Precision, inspect, prune};
use prediction::{Failure, FailureCode};
use serde::Deserialize;
use serde_json::{Value, json, value::to_raw_value};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;

/// The largest difference allowed between any two numbers that should be the same.
const TOLERANCE: f64 = 1e-5;

#[derive(Deserialize)]
struct Goldens {
    goldens: Vec<Golden>,
}

#[derive(Deserialize)]
struct Golden {
    name: String,
    text: String,
    tokens: u32,
    embedding: Vec<f64>,
}

fn goldens() -> Vec<Golden> {
    let file: Goldens = serde_json::from_str(include_str!("goldens/all-minilm-l6-v2.json")).expect("goldens");
    assert!(file.goldens.len() >= 50);
    file.goldens
}

/// That model, loaded.
fn model() -> Model {
    load(fetched::dir())
}

fn load(dir: PathBuf) -> Model {
    load_for(dir, Machine::default())
}

fn load_for(dir: PathBuf, machine: Machine) -> Model {
    let config = Config { model_dirs: vec![dir], machine, ..Config::default() };
    let models = Models::load(&config).expect("the model loads");
    let spec = models.specs().remove(0);
    models.get(&spec.name, &spec.version).expect("what is served can be had")
}

async fn predict(model: &Model, input: &Value) -> Result<Output, Failure> {
    model.predict(&to_raw_value(input).expect("JSON"), Abandon::default()).await
}

async fn embed(model: &Model, text: &str) -> (Vec<f64>, Output) {
    let output = predict(model, &json!({"text": text})).await.expect("an embedding");
    let value: Value = serde_json::from_str(output.value.get()).expect("JSON");
    jsonschema::validate(&model.spec().output_schema, &value).expect("the output fits its schema");
    (serde_json::from_value(value["embedding"].clone()).expect("numbers"), output)
}

/// The largest difference between two vectors' numbers.
fn apart(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).max_by(f64::total_cmp).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_are_those_of_sentence_transformers_alone_and_batched() {
    are_those_of_sentence_transformers(&model()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_they_are_by_the_steps_of_a_card_in_plain_loops() {
    let machine = Machine { device: Device::Plain, ..Machine::default() };
    are_those_of_sentence_transformers(&load_for(fetched::dir(), machine)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cuda_embeddings_are_those_of_sentence_transformers() {
    let Some(machine) = card::machine("cuda_embeddings_are_those_of_sentence_transformers") else { return };
    are_those_of_sentence_transformers(&load_for(fetched::dir(), machine)).await;
}

async fn are_those_of_sentence_transformers(model: &Model) {
    let goldens = goldens();
    let mut alone = Vec::new();
    for golden in &goldens {
        let (embedding, output) = embed(model, &golden.text).await;
        let apart = apart(&embedding, &golden.embedding);
        assert!(apart <= TOLERANCE, "{} alone is {apart} from the reference", golden.name);
        assert_eq!((output.tokens, output.batch_size), (Some(golden.tokens), 1), "{}", golden.name);
        alone.push(embedding);
    }
    let mut together = JoinSet::new();
    // So many that a batch begins while another ends.
    for (index, golden) in goldens.iter().enumerate().cycle().take(4 * goldens.len()) {
        let (model, text) = (model.clone(), golden.text.clone());
        together.spawn(async move { (index, embed(&model, &text).await) });
    }
    let mut largest_batch = 0;
    while let Some(done) = together.join_next().await {
        let (index, (embedding, output)) = done.expect("no panic");
        let apart = apart(&embedding, &alone[index]);
        assert!(apart <= TOLERANCE, "{} in a batch is {apart} from itself alone", goldens[index].name);
        assert_eq!(output.tokens, Some(goldens[index].tokens));
        largest_batch = largest_batch.max(output.batch_size);
    }
    assert!(largest_batch > 1, "all were sent at once, but none was batched");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_says_how_exact_a_model_is() {
    is_as_exact_as_its_manifest_says(Machine::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cuda_a_manifest_says_how_exact_a_model_is() {
    let Some(machine) = card::machine("cuda_a_manifest_says_how_exact_a_model_is") else { return };
    is_as_exact_as_its_manifest_says(machine).await;
}

async fn is_as_exact_as_its_manifest_says(machine: Machine) {
    let (home, mut models) = (tempfile::tempdir().expect("a directory"), Vec::new());
    let dir = home.path().join("augur/exact");
    let digest = |file: &&str| {
        let to = dir.join(file);
        fs::create_dir_all(to.parent().expect("a parent")).expect("makes a directory");
        fs::copy(fetched::dir().join(file), &to).expect("copies");
        let sha256 = hex::encode(Sha256::digest(fs::read(to).expect("reads")));
        format!("[[files]]\npath = \"{file}\"\nsha256 = \"{sha256}\"\n")
    };
    let files = [
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "sentence_bert_config.json",
        "modules.json",
        "config_sentence_transformers.json",
        "1_Pooling/config.json",
    ];
    let files: String = files.iter().map(digest).collect();
    let head = "task = \"feature-extraction\"\narchitecture = \"encoder\"\ndescription = \"\"\n";
    for precision in ["f32", "bf16", "int8"] {
        let manifest = format!("{head}precision = \"{precision}\"\n{files}");
        fs::write(dir.join("model.toml"), manifest).expect("writes");
        models.push(load_for(dir.clone(), machine));
    }
    let devices: Vec<Device> = models.iter().map(Model::device).collect();
    assert_eq!(devices, [machine.device, machine.device, Device::Cpu], "int8 has no path on a card");
    let (exact, _) = embed(&models[0], "A lighthouse keeper counts the ships.").await;
    for (model, precision, least) in [(&models[1], Precision::Bf16, 0.9999), (&models[2], Precision::Int8, 0.995)] {
        assert_ne!(models[0].spec().version, model.spec().version);
        let (rounded, _) = embed(model, "A lighthouse keeper counts the ships.").await;
        let cosine: f64 = exact.iter().zip(&rounded).map(|(a, b)| a * b).sum();
        assert!((least..1.0001).contains(&cosine), "{precision:?}: {cosine}");
        if model.device() != Device::Cpu || Cpu::best().precision(precision) != Precision::F32 {
            assert!(apart(&exact, &rounded) > TOLERANCE, "{precision:?} is not so exact");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_little_less_of_a_model_is_still_near_it() {
    let (goldens, found) = (goldens(), inspect(&fetched::dir()).expect("sound"));
    let inputs: Vec<_> = goldens.iter().map(|golden| json!({"text": golden.text})).collect();
    for (cut, is_smaller, least) in
        [(Cut::Heads(1), true, 0.9), (Cut::Layers(1), true, 0.8), (Cut::Sparsity(0.2), false, 0.95)]
    {
        let home = tempfile::tempdir().expect("a directory");
        let (name, made) = ("my/less".parse().expect("a name"), home.path().join("less"));
        fs::create_dir(&made).expect("makes a directory");
        prune(&found, cut, &inputs, &name, &made, Machine::default()).expect("prunes");
        let parameters = inspect(&made).expect("sound").parameters;
        assert_eq!(parameters < found.parameters, is_smaller, "{cut:?}: {parameters} of {}", found.parameters);
        let (less, mut sum) = (load(made), 0.0);
        for golden in &goldens {
            let (embedding, _) = embed(&less, &golden.text).await;
            sum += embedding.iter().zip(&golden.embedding).map(|(a, b)| a * b).sum::<f64>();
        }
        let mean = sum / goldens.len() as f64;
        assert!(mean >= least && mean < 0.9999, "{cut:?}: a mean cosine of {mean}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_beyond_the_last_token_changes_nothing() {
    let model = model();
    let words = |count: usize, last: &str| format!("{}{last}", "tree ".repeat(count));
    let (full, output) = embed(&model, &words(253, "tree")).await;
    assert_eq!(output.tokens, Some(256));
    let (longer, output) = embed(&model, &words(254, "storm and thunder")).await;
    assert_eq!((output.tokens, apart(&full, &longer)), (Some(256), 0.0));
    let (other, _) = embed(&model, &words(253, "storm")).await;
    assert!(apart(&full, &other) > TOLERANCE, "the last token is read");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_specification_says_what_is_taken_and_given() {
    let model = model();
    let spec = model.spec();
    assert_eq!(spec.task, "feature-extraction");
    assert_eq!(spec.license.as_deref(), Some("apache-2.0"));
    assert!(
        spec.description.contains("384 numbers") && spec.description.contains("256 tokens"),
        "{}",
        spec.description
    );
    for (input, fits) in [
        (json!({"text": "a text"}), true),
        (json!({"text": ""}), true),
        (json!({"text": "🚀".repeat(100_000)}), true),
        (json!({"text": "🚀".repeat(100_001)}), false),
        (json!({"text": 1}), false),
        (json!({"texts": ["a text"]}), false),
        (json!({"text": "a text", "more": true}), false),
        (json!("a text"), false),
    ] {
        assert_eq!(jsonschema::is_valid(&spec.input_schema, &input), fits, "{:.40}", input.to_string());
        if !fits && input.get("text").is_none_or(|text| !text.is_string()) {
            let failure = predict(&model, &input).await.expect_err("is no text");
            assert_eq!(failure.code, FailureCode::InvalidInput);
        }
    }
}
