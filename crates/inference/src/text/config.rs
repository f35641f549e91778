//! The shape of a text encoder and of what is on top of it, read from a Hugging Face `config.json` and checked.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::{family::Family, relative, task::Task};
use crate::{
    LoadError,
    labels::{Function, Labelling},
    plain::read_json,
    transformer::{Activation, PrunedHeads},
};

/// The sizes of an encoder; every field is as `config.json` names it (DistilBERT has names of its own), absent ones are as
/// transformers has them.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Config {
    #[serde(default, rename = "model_type")]
    pub(super) family: Family,
    #[serde(alias = "dim")]
    pub(super) hidden_size: usize,
    /// Columns of the embeddings of words, positions and types, where they are not those of hidden states.
    embedding_size: Option<usize>,
    #[serde(alias = "hidden_dim")]
    pub(super) intermediate_size: usize,
    #[serde(alias = "n_layers")]
    pub(super) num_hidden_layers: usize,
    #[serde(alias = "n_heads")]
    pub(super) num_attention_heads: usize,
    #[serde(default)]
    pub(super) pruned_heads: PrunedHeads,
    pub(super) vocab_size: usize,
    pub(super) max_position_embeddings: usize,
    #[serde(default = "default_type_vocab_size")]
    pub(super) type_vocab_size: usize,
    #[serde(default = "default_activation", alias = "activation")]
    pub(super) hidden_act: Activation,
    #[serde(default = "default_layer_norm_eps")]
    pub(super) layer_norm_eps: f64,
    #[serde(default = "default_pad_token_id")]
    pad_token_id: Option<u32>,
    position_embedding_type: Option<String>,
    relative_attention_num_buckets: Option<usize>,
    #[serde(default)]
    is_decoder: bool,
    #[serde(default)]
    architectures: Vec<String>,
    auto_map: Option<Value>,
    quantization_config: Option<Value>,
    #[serde(flatten)]
    labelling: Labelling,
}

const fn default_type_vocab_size() -> usize {
    2
}

const fn default_activation() -> Activation {
    Activation::Gelu
}

const fn default_layer_norm_eps() -> f64 {
    1e-12
}

/// RoBERTa's; no other family asks.
const fn default_pad_token_id() -> Option<u32> {
    Some(1)
}

impl Config {
    /// Reads and checks `config.json`.
    ///
    /// # Errors
    /// Names the field that is missing, wrong or not supported.
    pub(super) fn read(path: &Path) -> Result<Self, LoadError> {
        let wrong = |reason: String| LoadError::new(path, reason);
        let mut config: Self = read_json(path)?.ok_or_else(|| wrong("is missing".into()))?;
        if !config.family.has_types() {
            config.type_vocab_size = 0;
        }
        if config.family == Family::Mpnet {
            // Its positions do not ask what the file says.
            config.pad_token_id = default_pad_token_id();
        }
        config.check().map_err(wrong)?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        if let Some(kind) = self.position_embedding_type.as_deref().filter(|kind| *kind != "absolute") {
            return Err(format!("position_embedding_type {kind:?} is not supported; only \"absolute\" is"));
        }
        let buckets = self.relative_attention_num_buckets.filter(|_| self.family.has_bias());
        if let Some(buckets) = buckets.filter(|buckets| *buckets != relative::BUCKETS) {
            return Err(format!(
                "relative_attention_num_buckets {buckets} is not supported; only {} is",
                relative::BUCKETS
            ));
        }
        if self.family.has_bias() && self.max_position_embeddings > relative::MOST_POSITIONS {
            let (has, most) = (self.max_position_embeddings, relative::MOST_POSITIONS);
            return Err(format!(
                "max_position_embeddings {has} is more than the {most} that are supported with relative positions"
            ));
        }
        if self.is_decoder {
            return Err("is_decoder is true; only encoders are supported".into());
        }
        if self.auto_map.is_some() {
            return Err("auto_map says that code of its own runs the model, which is not done here".into());
        }
        if self.quantization_config.is_some() {
            return Err("quantization_config is not supported; weights are floats".into());
        }
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("embedding_size", self.embedding_size()),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", if self.family.has_types() { self.type_vocab_size } else { 1 }),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(format!("{name} is 0"));
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let (hidden, heads) = (self.hidden_size, self.num_attention_heads);
            return Err(format!("hidden_size {hidden} is no multiple of num_attention_heads {heads}"));
        }
        self.pruned_heads.check(self.num_hidden_layers, self.num_attention_heads)?;
        if self.embedding_size() != self.hidden_size && self.family != Family::Electra {
            let (embedding, hidden) = (self.embedding_size(), self.hidden_size);
            return Err(format!("embedding_size {embedding} is not hidden_size {hidden}; only ELECTRA's may differ"));
        }
        if !(self.layer_norm_eps.is_finite() && self.layer_norm_eps > 0.0) {
            return Err(format!("layer_norm_eps {} is not a small positive number", self.layer_norm_eps));
        }
        if self.family.counts_past_padding() {
            let pad = self.pad_token_id.ok_or("pad_token_id is null; positions are counted from it")?;
            if pad as usize + 1 >= self.max_position_embeddings {
                return Err(format!("pad_token_id {pad} leaves no position of {}", self.max_position_embeddings));
            }
        }
        self.task().map(drop)
    }

    /// The heads that a layer has, as they were counted before any was removed.
    pub(super) fn heads(&self, layer: usize) -> Vec<usize> {
        self.pruned_heads.left(layer, self.num_attention_heads)
    }

    /// Columns of one head.
    pub(super) fn head_width(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Columns of the embeddings of words, positions and types.
    pub(super) fn embedding_size(&self) -> usize {
        self.embedding_size.unwrap_or(self.hidden_size)
    }

    /// The token that positions do not count, and behind whose number they begin.
    pub(super) fn padding(&self) -> Option<u32> {
        self.pad_token_id.filter(|_| self.family.counts_past_padding())
    }

    /// How many tokens have a position.
    pub(super) fn positions(&self) -> usize {
        self.max_position_embeddings - self.padding().map_or(0, |pad| pad as usize + 1)
    }

    /// What the model was made for, by the names of its classes.
    ///
    /// # Errors
    /// Names a class that does nothing that is known.
    pub(super) fn task(&self) -> Result<Task, String> {
        let mut tasks = self.architectures.iter().map(|class| {
            let known = Family::CLASSES.iter().find_map(|family| Task::of_class(class.strip_prefix(family)?));
            known.ok_or_else(|| format!("architectures has {class:?}, which does nothing that is known here"))
        });
        // Without a name it is the bare encoder.
        let first = tasks.next().unwrap_or(Ok(Task::FeatureExtraction))?;
        match tasks.find(|task| *task != Ok(first)) {
            Some(Ok(other)) => {
                Err(format!("architectures are for {} and for {}, which is not clear", first.name(), other.name()))
            }
            Some(Err(reason)) => Err(reason),
            None => Ok(first),
        }
    }

    /// What a classifier's outputs stand for, in their order.
    ///
    /// # Errors
    /// Says what is wrong with `id2label`.
    pub(super) fn labels(&self) -> Result<Vec<String>, String> {
        self.labelling.labels()
    }

    /// What becomes of a classifier's outputs, so many, unless the input says otherwise. `beside`: what a file beside this one
    /// says of a reranker's.
    ///
    /// # Errors
    /// Names a function that is not supported.
    pub(super) fn function(&self, labels: usize, beside: Option<&str>) -> Result<Function, String> {
        self.labelling.function(labels, beside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(change: impl FnOnce(&mut Value)) -> Result<Config, String> {
        let mut config = json!({
            "model_type": "bert", "architectures": ["BertModel"], "hidden_size": 8, "intermediate_size": 16,
            "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 10, "max_position_embeddings": 12,
        });
        change(&mut config);
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("config.json");
        std::fs::write(&path, config.to_string()).expect("writes");
        Config::read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_absent_is_as_in_transformers() {
        let config = read(|_| ()).expect("a sound configuration");
        assert_eq!((config.type_vocab_size, config.hidden_act), (2, Activation::Gelu));
        assert!((config.layer_norm_eps - 1e-12).abs() < f64::EPSILON);
        assert_eq!((config.embedding_size(), config.positions(), config.padding()), (8, 12, None));
        let config = read(|config| config["model_type"] = json!("xlm-roberta")).expect("a sound configuration");
        assert_eq!((config.positions(), config.padding()), (10, Some(1)));
        let config = read(|config| config["model_type"] = json!("distilbert")).expect("a sound configuration");
        assert_eq!(config.type_vocab_size, 0);
        for pad in [json!(null), json!(5)] {
            let config = read(|config| {
                config["model_type"] = json!("mpnet");
                config["pad_token_id"] = pad;
            });
            let config = config.expect("a sound configuration");
            assert_eq!((config.positions(), config.padding(), config.type_vocab_size), (10, Some(1), 0));
        }
    }

    #[test]
    fn layers_lack_the_heads_that_were_pruned() {
        let pruned = |heads: Value| read(|config| config["pruned_heads"] = heads);
        let config = pruned(json!({"0": [0]})).expect("a sound configuration");
        assert_eq!((config.heads(0), config.head_width()), (vec![1], 4));
        assert_eq!(pruned(json!({})).expect("a sound configuration").heads(0), [0, 1]);
        for (heads, part) in [
            (json!({"1": [0]}), "has layer 1, but there are 1"),
            (json!({"0": [2]}), "has head 2, but there are 2"),
            (json!({"0": [0, 1]}), "leaves layer 0 no head"),
            (json!({"first": [0]}), "key to be a number"),
            (json!([[0]]), "a map"),
        ] {
            let error = pruned(heads).expect_err(part);
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn every_family_is_read_by_its_name() {
        for (name, family) in Family::ALL {
            let config = read(|config| config["model_type"] = json!(name)).expect(name);
            assert_eq!(config.family, family);
        }
    }

    #[test]
    fn classes_say_the_task() {
        let task = |classes: Value| read(|config| config["architectures"] = classes).map(|config| config.task());
        for (class, expected) in [
            ("BertModel", Task::FeatureExtraction),
            ("XLMRobertaForMaskedLM", Task::FeatureExtraction),
            ("DistilBertForSequenceClassification", Task::TextClassification),
            ("CamembertForTokenClassification", Task::TokenClassification),
        ] {
            assert_eq!(task(json!([class])), Ok(Ok(expected)), "{class}");
        }
        assert_eq!(task(json!([])), Ok(Ok(Task::FeatureExtraction)));
        let both = task(json!(["BertModel", "BertForTokenClassification"])).expect_err("two tasks");
        assert!(both.contains("feature-extraction and for token-classification"), "{both}");
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let cases: [(&str, Value, &str); 15] = [
            ("model_type", json!("deberta"), "unknown variant `deberta`"),
            ("hidden_act", json!("mish"), "unknown variant `mish`"),
            ("position_embedding_type", json!("relative_key"), "position_embedding_type \"relative_key\""),
            ("architectures", json!(["BertForQuestionAnswering"]), "BertForQuestionAnswering"),
            ("architectures", json!(["BertModel", "GPT2Model"]), "GPT2Model"),
            ("is_decoder", json!(true), "is_decoder"),
            ("auto_map", json!({"AutoModel": "modeling.Own"}), "auto_map"),
            ("quantization_config", json!({"bits": 4}), "quantization_config"),
            ("problem_type", json!("ranking"), "ranking"),
            ("embedding_size", json!(4), "embedding_size 4 is not hidden_size 8"),
            ("num_attention_heads", json!(3), "no multiple of num_attention_heads 3"),
            ("num_attention_heads", json!(0), "num_attention_heads is 0"),
            ("type_vocab_size", json!(0), "type_vocab_size is 0"),
            ("vocab_size", json!(null), "null"),
            ("layer_norm_eps", json!(-1.0), "layer_norm_eps"),
        ];
        for (field, value, part) in cases {
            let error = read(|config| config[field] = value).expect_err(field);
            assert!(error.contains(part) && error.contains("config.json"), "{field}: {error}");
        }
        let error = read(|config| drop(config.as_object_mut().expect("an object").remove("hidden_size")));
        assert!(error.expect_err("a field is missing").contains("missing field `hidden_size`"));
        for (family, buckets) in [("mpnet", 32), ("bert", 16)] {
            let config = read(|config| {
                config["model_type"] = json!(family);
                config["relative_attention_num_buckets"] = json!(buckets);
            });
            config.unwrap_or_else(|error| panic!("{family} of {buckets}: {error}"));
        }
        let error = read(|config| {
            config["model_type"] = json!("mpnet");
            config["relative_attention_num_buckets"] = json!(64);
        });
        let error = error.expect_err("another bias");
        assert!(error.contains("relative_attention_num_buckets 64 is not supported; only 32 is"), "{error}");
        for (pad, part) in [(json!(null), "pad_token_id is null"), (json!(11), "leaves no position of 12")] {
            let error = read(|config| {
                config["model_type"] = json!("roberta");
                config["pad_token_id"] = pad;
            });
            let error = error.expect_err("no positions");
            assert!(error.contains(part), "{error}");
        }
    }
}
