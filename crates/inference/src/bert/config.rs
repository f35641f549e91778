//! The shape of a BERT encoder, read from a Hugging Face `config.json` and checked.

use std::path::Path;

use serde::Deserialize;

use crate::LoadError;

/// What stands between a layer's two dense parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum Activation {
    /// Exact, by the error function.
    #[serde(rename = "gelu")]
    Gelu,
    /// GELU's approximation by tanh.
    #[serde(rename = "gelu_new", alias = "gelu_pytorch_tanh")]
    GeluTanh,
    #[serde(rename = "relu")]
    Relu,
    #[serde(rename = "silu", alias = "swish")]
    Silu,
}

/// The sizes of an encoder; every field is as `config.json` names it, absent ones are as transformers' `BertConfig` has them.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Config {
    pub(super) hidden_size: usize,
    pub(super) intermediate_size: usize,
    pub(super) num_hidden_layers: usize,
    pub(super) num_attention_heads: usize,
    pub(super) vocab_size: usize,
    pub(super) max_position_embeddings: usize,
    #[serde(default = "default_type_vocab_size")]
    pub(super) type_vocab_size: usize,
    #[serde(default = "default_activation")]
    pub(super) hidden_act: Activation,
    #[serde(default = "default_layer_norm_eps")]
    pub(super) layer_norm_eps: f64,
    position_embedding_type: Option<String>,
    #[serde(default)]
    is_decoder: bool,
    model_type: Option<String>,
    #[serde(default)]
    architectures: Vec<String>,
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

/// What a model was made for, where its weights hold a whole encoder that embeds text.
const EMBEDDERS: [&str; 4] = ["BertModel", "BertForMaskedLM", "BertForPreTraining", "BertLMHeadModel"];

impl Config {
    /// Reads and checks `config.json`.
    ///
    /// # Errors
    /// Names the field that is missing, wrong or not supported.
    pub(super) fn read(path: &Path) -> Result<Self, LoadError> {
        let wrong = |reason: String| LoadError::new(path, reason);
        let config: Self = super::files::read_json(path)?.ok_or_else(|| wrong("is missing".into()))?;
        if let Some(kind) = config.model_type.as_deref().filter(|kind| *kind != "bert") {
            return Err(wrong(format!("model_type {kind:?} is not supported; only \"bert\" is")));
        }
        if let Some(other) = config.architectures.iter().find(|name| !EMBEDDERS.contains(&name.as_str())) {
            return Err(wrong(format!(
                "architectures has {other:?}; of the BERT family only {EMBEDDERS:?} embed text"
            )));
        }
        if let Some(kind) = config.position_embedding_type.as_deref().filter(|kind| *kind != "absolute") {
            return Err(wrong(format!("position_embedding_type {kind:?} is not supported; only \"absolute\" is")));
        }
        if config.is_decoder {
            return Err(wrong("is_decoder is true; only encoders embed text".into()));
        }
        let sizes = [
            ("hidden_size", config.hidden_size),
            ("intermediate_size", config.intermediate_size),
            ("num_hidden_layers", config.num_hidden_layers),
            ("num_attention_heads", config.num_attention_heads),
            ("vocab_size", config.vocab_size),
            ("max_position_embeddings", config.max_position_embeddings),
            ("type_vocab_size", config.type_vocab_size),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(wrong(format!("{name} is 0")));
        }
        if !config.hidden_size.is_multiple_of(config.num_attention_heads) {
            let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
            return Err(wrong(format!("hidden_size {hidden} is no multiple of num_attention_heads {heads}")));
        }
        if !(config.layer_norm_eps.is_finite() && config.layer_norm_eps > 0.0) {
            return Err(wrong(format!("layer_norm_eps {} is not a small positive number", config.layer_norm_eps)));
        }
        Ok(config)
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
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let cases: [(&str, Value, &str); 9] = [
            ("model_type", json!("roberta"), "model_type \"roberta\""),
            ("hidden_act", json!("mish"), "unknown variant `mish`"),
            ("position_embedding_type", json!("relative_key"), "position_embedding_type \"relative_key\""),
            ("architectures", json!(["BertForSequenceClassification"]), "BertForSequenceClassification"),
            ("is_decoder", json!(true), "is_decoder"),
            ("num_attention_heads", json!(3), "no multiple of num_attention_heads 3"),
            ("num_attention_heads", json!(0), "num_attention_heads is 0"),
            ("vocab_size", json!(null), "null"),
            ("layer_norm_eps", json!(-1.0), "layer_norm_eps"),
        ];
        for (field, value, part) in cases {
            let error = read(|config| config[field] = value).expect_err(field);
            assert!(error.contains(part) && error.contains("config.json"), "{field}: {error}");
        }
        let error = read(|config| drop(config.as_object_mut().expect("an object").remove("hidden_size")));
        assert!(error.expect_err("a field is missing").contains("missing field `hidden_size`"));
    }
}
