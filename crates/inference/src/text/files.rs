//! The files of a Hugging Face directory with a text encoder, and what those around the encoder say: which model it is, what it
//! is for, how tokens become one embedding, and how many are read.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{config::Config, family::Family, task::Task};
use crate::LoadError;

/// The weights, relative to the directory.
pub(super) const WEIGHTS: &str = "model.safetensors";
/// The tokenizer, relative to the directory.
pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const CONFIG: &str = "config.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// Older versions of sentence-transformers named this file after the family; of several, it takes the first.
const SENTENCE_CONFIGS: [&str; 5] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_xlm-roberta_config.json",
];
const LIBRARY_CONFIG: &str = "config_sentence_transformers.json";
const MODULES: &str = "modules.json";

/// How the embeddings of tokens become the embedding of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pooling {
    /// Their mean.
    Mean,
    /// The first one's, which is the `[CLS]` token.
    Cls,
}

/// Everything that the directory's configuration says.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(super) config: Config,
    pub(super) task: Task,
    /// Texts are cut to this many tokens, the special ones included.
    pub(super) max_tokens: usize,
    /// Whether texts are lower-cased before the tokenizer sees them (its own normalizer does so besides).
    pub(super) lower_case: bool,
    pub(super) pooling: Pooling,
    /// Whether embeddings are scaled to length 1.
    pub(super) normalize: bool,
    /// Whether the encoder is told which tokens are the second text's.
    pub(super) is_told_types: bool,
    /// The token for what the vocabulary lacks, where the tokenizer's configuration names it.
    pub(super) unknown: Option<String>,
    /// What makes scores of a reranker's outputs, where sentence-transformers says it beside `config.json`.
    pub(super) activation: Option<String>,
    /// The files that all this and the encoder come from, relative to the directory.
    pub(super) files: Vec<PathBuf>,
}

#[derive(Default, Deserialize)]
struct TokenizerConfig {
    /// Huge (1e30) where the tokenizer has no limit.
    model_max_length: Option<f64>,
    /// What older versions called it.
    max_len: Option<f64>,
    model_input_names: Option<Vec<String>>,
    truncation_side: Option<String>,
    unk_token: Option<Special>,
}

/// A special token, as a word or with what else is said of it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Special {
    Word(String),
    Described { content: String },
}

#[derive(Default, Deserialize)]
struct SentenceConfig {
    max_seq_length: Option<usize>,
    #[serde(default)]
    do_lower_case: bool,
}

/// What sentence-transformers says of a model as a whole.
#[derive(Default, Deserialize)]
struct LibraryConfig {
    default_prompt_name: Option<String>,
    activation_fn: Option<String>,
}

#[derive(Deserialize)]
struct Module {
    #[serde(rename = "type")]
    kind: String,
    path: String,
}

/// Whether the directory is a Hugging Face one of a family that runs here.
pub(crate) fn is_text_encoder(dir: &Path) -> bool {
    model_type(dir).is_some_and(|kind| Family::ALL.iter().any(|(name, _)| *name == kind))
}

/// Whether a file of this name, in the directory itself, says more about a model than `config.json` does: it is read where it is.
#[must_use]
pub fn is_setting(name: &str) -> bool {
    [TOKENIZER_CONFIG, LIBRARY_CONFIG, MODULES].contains(&name) || SENTENCE_CONFIGS.contains(&name)
}

/// Why a directory, which has no manifest, is no text encoder.
pub(crate) fn why_not(dir: &Path) -> String {
    let known = Family::ALL.map(|(name, _)| name).join(", ");
    match model_type(dir) {
        Some(kind) => format!("no model: its config.json says model_type {kind:?}; known are {known}"),
        None => format!(
            "no model: it has no model.toml, no GGUF file, and no config.json with a model_type that is known: {known}"
        ),
    }
}

fn model_type(dir: &Path) -> Option<String> {
    let config: Value = read_json(&dir.join(CONFIG)).ok().flatten()?;
    Some(config.get("model_type")?.as_str()?.to_owned())
}

/// Reads a JSON file; `None` where there is none.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, LoadError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(LoadError::new(path, format!("cannot be read: {error}"))),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| LoadError::new(path, error.to_string()))
}

impl Settings {
    /// Reads them as transformers does, and for embeddings as sentence-transformers does. The task is that of a manifest, else
    /// what the model was made for.
    ///
    /// # Errors
    /// Names the file that is missing, or says what this server does not support rather than answer otherwise than meant.
    pub(super) fn read(dir: &Path, asked: Option<&str>) -> Result<Self, LoadError> {
        let is_missing = |name: &str, advice: &str| match dir.join(name).is_file() {
            true => Ok(()),
            false => Err(LoadError::new(&dir.join(name), format!("is missing{advice}"))),
        };
        is_missing(WEIGHTS, "")?;
        is_missing(TOKENIZER, "; AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) of transformers makes it")?;
        let config = Config::read(&dir.join(CONFIG))?;
        let wrong = |reason: String| LoadError::new(&dir.join(CONFIG), reason);
        let own = config.task().map_err(wrong)?;
        let task = asked.map_or(Ok(own), |word| own.asked(word)).map_err(wrong)?;
        let tokenizer: Option<TokenizerConfig> = read_json(&dir.join(TOKENIZER_CONFIG))?;
        let mut files: Vec<PathBuf> = vec![WEIGHTS.into(), CONFIG.into(), TOKENIZER.into()];
        files.extend(tokenizer.is_some().then(|| TOKENIZER_CONFIG.into()));
        let tokenizer = tokenizer.unwrap_or_default();
        if let Some(side) = tokenizer.truncation_side.filter(|side| side != "right") {
            let reason = format!("truncation_side {side:?} is not supported; texts are cut on the right");
            return Err(LoadError::new(&dir.join(TOKENIZER_CONFIG), reason));
        }
        let told = tokenizer.model_input_names.map(|names| names.iter().any(|name| name == "token_type_ids"));
        // The cast of a float too large for usize gives the largest.
        let stated = tokenizer.model_max_length.or(tokenizer.max_len).map(|length| length as usize);
        let mut settings = Self {
            task,
            max_tokens: stated.unwrap_or(usize::MAX).min(config.positions()),
            lower_case: false,
            pooling: Pooling::Mean,
            normalize: false,
            is_told_types: config.family.has_types() && told.unwrap_or(config.family.is_told_types()),
            activation: None,
            unknown: tokenizer.unk_token.map(|(Special::Word(word) | Special::Described { content: word })| word),
            files,
            config,
        };
        match task {
            Task::FeatureExtraction => {
                settings.read_sentence_settings(dir)?;
                settings.read_library_config(dir)?;
            }
            Task::TextClassification => settings.activation = settings.read_library_config(dir)?.activation_fn,
            Task::TokenClassification | Task::ZeroShotClassification => {}
        }
        Ok(settings)
    }

    fn read_library_config(&mut self, dir: &Path) -> Result<LibraryConfig, LoadError> {
        let config: Option<LibraryConfig> = read_json(&dir.join(LIBRARY_CONFIG))?;
        self.files.extend(config.is_some().then(|| LIBRARY_CONFIG.into()));
        let config = config.unwrap_or_default();
        match &config.default_prompt_name {
            Some(name) => {
                let reason = format!("default_prompt_name {name:?} is not supported");
                Err(LoadError::new(&dir.join(LIBRARY_CONFIG), reason))
            }
            None => Ok(config),
        }
    }

    /// What sentence-transformers' files say about embeddings. Without modules.json it takes the mean and leaves its length as
    /// it is.
    fn read_sentence_settings(&mut self, dir: &Path) -> Result<(), LoadError> {
        let modules: Option<Vec<Module>> = read_json(&dir.join(MODULES))?;
        let mut sentence = SentenceConfig::default();
        if let Some(name) = SENTENCE_CONFIGS.into_iter().find(|name| dir.join(name).is_file()) {
            sentence = read_json(&dir.join(name))?.unwrap_or_default();
            self.files.push(name.into());
        }
        if let Some(modules) = modules {
            self.files.push(MODULES.into());
            let pooling_config = pooling_module(&dir.join(MODULES), &modules)?.join(CONFIG);
            self.pooling = read_pooling(&dir.join(&pooling_config))?;
            self.normalize = modules.len() == 3;
            self.files.push(pooling_config);
        }
        if let Some(length) = sentence.max_seq_length {
            self.max_tokens = length.min(self.config.positions());
        }
        self.lower_case = sentence.do_lower_case;
        Ok(())
    }
}

/// The directory of the pooling module, after checking that the modules are ones that run here.
fn pooling_module(path: &Path, modules: &[Module]) -> Result<PathBuf, LoadError> {
    // The types' paths differ between versions of sentence-transformers; their last names do not.
    let kinds: Vec<_> = modules.iter().map(|module| module.kind.rsplit('.').next().unwrap_or_default()).collect();
    if !matches!(kinds[..], ["Transformer", "Pooling"] | ["Transformer", "Pooling", "Normalize"]) {
        let reason = format!("modules {kinds:?} are not supported; Transformer, Pooling and perhaps Normalize are");
        return Err(LoadError::new(path, reason));
    }
    if !modules[0].path.is_empty() {
        return Err(LoadError::new(path, "the Transformer's path is not the directory itself"));
    }
    let pooling = PathBuf::from(&modules[1].path);
    if !pooling.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(LoadError::new(path, format!("path {pooling:?} leads out of the directory")));
    }
    Ok(pooling)
}

/// The one mode that a pooling configuration names: as a word, or as a flag per mode in older files.
fn read_pooling(path: &Path) -> Result<Pooling, LoadError> {
    let config: Value = read_json(path)?.ok_or_else(|| LoadError::new(path, "is missing"))?;
    let modes: Vec<&str> = match config.get("pooling_mode") {
        Some(Value::String(mode)) => vec![mode],
        Some(Value::Array(modes)) => modes.iter().filter_map(Value::as_str).collect(),
        _ => {
            let flags = config.as_object().into_iter().flatten().filter(|(_, set)| **set == true);
            flags.filter_map(|(flag, _)| flag.strip_prefix("pooling_mode_")).collect()
        }
    };
    match modes[..] {
        ["mean" | "mean_tokens"] => Ok(Pooling::Mean),
        ["cls" | "cls_token"] => Ok(Pooling::Cls),
        _ => Err(LoadError::new(path, format!("pooling by {modes:?} is not supported; by mean or by cls is"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TRANSFORMER: &str = "sentence_transformers.models.Transformer";
    const POOLING: &str = "sentence_transformers.sentence_transformer.modules.pooling.Pooling";

    /// A directory with these files besides a sound `config.json`.
    fn directory(files: &[(&str, Value)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let config = json!({
            "model_type": "bert", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "vocab_size": 10, "max_position_embeddings": 512,
        });
        let empty = [(WEIGHTS, json!(null)), (TOKENIZER, json!(null)), (CONFIG, config)];
        for (name, content) in empty.iter().chain(files) {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("makes a directory");
            fs::write(path, content.to_string()).expect("writes");
        }
        directory
    }

    fn read(files: &[(&str, Value)]) -> Result<Settings, String> {
        Settings::read(directory(files).path(), None).map_err(|error| error.to_string())
    }

    fn modules(kinds: &[&str]) -> Value {
        let path = |kind: &str| if kind == POOLING { "1_Pooling" } else { "" };
        kinds.iter().map(|kind| json!({"type": kind, "path": path(kind)})).collect()
    }

    #[test]
    fn a_directory_without_modules_takes_the_mean() {
        let settings = read(&[]).expect("sound");
        assert_eq!((settings.max_tokens, settings.pooling, settings.normalize), (512, Pooling::Mean, false));
        assert_eq!(settings.files, [WEIGHTS, CONFIG, TOKENIZER].map(PathBuf::from));
    }

    #[test]
    fn pooling_is_read_as_flags_and_as_words() {
        let three = modules(&[TRANSFORMER, POOLING, "sentence_transformers.models.Normalize"]);
        let flags = json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false});
        let settings = read(&[(MODULES, three), ("1_Pooling/config.json", flags)]).expect("sound");
        assert_eq!((settings.pooling, settings.normalize), (Pooling::Cls, true));
        assert!(settings.files.contains(&"1_Pooling/config.json".into()));

        let words = |mode: Value| {
            read(&[
                (MODULES, modules(&[TRANSFORMER, POOLING])),
                ("1_Pooling/config.json", json!({"pooling_mode": mode})),
            ])
        };
        let settings = words(json!("mean")).expect("sound");
        assert_eq!((settings.pooling, settings.normalize), (Pooling::Mean, false));
        assert!(words(json!("lasttoken")).expect_err("unsupported").contains("lasttoken"));
        assert!(words(json!(["mean", "cls"])).expect_err("two at once").contains("mean"));
    }

    #[test]
    fn the_shortest_limit_on_tokens_holds() {
        let limit = |files: &[(&str, Value)]| read(files).expect("sound").max_tokens;
        let tokenizer = (TOKENIZER_CONFIG, json!({"model_max_length": 128}));
        assert_eq!(limit(std::slice::from_ref(&tokenizer)), 128);
        assert_eq!(limit(&[tokenizer, ("sentence_bert_config.json", json!({"max_seq_length": 256}))]), 256);
        assert_eq!(limit(&[("sentence_camembert_config.json", json!({"max_seq_length": 128}))]), 128);
        assert_eq!(limit(&[("sentence_bert_config.json", json!({"max_seq_length": 4096}))]), 512);
        assert_eq!(limit(&[(TOKENIZER_CONFIG, json!({"max_len": 64}))]), 64);
        assert_eq!(limit(&[(TOKENIZER_CONFIG, json!({"model_max_length": 1e30}))]), 512);
    }

    #[test]
    fn a_file_beside_says_what_makes_scores() {
        let config = json!({
            "model_type": "bert", "architectures": ["BertForSequenceClassification"], "hidden_size": 8, "intermediate_size": 16,
            "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 10, "max_position_embeddings": 512, "num_labels": 1,
        });
        let identity = "torch.nn.modules.linear.Identity";
        let settings = read(&[(CONFIG, config), (LIBRARY_CONFIG, json!({"activation_fn": identity}))]).expect("sound");
        assert_eq!(settings.activation.as_deref(), Some(identity));
        assert!(settings.files.contains(&LIBRARY_CONFIG.into()));
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let dense = modules(&[TRANSFORMER, POOLING, "sentence_transformers.models.Dense"]);
        assert!(read(&[(MODULES, dense)]).expect_err("a dense module").contains("Dense"));
        let outside = json!([{"type": TRANSFORMER, "path": ""}, {"type": POOLING, "path": "../1_Pooling"}]);
        assert!(read(&[(MODULES, outside)]).expect_err("a path outside").contains("out of the directory"));
        let absent = read(&[(MODULES, modules(&[TRANSFORMER, POOLING]))]);
        assert!(absent.expect_err("no pooling file").contains("1_Pooling/config.json: is missing"));
        let prompt = read(&[(LIBRARY_CONFIG, json!({"default_prompt_name": "query"}))]);
        assert!(prompt.expect_err("a default prompt").contains("default_prompt_name"));
        let directory = directory(&[]);
        fs::remove_file(directory.path().join(WEIGHTS)).expect("removes");
        let error = Settings::read(directory.path(), None).expect_err("no weights").to_string();
        assert!(error.contains("model.safetensors: is missing"), "{error}");
        let left = read(&[(TOKENIZER_CONFIG, json!({"truncation_side": "left"}))]);
        assert!(left.expect_err("cut on the left").contains("truncation_side \"left\""));
    }

    #[test]
    fn a_manifest_asks_for_what_the_model_can_do() {
        let asked = |class: &str, word: &str| {
            let config = json!({
                "model_type": "bert", "architectures": [class], "hidden_size": 8, "intermediate_size": 16,
                "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 10, "max_position_embeddings": 512,
            });
            let directory = directory(&[(CONFIG, config)]);
            Settings::read(directory.path(), Some(word)).map(|read| read.task).map_err(|error| error.to_string())
        };
        let classifier = "BertForSequenceClassification";
        assert_eq!(asked(classifier, "text-classification"), Ok(Task::TextClassification));
        assert_eq!(asked(classifier, "zero-shot-classification"), Ok(Task::ZeroShotClassification));
        for (class, word) in [
            (classifier, "feature-extraction"),
            ("BertModel", "zero-shot-classification"),
            ("BertModel", "translation"),
        ] {
            let error = asked(class, word).expect_err("something else");
            assert!(error.contains("config.json: architectures are for") && error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_tokenizer_may_tell_types_or_not() {
        let told = |content: Value| read(&[(TOKENIZER_CONFIG, content)]).expect("sound");
        assert!(told(json!({})).is_told_types);
        assert!(!told(json!({"model_input_names": ["input_ids", "attention_mask"]})).is_told_types);
        let unknown = |content: Value| told(json!({"unk_token": content})).unknown;
        assert_eq!(unknown(json!("<unk>")), unknown(json!({"content": "<unk>", "lstrip": false})));
    }
}
