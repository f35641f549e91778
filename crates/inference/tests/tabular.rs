//! Classifiers of rows of columns, as a server runs them: tiny networks against what scikit-learn answers
//! (`goldens/make_tabular.py`), alone and in company, on all instructions.

mod hashed;

use std::{collections::HashMap, fs, path::Path};

use candle_core::{Tensor, safetensors};
use inference::{Abandon, Config, Cpu, Isa, Machine, Model, Models};
use serde::Deserialize;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::task::JoinSet;

/// The largest difference allowed between the reference's and a probability.
const TOLERANCE: f64 = 1e-5;

#[derive(Deserialize)]
struct Golden {
    models: Vec<Tiny>,
}

/// A network, and what the reference answers.
#[derive(Deserialize)]
struct Tiny {
    name: String,
    columns: Vec<String>,
    /// Outputs of the layers between the first and the last.
    between: Vec<usize>,
    labels: Vec<Value>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    input: Value,
    output: Value,
}

fn goldens() -> Vec<Tiny> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/tabular.json");
    serde_json::from_slice::<Golden>(&fs::read(path).expect("goldens")).expect("goldens").models
}

/// A tensor and its name, as `make_tabular.py` says; its numbers are made of some from -1 to 1.
fn tensor(name: &str, shape: &[usize], number: impl Fn(f64) -> f64) -> (String, Tensor) {
    (name.to_owned(), hashed::tensor(name, shape, |hash| number(hash * 2.0 - 1.0)))
}

impl Tiny {
    /// A directory with this model.
    fn directory(&self) -> TempDir {
        let home = tempfile::tempdir().expect("a directory");
        let (dir, inputs) = (home.path(), self.columns.len());
        let mut tensors = vec![
            tensor("input.offset", &[inputs], |number| number * 10.0),
            tensor("input.scale", &[inputs], |number| number + 1.5),
        ];
        let widths: Vec<usize> = [inputs].into_iter().chain(self.between.clone()).chain([self.labels.len()]).collect();
        for (layer, ends) in widths.windows(2).enumerate() {
            let root = (ends[0] as f64).sqrt();
            tensors.push(tensor(&format!("layers.{layer}.weight"), &[ends[1], ends[0]], |number| number / root));
            tensors.push(tensor(&format!("layers.{layer}.bias"), &[ends[1]], |number| number));
        }
        let weights = dir.join("model.safetensors");
        safetensors::save(&tensors.into_iter().collect::<HashMap<_, _>>(), &weights).expect("writes");
        let digest = hex::encode(Sha256::digest(fs::read(weights).expect("reads")));
        for file in ["input.json", "output.json"] {
            fs::write(dir.join(file), json!({"type": "object"}).to_string()).expect("writes");
        }
        let manifest = json!({
            "name": "augur/tiny",
            "task": "tabular-classification",
            "architecture": "mlp",
            "description": "",
            "input_schema": "input.json",
            "output_schema": "output.json",
            "files": [{"path": "model.safetensors", "sha256": digest}],
            "mlp": {"input": {"columns": self.columns}, "labels": self.labels},
            "example": self.cases[0].input,
        });
        let manifest = toml::to_string(&manifest).expect("TOML");
        fs::write(dir.join("model.toml"), manifest).expect("writes");
        home
    }

    fn load(&self, cpu: Cpu) -> Model {
        let home = self.directory();
        let machine = Machine { cpu, ..Machine::default() };
        let config = Config { model_dirs: vec![home.path().to_owned()], machine, ..Config::default() };
        let models = Models::load(&config).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let spec = models.specs().remove(0);
        models.get(&spec.name, &spec.version).expect("what is served can be had")
    }
}

async fn predict(model: &Model, input: &Value) -> Box<RawValue> {
    let output = model.predict(&to_raw_value(input).expect("JSON"), Abandon::default()).await;
    output.unwrap_or_else(|failure| panic!("{input}: {failure}")).value
}

/// Probabilities in the order of labels; named ones with their names.
fn probabilities(answer: &Value) -> (Vec<String>, Vec<f64>) {
    let numbers = |values: Vec<&Value>| values.into_iter().map(|value| value.as_f64().expect("a number")).collect();
    match &answer["probabilities"] {
        Value::Object(named) => (named.keys().cloned().collect(), numbers(named.values().collect())),
        Value::Array(values) => (Vec::new(), numbers(values.iter().collect())),
        other => panic!("probabilities are {other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_classified_as_scikit_learn_does() {
    for tiny in goldens() {
        for cpu in Isa::ALL.into_iter().filter_map(|isa| Cpu::with(isa).ok()) {
            let (model, who) = (tiny.load(cpu), format!("{}, {}", tiny.name, cpu.isa()));
            let mut alone = Vec::new();
            for Case { input, output } in &tiny.cases {
                let answer = predict(&model, input).await;
                let ours: Value = serde_json::from_str(answer.get()).expect("JSON");
                let what = format!("{who}: {input}\nours {ours}\ntheirs {output}");
                let ((names, numbers), (expected_names, expected)) = (probabilities(&ours), probabilities(output));
                assert!(names == expected_names && numbers.len() == expected.len(), "{what}");
                assert_eq!(ours["label"], output["label"], "{what}");
                let apart = numbers.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(apart <= TOLERANCE, "{apart} from the reference: {what}");
                alone.push(answer);
            }
            let mut together = JoinSet::new();
            for (index, case) in tiny.cases.iter().enumerate() {
                let (model, input) = (model.clone(), case.input.clone());
                together.spawn(async move { (index, predict(&model, &input).await) });
            }
            for (index, answer) in together.join_all().await {
                assert_eq!(answer.get(), alone[index].get(), "{who}: company changes {}", tiny.cases[index].input);
            }
        }
    }
}
