//! Tiny networks with made-up weights, in directories as Hugging Face has them, and what transformers answers with them.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use candle_core::{Tensor, safetensors};
use inference::{Abandon, Config, LoadError, Machine, Model, Models};
use serde::Deserialize;
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::hashed;

#[derive(Deserialize)]
pub(crate) struct Family {
    pub(crate) tokenizer: Value,
    pub(crate) tokenizer_config: Value,
    pub(crate) models: Vec<Tiny>,
}

/// A model, and what the reference answers.
#[derive(Clone, Deserialize)]
pub(crate) struct Tiny {
    pub(crate) name: String,
    /// What a manifest asks for, where it is not what the model was made for.
    pub(crate) task: Option<String>,
    /// How exact a manifest with a task asks products to be, where it does.
    #[serde(skip)]
    pub(crate) precision: Option<&'static str>,
    /// Further files of the directory.
    pub(crate) files: BTreeMap<String, Value>,
    pub(crate) config: Value,
    pub(crate) shapes: BTreeMap<String, Vec<usize>>,
    pub(crate) cases: Vec<Case>,
}

#[derive(Clone, Deserialize)]
pub(crate) struct Case {
    pub(crate) input: Value,
    pub(crate) output: Value,
}

pub(crate) fn family(name: &str) -> Family {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/goldens/families/{name}.json"));
    serde_json::from_slice(&fs::read(path).expect("goldens")).expect("goldens")
}

impl Family {
    pub(crate) fn tiny(&self, name: &str) -> Tiny {
        self.models.iter().find(|tiny| tiny.name == name).expect("a model of this name").clone()
    }

    /// A directory with this model, as the reference had it.
    pub(crate) fn directory(&self, tiny: &Tiny) -> TempDir {
        let home = tempfile::tempdir().expect("a directory");
        let dir = home.path().join("tiny");
        fs::create_dir(&dir).expect("makes a directory");
        let mut files = tiny.files.clone();
        files.insert("config.json".into(), tiny.config.clone());
        files.insert("tokenizer.json".into(), self.tokenizer.clone());
        files.insert("tokenizer_config.json".into(), self.tokenizer_config.clone());
        for (file, content) in &files {
            let path = dir.join(file);
            fs::create_dir_all(path.parent().expect("a parent")).expect("makes a directory");
            fs::write(path, content.to_string()).expect("writes");
        }
        let tensors = tiny.shapes.iter().map(|(name, shape)| (name.clone(), tensor(name, shape)));
        safetensors::save(&tensors.collect::<HashMap<_, _>>(), dir.join("model.safetensors")).expect("writes");
        if let Some(task) = &tiny.task {
            let names = files.keys().map(String::as_str).chain(["model.safetensors"]);
            let pinned = names.map(|name| {
                let digest = hex::encode(Sha256::digest(fs::read(dir.join(name)).expect("reads")));
                format!("[[files]]\npath = {name:?}\nsha256 = {digest:?}\n")
            });
            let head =
                format!("name = \"augur/tiny\"\ntask = {task:?}\narchitecture = \"encoder\"\ndescription = \"\"\n");
            let precision = tiny.precision.map(|word| format!("precision = {word:?}\n")).unwrap_or_default();
            fs::write(dir.join("model.toml"), head + &precision + &pinned.collect::<String>()).expect("writes");
        }
        home
    }

    pub(crate) fn load(&self, tiny: &Tiny, machine: Machine) -> Result<Model, LoadError> {
        let home = self.directory(tiny);
        load(&home.path().join("tiny"), machine)
    }
}

/// The model of a directory.
pub(crate) fn load(dir: &Path, machine: Machine) -> Result<Model, LoadError> {
    let config = Config { model_dirs: vec![dir.to_owned()], machine, ..Config::default() };
    let models = Models::load(&config)?;
    let spec = models.specs().remove(0);
    Ok(models.get(&spec.name, &spec.version).expect("what is served can be had"))
}

/// A tensor by its name, as `make_families.py` says.
fn tensor(name: &str, shape: &[usize]) -> Tensor {
    let offset = if name.to_lowercase().contains("norm") && name.ends_with("weight") { 1.0 } else { 0.0 };
    hashed::tensor(name, shape, |hash| hash / 2.0 - 0.25 + offset)
}

pub(crate) async fn predict(model: &Model, input: &Value) -> Box<RawValue> {
    let output = model.predict(&to_raw_value(input).expect("JSON"), Abandon::default()).await;
    output.unwrap_or_else(|failure| panic!("{input}: {failure}")).value
}

/// The same but for rounding: the largest difference between numbers.
#[track_caller]
pub(crate) fn apart(ours: &Value, theirs: &Value, what: &str) -> f64 {
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
