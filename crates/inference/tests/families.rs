//! Every family of text encoders at every task, as a server runs them: tiny networks against what transformers answers
//! (`goldens/make_families.py`), alone and in company, on all instructions, with several threads, and by tensors.

mod card;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    num::NonZeroUsize,
    path::Path,
};

use candle_core::{Device, Tensor, safetensors};
use inference::{Abandon, Config, Cpu, Isa, LoadError, Machine, Model, Models};
use prediction::FailureCode;
use serde::Deserialize;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::task::JoinSet;

/// The largest difference allowed between the reference's and a score, or a number of an embedding of length 1.
const TOLERANCE: f64 = 1e-5;

/// The same for outputs that are answered as they are, which no function has made small.
const RAW_TOLERANCE: f64 = 2e-5;

#[derive(Deserialize)]
struct Family {
    tokenizer: Value,
    tokenizer_config: Value,
    models: Vec<Tiny>,
}

/// A model, and what the reference answers.
#[derive(Clone, Deserialize)]
struct Tiny {
    name: String,
    /// What a manifest asks for, where it is not what the model was made for.
    task: Option<String>,
    /// Further files of the directory.
    files: BTreeMap<String, Value>,
    config: Value,
    shapes: BTreeMap<String, Vec<usize>>,
    cases: Vec<Case>,
}

#[derive(Clone, Deserialize)]
struct Case {
    input: Value,
    output: Value,
}

fn family(name: &str) -> Family {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/goldens/families/{name}.json"));
    serde_json::from_slice(&fs::read(path).expect("goldens")).expect("goldens")
}

impl Family {
    fn tiny(&self, name: &str) -> Tiny {
        self.models.iter().find(|tiny| tiny.name == name).expect("a model of this name").clone()
    }

    /// A directory with this model, as the reference had it.
    fn directory(&self, tiny: &Tiny) -> TempDir {
        let home = tempfile::tempdir().expect("a directory");
        let dir = home.path().join("tiny");
        fs::create_dir(&dir).expect("makes a directory");
        let mut files = tiny.files.clone();
        files.insert("config.json".into(), tiny.config.clone());
        files.insert("tokenizer.json".into(), self.tokenizer.clone());
        files.insert("tokenizer_config.json".into(), self.tokenizer_config.clone());
        for (file, content) in files {
            let path = dir.join(file);
            fs::create_dir_all(path.parent().expect("a parent")).expect("makes a directory");
            fs::write(path, content.to_string()).expect("writes");
        }
        let tensors = tiny.shapes.iter().map(|(name, shape)| (name.clone(), tensor(name, shape)));
        safetensors::save(&tensors.collect::<HashMap<_, _>>(), dir.join("model.safetensors")).expect("writes");
        if let Some(task) = &tiny.task {
            let names = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"];
            let pinned = names.map(|name| {
                let digest = hex::encode(Sha256::digest(fs::read(dir.join(name)).expect("reads")));
                format!("[[files]]\npath = {name:?}\nsha256 = {digest:?}\n")
            });
            let head =
                format!("name = \"augur/tiny\"\ntask = {task:?}\narchitecture = \"encoder\"\ndescription = \"\"\n");
            fs::write(dir.join("model.toml"), head + &pinned.concat()).expect("writes");
        }
        home
    }

    fn load(&self, tiny: &Tiny, machine: Machine) -> Result<Model, LoadError> {
        let home = self.directory(tiny);
        let config = Config { model_dirs: vec![home.path().join("tiny")], machine, ..Config::default() };
        let models = Models::load(&config)?;
        let spec = models.specs().remove(0);
        Ok(models.get(&spec.name, &spec.version).expect("what is served can be had"))
    }
}

/// The numbers of a tensor, by its name, as `make_families.py` says.
fn tensor(name: &str, shape: &[usize]) -> Tensor {
    let seed = name.bytes().fold(0x811C_9DC5_u32, |seed, byte| (seed ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let offset = if name.to_lowercase().contains("norm") && name.ends_with("weight") { 1.0 } else { 0.0 };
    let number = |index: usize| {
        let mut mixed = seed.wrapping_add((index as u32).wrapping_mul(0x9E37_79B9));
        for (shift, factor) in [(16, 0x85EB_CA6B), (13, 0xC2B2_AE35), (16, 1)] {
            mixed = (mixed ^ (mixed >> shift)).wrapping_mul(factor);
        }
        (f64::from(mixed) / 2_f64.powi(33) - 0.25 + offset) as f32
    };
    let numbers: Vec<f32> = (0..shape.iter().product()).map(number).collect();
    Tensor::from_vec(numbers, shape, &Device::Cpu).expect("a tensor")
}

/// Every set of instructions that this machine has, on one thread and on some; and the way of a card, on the processor.
fn machines() -> impl Iterator<Item = Machine> + Clone {
    let cpus = Isa::ALL.into_iter().filter_map(|isa| Cpu::with(isa).ok());
    let some = |threads| NonZeroUsize::new(threads).expect("some");
    let kernels =
        cpus.flat_map(move |cpu| [1, 3].map(|threads| Machine { cpu, threads: some(threads), ..Machine::default() }));
    kernels.chain([Machine { device: inference::Device::CpuTensors, threads: some(3), ..Machine::default() }])
}

async fn predict(model: &Model, input: &Value) -> Box<RawValue> {
    let output = model.predict(&to_raw_value(input).expect("JSON"), Abandon::default()).await;
    output.unwrap_or_else(|failure| panic!("{input}: {failure}")).value
}

/// The same but for rounding: the largest difference between numbers.
#[track_caller]
fn apart(ours: &Value, theirs: &Value, what: &str) -> f64 {
    match (ours, theirs) {
        (Value::Number(ours), Value::Number(theirs)) => {
            (ours.as_f64().expect("a number") - theirs.as_f64().expect("a number")).abs()
        }
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            ours.iter().zip(theirs).map(|(ours, theirs)| apart(ours, theirs, what)).fold(0.0, f64::max)
        }
        (Value::Object(ours), Value::Object(theirs)) if ours.keys().eq(theirs.keys()) => {
            ours.iter().map(|(key, ours)| apart(ours, &theirs[key], what)).fold(0.0, f64::max)
        }
        _ => {
            assert_eq!(ours, theirs, "{what}");
            0.0
        }
    }
}

async fn is_as_transformers_has_it(name: &str, machines: impl Iterator<Item = Machine> + Clone) {
    let family = family(name);
    for tiny in &family.models {
        for machine in machines.clone() {
            let who = format!("{name}, {}, {}, {} × {}", tiny.name, machine.device, machine.cpu.isa(), machine.threads);
            let model = family.load(tiny, machine).unwrap_or_else(|error| panic!("{who}: {error}"));
            assert_eq!(model.device(), machine.device, "{who}");
            let schemas = [&model.spec().input_schema, &model.spec().output_schema];
            let [takes, gives] = schemas.map(|schema| jsonschema::validator_for(schema).expect("a schema"));
            let mut alone = Vec::new();
            for case in &tiny.cases {
                let answer = predict(&model, &case.input).await;
                let value: Value = serde_json::from_str(answer.get()).expect("JSON");
                let what = format!("{who}: {}\nours {value}\ntheirs {}", case.input, case.output);
                let is_raw = ["reranker", "regression"].contains(&&*tiny.name)
                    || case.input.get("function_to_apply").is_some_and(|function| function == "none");
                let (apart, most) =
                    (apart(&value, &case.output, &what), if is_raw { RAW_TOLERANCE } else { TOLERANCE });
                assert!(apart <= most, "{apart} from the reference: {what}");
                assert!(takes.is_valid(&case.input) && gives.is_valid(&value), "does not fit a schema: {what}");
                alone.push(answer);
            }
            let mut together = JoinSet::new();
            for (index, case) in tiny.cases.iter().enumerate() {
                let (model, input) = (model.clone(), case.input.clone());
                together.spawn(async move { (index, predict(&model, &input).await) });
            }
            while let Some(done) = together.join_next().await {
                let (index, answer) = done.expect("no panic");
                let what = format!("{who}: company changes {}", tiny.cases[index].input);
                if machine.device == inference::Device::Cpu {
                    assert_eq!(answer.get(), alone[index].get(), "{what}");
                } else {
                    // Sums are in another order where there is padding.
                    let values = [&answer, &alone[index]].map(|answer| serde_json::from_str::<Value>(answer.get()));
                    let [together, alone] = values.map(|value| value.expect("JSON"));
                    assert!(apart(&together, &alone, &what) <= RAW_TOLERANCE, "{what}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bert() {
    is_as_transformers_has_it("bert", machines()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn distilbert() {
    is_as_transformers_has_it("distilbert", machines()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn electra() {
    is_as_transformers_has_it("electra", machines()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roberta() {
    is_as_transformers_has_it("roberta", machines()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn xlm_roberta() {
    is_as_transformers_has_it("xlm-roberta", machines()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn camembert() {
    is_as_transformers_has_it("camembert", machines()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cuda_every_family_is_as_transformers_has_it() {
    let Some(machine) = card::machine("cuda_every_family_is_as_transformers_has_it") else { return };
    for name in ["bert", "distilbert", "electra", "roberta", "xlm-roberta", "camembert"] {
        is_as_transformers_has_it(name, [machine].into_iter()).await;
    }
}

#[tokio::test]
async fn inputs_that_cannot_be_answered_are_refused() {
    let family = family("bert");
    let model = |name: &str| family.load(&family.tiny(name), Machine::default()).expect("loads");
    let long = "ship ".repeat(100);
    let cases = [
        ("classifier", json!({"text": "a", "text_pair": 1}), "invalid type"),
        ("classifier", json!({"text": "a", "function_to_apply": "tanh"}), "unknown variant `tanh`"),
        ("tagger", json!({"text": "a", "aggregation_strategy": "max"}), "unknown variant `max`"),
        ("zero-shot", json!({"text": "a"}), "missing field `candidate_labels`"),
        ("zero-shot", json!({"text": "a", "candidate_labels": []}), "candidate_labels has 0"),
        ("zero-shot", json!({"text": "a", "candidate_labels": vec!["a"; 101]}), "candidate_labels has 101"),
        ("zero-shot", json!({"text": "a", "candidate_labels": ["a"], "hypothesis_template": "so"}), "{} once"),
        ("zero-shot", json!({"text": "a", "candidate_labels": ["a"], "hypothesis_template": "{}{}"}), "{} once"),
        ("zero-shot", json!({"text": "a", "candidate_labels": [long]}), "too long"),
    ];
    for (name, input, part) in cases {
        let model = model(name);
        let failure = model.predict(&to_raw_value(&input).expect("JSON"), Abandon::default()).await;
        let failure = failure.err().unwrap_or_else(|| panic!("{input} is answered"));
        assert!(failure.code == FailureCode::InvalidInput && failure.message.contains(part), "{input}: {failure}");
    }
}

#[tokio::test]
async fn each_pair_of_a_text_and_a_label_counts() {
    let family = family("bert");
    let model = family.load(&family.tiny("zero-shot"), Machine::default()).expect("loads");
    let tokens = async |labels: &[&str]| {
        let input = to_raw_value(&json!({"text": "Who counts the ships?", "candidate_labels": labels})).expect("JSON");
        model.predict(&input, Abandon::default()).await.expect("an answer").tokens.expect("tokens")
    };
    let (one, other) = (tokens(&["sea"]).await, tokens(&["bread"]).await);
    assert_eq!(tokens(&["sea", "bread", "sea"]).await, 2 * one + other);
}

#[test]
fn specifications_say_what_is_taken_and_given() {
    let family = family("roberta");
    let spec = |name: &str| family.load(&family.tiny(name), Machine::default()).expect("loads").spec().clone();
    let classifier = spec("classifier");
    assert_eq!((classifier.task.as_str(), classifier.name.name()), ("text-classification", "tiny"));
    assert!(classifier.description.contains("3 labels") && classifier.description.contains("64 tokens"));
    assert_eq!(classifier.output_schema["items"]["properties"]["label"]["enum"], json!(["bad", "fair", "good"]));
    let tagger = spec("tagger");
    assert!(
        tagger.task == "token-classification" && tagger.description.contains("LOC, MISC, PER"),
        "{}",
        tagger.description
    );
    let zero_shot = spec("zero-shot");
    assert_eq!(zero_shot.task, "zero-shot-classification");
    let fits = |input: Value| jsonschema::is_valid(&zero_shot.input_schema, &input);
    assert!(fits(json!({"text": "", "candidate_labels": ["a"], "hypothesis_template": "{}"})));
    assert!(!fits(json!({"text": "", "candidate_labels": ["a"], "hypothesis_template": "a"})));
    assert!(!fits(json!({"text": "", "candidate_labels": vec!["a"; 101]})));
}

#[test]
fn what_does_not_fit_is_refused() {
    let family = family("distilbert");
    let refusal = |name: &str, change: fn(&mut Tiny)| {
        let mut tiny = family.tiny(name);
        change(&mut tiny);
        family.load(&tiny, Machine::default()).err().expect("must not load").to_string()
    };
    let label = refusal("zero-shot", |tiny| tiny.config["id2label"] = json!({"0": "yes", "1": "no", "2": "maybe"}));
    assert!(label.contains("config.json: id2label has") && label.contains("needs one for entailment"), "{label}");
    let task = refusal("zero-shot", |tiny| tiny.task = Some("summarization".into()));
    assert!(task.contains("for text-classification, but the manifest's task is \"summarization\""), "{task}");
    let count = refusal("classifier", |tiny| tiny.config["id2label"] = json!({"0": "yes", "1": "no"}));
    assert!(count.contains("\"classifier.weight\" has shape [3, 32]; the architecture needs [2, 32]"), "{count}");
    let head = refusal("classifier", |tiny| drop(tiny.shapes.remove("pre_classifier.weight")));
    assert!(head.contains("\"pre_classifier.weight\" is missing"), "{head}");
    let kind = refusal("embedder", |tiny| tiny.config["model_type"] = json!("mpnet"));
    assert!(kind.contains("model_type \"mpnet\"; known are bert, roberta"), "{kind}");
    let mut tiny = family.tiny("classifier");
    tiny.config["model_type"] = json!("bert");
    let error = family.load(&tiny, Machine::default()).err().expect("must not load").to_string();
    assert!(error.contains("position_embeddings.weight\" is missing"), "{error}");
}
