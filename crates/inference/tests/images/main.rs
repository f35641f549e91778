//! Classifiers of images as a server runs them: tiny networks against what transformers answers (`goldens/make_images.py`), alone and
//! in company, on all instructions and with several threads.

#[path = "../hashed/mod.rs"]
mod hashed;
mod pruned;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    num::NonZeroUsize,
    path::Path,
};

use candle_core::{Tensor, safetensors};
use inference::{Abandon, Config, Cpu, Isa, LoadError, Machine, Model, Models};
use prediction::{Failure, FailureCode};
use serde::Deserialize;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use tempfile::TempDir;
use tokio::task::JoinSet;

/// The largest difference allowed between the reference's and a score.
const TOLERANCE: f64 = 1e-5;

#[derive(Deserialize)]
struct Goldens {
    images: BTreeMap<String, Image>,
    models: Vec<Tiny>,
}

#[derive(Deserialize)]
struct Image {
    file: String,
}

/// A model, and what the reference answers.
#[derive(Clone, Deserialize)]
struct Tiny {
    name: String,
    config: Value,
    preprocessor: Value,
    shapes: BTreeMap<String, Vec<usize>>,
    cases: Vec<Case>,
}

/// Spoils a model.
type Change = fn(&mut Tiny);

#[derive(Clone, Deserialize)]
struct Case {
    image: String,
    /// What else the input says.
    asked: serde_json::Map<String, Value>,
    output: Vec<Scored>,
}

#[derive(Clone, Debug, Deserialize)]
struct Scored {
    label: String,
    score: f64,
}

impl Goldens {
    fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/images.json");
        serde_json::from_slice(&fs::read(path).expect("goldens")).expect("goldens")
    }

    fn tiny(&self, name: &str) -> Tiny {
        self.models.iter().find(|tiny| tiny.name == name).expect("a model of this name").clone()
    }

    fn input(&self, case: &Case) -> Value {
        let mut input = case.asked.clone();
        input.insert("image".into(), self.images[&case.image].file.clone().into());
        input.into()
    }
}

impl Tiny {
    /// A directory with this model, as Hugging Face has it.
    fn directory(&self) -> TempDir {
        let home = tempfile::tempdir().expect("a directory");
        let dir = home.path().join("owner/tiny");
        fs::create_dir_all(&dir).expect("makes a directory");
        fs::write(dir.join("config.json"), self.config.to_string()).expect("writes");
        fs::write(dir.join("preprocessor_config.json"), self.preprocessor.to_string()).expect("writes");
        let tensors = self.shapes.iter().map(|(name, shape)| (name.clone(), tensor(name, shape)));
        safetensors::save(&tensors.collect::<HashMap<_, _>>(), dir.join("model.safetensors")).expect("writes");
        home
    }

    /// As it is found in a directory of models.
    fn load(&self, machine: Machine) -> Result<Model, LoadError> {
        load(&self.directory(), machine)
    }

    /// Why it does not load, spoilt so and named by itself.
    fn refusal(mut self, change: Change) -> String {
        change(&mut self);
        let home = self.directory();
        let config = Config { model_dirs: vec![home.path().join("owner/tiny")], ..Config::default() };
        Models::load(&config).err().expect("must not load").to_string()
    }
}

/// The one model of a directory of models.
fn load(home: &TempDir, machine: Machine) -> Result<Model, LoadError> {
    let models = Models::load(&Config { models_dir: Some(home.path().to_owned()), machine, ..Config::default() })?;
    let spec = models.specs().remove(0);
    Ok(models.get(&spec.name, &spec.version).expect("what is served can be had"))
}

/// A tensor by its name, as `make_images.py` says.
fn tensor(name: &str, shape: &[usize]) -> Tensor {
    let is_around_one = (name.contains("norm") && name.ends_with("weight")) || name.ends_with("running_var");
    let offset = if is_around_one { 1.0 } else { 0.0 };
    let factor =
        if let [_, inputs, height, width] = shape { (72.0 / (inputs * height * width) as f64).sqrt() } else { 1.0 };
    hashed::tensor(name, shape, |hash| (hash / 2.0 - 0.25 + offset) * factor)
}

/// Every set of instructions that this machine has, on one thread and on some.
fn machines() -> impl Iterator<Item = Machine> {
    let cpus = Isa::ALL.into_iter().filter_map(|isa| Cpu::with(isa).ok());
    cpus.flat_map(|cpu| {
        [1, 3].map(|threads| Machine { cpu, threads: NonZeroUsize::new(threads).expect("some"), ..Machine::default() })
    })
}

async fn predict(model: &Model, input: &Value) -> Result<Box<RawValue>, Failure> {
    let output = model.predict(&to_raw_value(input).expect("JSON"), Abandon::default()).await;
    output.map(|output| output.value)
}

async fn is_as_transformers_has_it(name: &str) {
    let goldens = Goldens::read();
    for tiny in goldens.models.iter().filter(|tiny| tiny.name.split(',').next() == Some(name)) {
        // By instructions: the number of threads changes nothing.
        let mut answers: BTreeMap<String, Vec<Box<RawValue>>> = BTreeMap::new();
        for machine in machines() {
            let who = format!("{}, {} × {}", tiny.name, machine.cpu.isa(), machine.threads);
            let model = tiny.load(machine).unwrap_or_else(|error| panic!("{who}: {error}"));
            let schemas = [&model.spec().input_schema, &model.spec().output_schema];
            let [takes, gives] = schemas.map(|schema| jsonschema::validator_for(schema).expect("a schema"));
            let mut alone = Vec::new();
            for case in &tiny.cases {
                let input = goldens.input(case);
                let answer = predict(&model, &input).await.unwrap_or_else(|failure| panic!("{who}: {failure}"));
                let value: Value = serde_json::from_str(answer.get()).expect("JSON");
                let ours: Vec<Scored> = serde_json::from_str(answer.get()).expect("labels with scores");
                let what = format!("{who}: {} {:?}\nours {value}\ntheirs {:?}", case.image, case.asked, case.output);
                assert_eq!(ours.len(), case.output.len(), "{what}");
                for (ours, theirs) in ours.iter().zip(&case.output) {
                    let apart = (ours.score - theirs.score).abs();
                    assert!(ours.label == theirs.label && apart <= TOLERANCE, "{apart} from the reference: {what}");
                }
                assert!(takes.is_valid(&input) && gives.is_valid(&value), "does not fit a schema: {what}");
                alone.push(answer);
            }
            let first = answers.entry(machine.cpu.isa().to_string()).or_insert_with(|| alone.clone());
            assert!(
                first.iter().map(|answer| answer.get()).eq(alone.iter().map(|answer| answer.get())),
                "{who}: threads"
            );
            let mut together = JoinSet::new();
            for (index, case) in tiny.cases.iter().enumerate() {
                for input in [goldens.input(case), json!({"image": "iVBORw0KGgo="})] {
                    let model = model.clone();
                    together.spawn(async move { (index, predict(&model, &input).await) });
                }
            }
            let mut failures = 0;
            while let Some(done) = together.join_next().await {
                match done.expect("no panic") {
                    (index, Ok(answer)) => assert_eq!(answer.get(), alone[index].get(), "{who}: company changes it"),
                    (_, Err(failure)) => {
                        assert_eq!(failure.code, FailureCode::InvalidInput, "{failure}");
                        failures += 1;
                    }
                }
            }
            assert_eq!(failures, alone.len(), "{who}: images that are none fail, and no others");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vit() {
    is_as_transformers_has_it("vit").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resnet() {
    is_as_transformers_has_it("resnet").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mobilenet_v2() {
    is_as_transformers_has_it("mobilenet_v2").await;
}

#[test]
fn a_specification_says_what_is_taken_and_given() {
    let spec = Goldens::read().tiny("vit, not square").load(Machine::default()).expect("loads").spec().clone();
    assert_eq!((spec.name.as_str(), spec.task.as_str()), ("owner/tiny", "image-classification"));
    assert!(spec.description.contains("7 labels") && spec.description.contains("40 × 24"), "{}", spec.description);
    let fits = |input: Value| jsonschema::is_valid(&spec.input_schema, &input);
    assert!(fits(json!({"image": "data:image/png;base64,AAAA", "top_k": 1})) && fits(json!({"image": ""})));
    assert!(!fits(json!({})) && !fits(json!({"image": 1})) && !fits(json!({"image": "", "top_k": 0})));
    assert!(!fits(json!({"image": "", "url": ""})) && !fits(json!({"image": "A".repeat(2 << 20)})));
    let labels = &spec.output_schema["items"]["properties"]["label"]["enum"];
    assert_eq!((&labels[2], labels.as_array().map(Vec::len)), (&json!("lighthouse"), Some(7)));
    assert!(spec.limits.max_input_bytes >= 2 << 20);
}

#[tokio::test]
async fn images_that_are_none_or_too_large_are_refused() {
    let goldens = Goldens::read();
    let model = goldens.tiny("vit").load(Machine::default()).expect("loads");
    let code = async |input: Value| predict(&model, &input).await.expect_err("it is refused").code;
    let (gif, long) = ("R0lGODlhAQABAAAAACw=", "A".repeat((2 << 20) - 4000));
    for input in
        [json!({"image": ""}), json!({"image": gif}), json!({"image": "?"}), json!({"image": gif, "top_k": -1})]
    {
        assert_eq!(code(input.clone()).await, FailureCode::InvalidInput, "{input}");
    }
    assert_eq!(code(json!({"image": long})).await, FailureCode::InputTooLarge);
    // A header of 65,535 × 65,535 pixels, and nothing else.
    let huge = "iVBORw0KGgoAAAANSUhEUgAA//8AAP//CAIAAAA5Z04H";
    let failure = predict(&model, &json!({"image": huge})).await.expect_err("it is refused");
    assert!(failure.code == FailureCode::InputTooLarge && failure.message.contains("65535 × 65535"), "{failure}");
    // A JPEG is answered like what it was made from, but for what the format loses.
    let jpeg = json!({"image": format!("data:image/jpeg;base64,{}", goldens.images["jpeg"].file), "top_k": 1});
    predict(&model, &jpeg).await.expect("an answer");
}

#[test]
fn what_is_not_done_here_is_refused() {
    let goldens = Goldens::read();
    let cases: [(&str, Change, &str); 19] = [
        ("vit", |tiny| tiny.config["architectures"] = json!(["ViTModel"]), "ViTForImageClassification is"),
        ("vit", |tiny| tiny.config["architectures"] = json!([]), "architectures [] are not run here"),
        ("vit", |tiny| tiny.config["model_type"] = json!("swin"), "known are bert"),
        ("vit", |tiny| tiny.config["qkv_bias"] = json!(false), "qkv_bias false"),
        ("vit", |tiny| tiny.config["num_channels"] = json!(1), "num_channels 1"),
        (
            "vit",
            |tiny| tiny.config["image_size"] = json!(40),
            "image_size 40 × 40 (high × wide), but the processor makes 32 × 32",
        ),
        (
            "vit",
            |tiny| tiny.config["image_size"] = json!([1_u64 << 40, 1_u64 << 40]),
            "but the processor makes 32 × 32",
        ),
        ("vit", |tiny| tiny.config["hidden_act"] = json!("mish"), "unknown variant `mish`"),
        ("vit", |tiny| tiny.config["auto_map"] = json!({}), "auto_map"),
        ("vit", |tiny| tiny.config["patch_size"] = json!(0), "patch_size is 0"),
        ("vit", |tiny| tiny.preprocessor["do_pad"] = json!(true), "preprocessor_config.json: do_pad true"),
        ("vit", |tiny| drop(tiny.shapes.remove("vit.layernorm.bias")), "\"vit.layernorm.bias\" is missing"),
        ("vit", |tiny| tiny.config["id2label"] = json!({"0": "a"}), "\"classifier.weight\" has shape [7, 24]"),
        ("vit", |tiny| tiny.config["pruned_heads"] = json!({"2": [0]}), "pruned_heads has layer 2, but there are 2"),
        ("vit", |tiny| tiny.config["pruned_heads"] = json!({"1": [0]}), "query.weight\" has shape [24, 24]"),
        ("resnet", |tiny| tiny.config["depths"] = json!([1]), "3 hidden_sizes and 1 depths"),
        ("resnet", |tiny| tiny.config["layer_type"] = json!("wide"), "unknown variant `wide`"),
        ("mobilenet_v2", |tiny| tiny.config["output_stride"] = json!(7), "output_stride 7"),
        ("mobilenet_v2", |tiny| tiny.config["expand_ratio"] = json!(1e9), "expand_ratio"),
    ];
    for (name, change, part) in cases {
        let refusal = goldens.tiny(name).refusal(change);
        assert!(refusal.contains(part), "{part}: {refusal}");
    }
}

#[test]
fn every_file_counts_for_the_version() {
    let version = |change: fn(&mut Tiny)| {
        let mut tiny = Goldens::read().tiny("vit");
        change(&mut tiny);
        tiny.load(Machine::default()).expect("loads").spec().version.to_string()
    };
    let first = version(|_| ());
    assert_eq!(first, version(|_| ()));
    assert_ne!(first, version(|tiny| tiny.preprocessor["resample"] = json!(3)));
    assert_ne!(first, version(|tiny| tiny.config["layer_norm_eps"] = json!(0.02)));
}
