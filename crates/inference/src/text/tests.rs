//! The encoder against the references in `tests/goldens`, in batches of the test's own making, and what a load refuses.

use std::{
    collections::HashMap,
    env, fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use kernels::{Cpu, Isa};
use prediction::FailureCode;
use serde::Deserialize;
use serde_json::value::to_raw_value;

use super::{config::Config, encoder::Encoder, files::Pooling, *};
use crate::plain::WEIGHTS;

type Bert = TextModel<Embedder>;
type Batched = (Item<()>, Abandon);

/// Where `scripts/fetch-test-model` puts the model.
fn fetched() -> PathBuf {
    let default =
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/models/sentence-transformers/all-MiniLM-L6-v2");
    let dir = env::var_os("AUGUR_TEST_MODEL_DIR").map_or_else(default, PathBuf::from);
    assert!(dir.join(WEIGHTS).is_file(), "no test model in {}: run scripts/fetch-test-model", dir.display());
    dir
}

fn load(dir: &Path) -> Result<Bert, LoadError> {
    load_for(dir, Machine::default(), Precision::F32)
}

fn load_for(dir: &Path, machine: Machine, precision: Precision) -> Result<Bert, LoadError> {
    let weights = Weights::open(&dir.join(WEIGHTS))?;
    Bert::load(dir, Task::FeatureExtraction, &weights, machine, precision)
}

/// Every set of instructions that this machine has.
fn cpus() -> impl Iterator<Item = Cpu> {
    Isa::ALL.into_iter().filter_map(|isa| Cpu::with(isa).ok())
}

#[derive(Deserialize)]
struct Golden {
    name: String,
    text: String,
    tokens: usize,
    embedding: Vec<f32>,
}

fn goldens() -> Vec<Golden> {
    #[derive(Deserialize)]
    struct File {
        goldens: Vec<Golden>,
    }
    let text = include_str!("../../tests/goldens/all-minilm-l6-v2.json");
    serde_json::from_str::<File>(text).expect("goldens").goldens
}

/// The largest difference between two vectors' numbers.
pub(super) fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    // Not by f32::max, which passes NaN over.
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).max_by(f32::total_cmp).unwrap_or_default()
}

fn run(bert: &Bert, batch: &[Batched]) -> Vec<Vec<f32>> {
    #[derive(Deserialize)]
    struct Answer {
        embedding: Vec<f32>,
    }
    let results = bert.run(batch, &mut Turn::kept()).expect("the batch runs");
    let read = |answer: Box<RawValue>| serde_json::from_str::<Answer>(answer.get()).expect("an embedding").embedding;
    results.into_iter().map(|result| read(result.expect("a result"))).collect()
}

fn item(bert: &Bert, text: &str) -> Batched {
    let input = to_raw_value(&json!({"text": text})).expect("JSON");
    (bert.prepare(&input).expect("tokens"), Abandon::default())
}

fn ids((item, _): &Batched) -> &[u32] {
    &item.texts[0].ids
}

/// The goldens' texts, ready to run.
fn items(bert: &Bert, goldens: &[Golden]) -> Vec<Batched> {
    let item = |golden: &Golden| {
        let item = item(bert, &golden.text);
        assert_eq!(ids(&item).len(), golden.tokens, "tokens of {}", golden.name);
        item
    };
    goldens.iter().map(item).collect()
}

/// The same again: items are not copied elsewhere.
fn again((item, abandon): &Batched) -> Batched {
    (Item { texts: item.texts.clone(), asked: () }, abandon.clone())
}

#[test]
fn a_text_embeds_the_same_alone_and_in_any_batch() {
    let bert = load(&fetched()).expect("loads");
    let goldens = goldens();
    let items = items(&bert, &goldens);
    let alone: Vec<_> = items.iter().flat_map(|item| run(&bert, std::slice::from_ref(item))).collect();
    for (golden, alone) in goldens.iter().zip(&alone) {
        let apart = apart(alone, &golden.embedding);
        assert!(apart <= 1e-5, "{} alone is {apart} from the reference", golden.name);
    }
    // Batches as the texts come, of very unequal lengths, and one of all the short ones.
    let short: Vec<usize> = (0..items.len()).filter(|index| ids(&items[*index]).len() < 42).collect();
    let all: Vec<usize> = (0..items.len()).rev().collect();
    for batch in all.chunks(7).chain([&short[..]]) {
        let inside = run(&bert, &batch.iter().map(|index| again(&items[*index])).collect::<Vec<_>>());
        for (index, inside) in batch.iter().zip(&inside) {
            assert!(*inside == alone[*index], "{} in a batch differs from itself alone", goldens[*index].name);
        }
    }
}

#[test]
fn every_set_of_instructions_and_number_of_threads_gives_the_same_embeddings() {
    // Not all, because portable instructions take long.
    let goldens: Vec<_> = goldens().into_iter().step_by(5).collect();
    for cpu in cpus() {
        let mut first: Option<Vec<Vec<f32>>> = None;
        for threads in [1, 2, 5] {
            let threads = NonZeroUsize::new(threads).expect("more than none");
            let bert =
                load_for(&fetched(), Machine { cpu, threads, ..Machine::default() }, Precision::F32).expect("loads");
            let items = items(&bert, &goldens);
            // All that there are, which threads deal to each other, and a few, for which they share each step.
            let mut found = run(&bert, &items);
            found.extend(run(&bert, &items[..3]));
            found.extend(items.iter().step_by(5).flat_map(|item| run(&bert, std::slice::from_ref(item))));
            for (golden, ours) in goldens.iter().zip(&found) {
                let apart = apart(ours, &golden.embedding);
                assert!(apart <= 1e-5, "{}: {} is {apart} from the reference", cpu.isa(), golden.name);
            }
            let first = first.get_or_insert_with(|| found.clone());
            assert!(*first == found, "{}: {threads} threads give other numbers", cpu.isa());
        }
    }
}

/// The cosines of all pairs of vectors.
fn similarities(vectors: &[&[f32]]) -> Vec<f64> {
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let cosine = |a: &[f32], b: &[f32]| product(a, b) / (product(a, a) * product(b, b)).sqrt();
    let pairs = vectors.iter().enumerate().flat_map(|(at, a)| vectors[..at].iter().map(move |b| cosine(a, b)));
    pairs.collect()
}

/// Spearman's correlation: that of the ranks. Numbers are taken to differ.
fn rank_correlation(a: &[f64], b: &[f64]) -> f64 {
    let ranks = |numbers: &[f64]| {
        let mut order: Vec<usize> = (0..numbers.len()).collect();
        order.sort_by(|a, b| numbers[*a].total_cmp(&numbers[*b]));
        let mut ranks = vec![0.0; numbers.len()];
        order.into_iter().enumerate().for_each(|(rank, at)| ranks[at] = rank as f64);
        ranks
    };
    let squares: f64 = ranks(a).iter().zip(ranks(b)).map(|(a, b)| (a - b).powi(2)).sum();
    let count = a.len() as f64;
    1.0 - 6.0 * squares / (count * (count * count - 1.0))
}

#[test]
#[allow(clippy::print_stderr)]
fn lower_precisions_are_near_enough() {
    let goldens = goldens();
    let reference: Vec<&[f32]> = goldens.iter().map(|golden| &golden.embedding[..]).collect();
    for (precision, least, least_in_rank) in [(Precision::Bf16, 0.9999, 0.9999), (Precision::Int8, 0.995, 0.998)] {
        let bert = load_for(&fetched(), Machine::default(), precision).expect("loads");
        let ours = run(&bert, &items(&bert, &goldens));
        let pairs = reference.iter().zip(&ours);
        let cosines: Vec<f64> = pairs.map(|(theirs, ours)| similarities(&[theirs, ours])[0]).collect();
        for (golden, cosine) in goldens.iter().zip(&cosines) {
            assert!(*cosine >= least, "{precision:?}, {}: the cosine with the reference is {cosine}", golden.name);
        }
        // What similarities are for is their order.
        let ours: Vec<&[f32]> = ours.iter().map(Vec::as_slice).collect();
        let in_rank = rank_correlation(&similarities(&reference), &similarities(&ours));
        assert!(in_rank >= least_in_rank, "{precision:?}: similarities correlate by {in_rank} in rank");
        let (worst, sum) = (cosines.iter().copied().fold(1.0, f64::min), cosines.iter().sum::<f64>());
        let mean = sum / goldens.len() as f64;
        eprintln!("{precision:?}: cosine at least {worst:.5}, {mean:.5} on average, {in_rank:.5} in rank");
    }
}

#[test]
fn whole_numbers_give_nearly_the_same_on_every_set_of_instructions() {
    let goldens: Vec<_> = goldens().into_iter().step_by(9).collect();
    let mut all = Vec::new();
    for cpu in cpus().flat_map(|cpu| [cpu, cpu.without_extensions()]) {
        let bert = load_for(&fetched(), Machine { cpu, ..Machine::default() }, Precision::Int8).expect("loads");
        all.push(run(&bert, &items(&bert, &goldens)));
    }
    for other in &all[1..] {
        for ((golden, first), other) in goldens.iter().zip(&all[0]).zip(other) {
            // What lies between products is rounded otherwise, attention to bf16 by some, which moves numbers to the next level: no
            // two are further apart than each may be from the reference.
            let cosine = similarities(&[first, other])[0];
            assert!(cosine >= 0.995, "{}: {cosine}", golden.name);
        }
    }
}

#[test]
fn a_batch_that_nobody_wants_is_left() {
    let bert = load(&fetched()).expect("loads");
    let item = |abandon: &Abandon| (item(&bert, "a text").0, abandon.clone());
    let (gone, wanted) = (Abandon::default(), Abandon::default());
    gone.abandon();
    let results = bert.run(&[item(&gone), item(&gone)], &mut Turn::kept()).expect("no failure of the whole");
    assert!(results.iter().all(|result| result.as_ref().is_err_and(|failure| failure.code == FailureCode::Canceled)));
    let results = bert.run(&[item(&gone), item(&wanted)], &mut Turn::kept()).expect("the batch runs");
    assert!(results[1].is_ok());
}

/// The encoder of `tiny-bert.json`, in a file of its own.
pub(super) struct Tiny {
    config: Value,
    shapes: HashMap<String, Vec<usize>>,
    directory: tempfile::TempDir,
}

impl Tiny {
    pub(super) fn new(file: &Value) -> Self {
        let shapes = serde_json::from_value(file["shapes"].clone()).expect("shapes");
        Self { config: file["config"].clone(), shapes, directory: tempfile::tempdir().expect("a directory") }
    }

    fn encoder(&self, activation: &str, dtype: DType, rename: impl Fn(&str) -> String) -> Result<Encoder, LoadError> {
        self.write(activation, dtype, rename);
        self.load(Pooling::Mean, Machine::default())
    }

    pub(super) fn write(&self, activation: &str, dtype: DType, rename: impl Fn(&str) -> String) {
        let tensors = self.shapes.iter().map(|(name, shape)| {
            let number = |index: usize| ((0.7 * index as f64 + name.len() as f64).sin() / 2.0) as f32;
            let numbers: Vec<_> = (0..shape.iter().product()).map(number).collect();
            let tensor =
                Tensor::from_vec(numbers, shape.as_slice(), &Device::Cpu).and_then(|tensor| tensor.to_dtype(dtype));
            (rename(name), tensor.expect("a tensor"))
        });
        let weights = self.directory.path().join(WEIGHTS);
        candle_core::safetensors::save(&tensors.collect::<HashMap<_, _>>(), &weights).expect("writes");
        let mut config = self.config.clone();
        config["hidden_act"] = json!(activation);
        fs::write(self.directory.path().join("config.json"), config.to_string()).expect("writes");
    }

    fn load(&self, pooling: Pooling, machine: Machine) -> Result<Encoder, LoadError> {
        let (settings, weights) = self.read(pooling)?;
        Encoder::load(&settings, &weights, machine, Precision::F32)
    }

    pub(super) fn read(&self, pooling: Pooling) -> Result<(Settings, Weights), LoadError> {
        let config = Config::read(&self.directory.path().join("config.json"))?;
        let settings = Settings {
            config,
            task: Task::FeatureExtraction,
            max_tokens: 16,
            lower_case: false,
            pooling,
            normalize: false,
            is_told_types: true,
            activation: None,
            unknown: None,
            files: Vec::new(),
        };
        Ok((settings, Weights::open(&self.directory.path().join(WEIGHTS))?))
    }
}

pub(super) fn tiny_goldens() -> Value {
    serde_json::from_str(include_str!("../../tests/goldens/tiny-bert.json")).expect("goldens")
}

fn embed(encoder: &Encoder, texts: &Value) -> Vec<Vec<f32>> {
    let texts: Vec<Vec<u32>> = serde_json::from_value(texts.clone()).expect("texts");
    let texts: Vec<_> = texts.iter().map(Vec::as_slice).collect();
    encoder.embed(&texts, || false, |embedding| embedding).expect("was not stopped")
}

#[test]
fn every_activation_and_pooling_is_as_transformers_has_it() {
    each_case(|tiny, texts, pooling, expected, what| {
        for cpu in cpus() {
            let encoder = tiny.load(pooling, Machine { cpu, ..Machine::default() }).expect("loads");
            for (index, (ours, theirs)) in embed(&encoder, texts).iter().zip(expected).enumerate() {
                let (apart, isa) = (apart(ours, theirs), cpu.isa());
                assert!(apart <= 1e-5, "{what}, {isa}, text {index}: {apart} from the reference");
            }
        }
    });
}

/// Every activation and pooling: a tiny model, the texts, how it pools them, their embeddings by the reference, and what that is.
pub(super) fn each_case(mut check: impl FnMut(&Tiny, &Value, Pooling, &[Vec<f32>], &str)) {
    let file = tiny_goldens();
    let tiny = Tiny::new(&file);
    for case in file["cases"].as_array().expect("cases") {
        let activation = case["hidden_act"].as_str().expect("an activation");
        tiny.write(activation, DType::F32, str::to_owned);
        for (pooling, key) in [(Pooling::Cls, "cls"), (Pooling::Mean, "mean")] {
            let expected: Vec<Vec<f32>> = serde_json::from_value(case[key].clone()).expect("vectors");
            check(&tiny, &file["texts"], pooling, &expected, &format!("{activation}, {key}"));
        }
    }
}

#[test]
fn weights_may_be_named_and_stored_in_other_ways() {
    let file = tiny_goldens();
    let tiny = Tiny::new(&file);
    let plain = tiny.encoder("gelu", DType::F32, str::to_owned).expect("loads");
    let plain = embed(&plain, &file["texts"]);
    let old =
        |name: &str| format!("bert.{name}").replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta");
    let renamed = tiny.encoder("gelu", DType::F32, old).expect("loads");
    assert_eq!(embed(&renamed, &file["texts"]), plain);
    let half = tiny.encoder("gelu", DType::F16, str::to_owned).expect("loads");
    for (half, plain) in embed(&half, &file["texts"]).iter().zip(&plain) {
        let apart = apart(half, plain);
        // Half precision has eleven bits.
        assert!((1e-7..1e-2).contains(&apart), "{apart}");
    }
}

#[test]
fn a_missing_tensor_is_named() {
    let tiny = Tiny::new(&tiny_goldens());
    let lost = |name: &str| name.replace("layer.1.output.dense.bias", "layer.9.output.dense.bias");
    let error = tiny.encoder("gelu", DType::F32, lost).err().expect("a tensor is missing").to_string();
    assert!(error.contains("model.safetensors") && error.contains("encoder.layer.1.output.dense.bias"), "{error}");
}

/// A copy of the fetched directory with one of its JSON files changed.
fn changed(file: &str, change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let (from, to) = (fetched(), tempfile::tempdir().expect("a directory"));
    fs::create_dir(to.path().join("1_Pooling")).expect("makes a directory");
    for path in Settings::read(&from, None).expect("sound").files {
        fs::copy(from.join(&path), to.path().join(&path)).expect("copies");
    }
    let path = to.path().join(file);
    let mut content = serde_json::from_slice(&fs::read(&path).expect("reads")).expect("JSON");
    change(&mut content);
    fs::write(&path, content.to_string()).expect("writes");
    to
}

#[test]
fn files_that_do_not_fit_each_other_are_refused() {
    let refusal = |file: &str, change: fn(&mut Value)| {
        load(changed(file, change).path()).err().expect("must not load").to_string()
    };
    let shape = refusal("config.json", |config| config["intermediate_size"] = json!(1000));
    assert!(shape.contains("intermediate.dense.weight") && shape.contains("[1000, 384]"), "{shape}");
    let vocabulary = refusal("config.json", |config| config["vocab_size"] = json!(30521));
    assert!(vocabulary.contains("has token 30521"), "{vocabulary}");
    let room = refusal("sentence_bert_config.json", |config| config["max_seq_length"] = json!(2));
    assert!(room.contains("2 special tokens leave no room in 2"), "{room}");
    let broken = refusal("tokenizer.json", |tokenizer| *tokenizer = json!({"version": "1.0"}));
    assert!(broken.contains("tokenizer.json: cannot be read"), "{broken}");
    let bare = refusal("tokenizer.json", |tokenizer| tokenizer["post_processor"] = json!(null));
    assert!(bare.contains("no special tokens"), "{bare}");
}

#[test]
fn settings_of_the_directory_are_followed() {
    let length = |vector: &[f32]| vector.iter().map(|number| number * number).sum::<f32>().sqrt();
    let cut = load(changed("sentence_bert_config.json", |config| config["max_seq_length"] = json!(5)).path());
    let cut = cut.expect("loads");
    assert_eq!(ids(&item(&cut, "one two three four five")), ids(&item(&cut, "one two three")));
    let dir = changed("modules.json", |modules| drop(modules.as_array_mut().expect("modules").pop()));
    let long = load(dir.path()).expect("loads");
    let embedding = run(&long, &[item(&long, "a text")]).remove(0);
    assert!((length(&embedding) - 1.0).abs() > 0.1, "not normalised, but its length is {}", length(&embedding));
    let sound = load(&fetched()).expect("loads");
    let normal = run(&sound, &[item(&sound, "a text")]).remove(0);
    let scaled: Vec<_> = embedding.iter().map(|number| number / length(&embedding)).collect();
    assert!((length(&normal) - 1.0).abs() < 1e-6 && apart(&normal, &scaled) < 1e-6);
}
