//! The files of a Hugging Face text-embedding directory, and what those around the encoder say: which model it is, how
//! tokens become one embedding, and how many are read.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use prediction::ModelName;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::config::Config;
use crate::LoadError;

/// The weights, relative to the directory.
pub(super) const WEIGHTS: &str = "model.safetensors";
/// The tokenizer, relative to the directory.
pub(super) const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "config.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SENTENCE_CONFIG: &str = "sentence_bert_config.json";
const PROMPTS: &str = "config_sentence_transformers.json";
const MODULES: &str = "modules.json";
const CARD: &str = "README.md";

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
pub(super) struct Settings {
    pub(super) config: Config,
    /// Texts are cut to this many tokens, the special ones included.
    pub(super) max_tokens: usize,
    /// Whether texts are lower-cased before the tokenizer sees them (its own normalizer does so besides).
    pub(super) lower_case: bool,
    pub(super) pooling: Pooling,
    /// Whether embeddings are scaled to length 1.
    pub(super) normalize: bool,
    /// The files that all this and the encoder come from, relative to the directory.
    pub(super) files: Vec<PathBuf>,
}

#[derive(Default, Deserialize)]
struct TokenizerConfig {
    /// Huge (1e30) where the tokenizer has no limit.
    model_max_length: Option<f64>,
}

#[derive(Default, Deserialize)]
struct SentenceConfig {
    max_seq_length: Option<usize>,
    #[serde(default)]
    do_lower_case: bool,
}

#[derive(Default, Deserialize)]
struct Prompts {
    default_prompt_name: Option<String>,
}

#[derive(Deserialize)]
struct Module {
    #[serde(rename = "type")]
    kind: String,
    path: String,
}

/// Whether the directory is a Hugging Face one of the BERT family.
pub(crate) fn is_bert(dir: &Path) -> bool {
    let config: Option<Value> = read_json(&dir.join(CONFIG)).ok().flatten();
    config.is_some_and(|config| config.get("model_type").is_some_and(|kind| kind == "bert"))
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
    /// Reads them as sentence-transformers does.
    ///
    /// # Errors
    /// Names the file that is missing, or says what this server does not support rather than embed otherwise than meant.
    pub(super) fn read(dir: &Path) -> Result<Self, LoadError> {
        for name in [WEIGHTS, TOKENIZER] {
            if !dir.join(name).is_file() {
                return Err(LoadError::new(&dir.join(name), "is missing"));
            }
        }
        let config = Config::read(&dir.join(CONFIG))?;
        let sentence: Option<SentenceConfig> = read_json(&dir.join(SENTENCE_CONFIG))?;
        let tokenizer: Option<TokenizerConfig> = read_json(&dir.join(TOKENIZER_CONFIG))?;
        let prompts: Option<Prompts> = read_json(&dir.join(PROMPTS))?;
        let modules: Option<Vec<Module>> = read_json(&dir.join(MODULES))?;

        if let Some(name) = prompts.as_ref().and_then(|prompts| prompts.default_prompt_name.as_ref()) {
            return Err(LoadError::new(&dir.join(PROMPTS), format!("default_prompt_name {name:?} is not supported")));
        }
        let mut files = vec![WEIGHTS.into(), CONFIG.into(), TOKENIZER.into()];
        files.extend(sentence.is_some().then(|| SENTENCE_CONFIG.into()));
        files.extend(tokenizer.is_some().then(|| TOKENIZER_CONFIG.into()));
        files.extend(prompts.is_some().then(|| PROMPTS.into()));
        // Without modules.json sentence-transformers takes the mean and leaves its length as it is.
        let (mut pooling, mut normalize) = (Pooling::Mean, false);
        if let Some(modules) = modules {
            files.push(MODULES.into());
            let pooling_config = pooling_module(&dir.join(MODULES), &modules)?.join(CONFIG);
            pooling = read_pooling(&dir.join(&pooling_config))?;
            normalize = modules.len() == 3;
            files.push(pooling_config);
        }
        let sentence = sentence.unwrap_or_default();
        let most = config.max_position_embeddings;
        let max_tokens = sentence.max_seq_length.unwrap_or_else(|| {
            // The cast of a float too large for usize gives the largest.
            tokenizer.and_then(|tokenizer| tokenizer.model_max_length).map_or(most, |length| length as usize)
        });
        let max_tokens = max_tokens.min(most);
        Ok(Self { config, max_tokens, lower_case: sentence.do_lower_case, pooling, normalize, files })
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

/// The model's name: `org/name` for a snapshot in Hugging Face's own cache (`models--org--name/snapshots/<commit>`), else the
/// directory's last two parts, `augur` for an owner where that makes no name; in lower case, as model names are.
///
/// # Errors
/// When the directory's own part has characters that names do not have.
pub(super) fn name(dir: &Path) -> Result<ModelName, LoadError> {
    let wrong = |reason: String| LoadError::new(dir, reason);
    let whole = dir.canonicalize().map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let part = |depth: usize| {
        let name = whole.ancestors().nth(depth).and_then(Path::file_name);
        name.map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default()
    };
    let (own, owner, repository) = (part(0), part(1), part(2));
    if let Some(name) = repository.strip_prefix("models--").filter(|_| owner == "snapshots")
        && let Ok(name) = name.replacen("--", "/", 1).parse()
    {
        return Ok(name);
    }
    format!("{owner}/{own}")
        .parse()
        .or_else(|_| ModelName::local(&own))
        .map_err(|error| wrong(format!("the directory's name cannot be a model's: {error}; rename it")))
}

/// The licence that the model card's header states, where it names one.
pub(super) fn license(dir: &Path) -> Option<String> {
    let card = fs::read_to_string(dir.join(CARD)).ok()?;
    let header = card.strip_prefix("---")?.split("\n---").next()?;
    let license = header.lines().find_map(|line| line.strip_prefix("license:"))?.trim().trim_matches(['"', '\'']);
    (!matches!(license, "" | "other" | "unknown")).then(|| license.to_owned())
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
        Settings::read(directory(files).path()).map_err(|error| error.to_string())
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
        assert_eq!(limit(&[tokenizer, (SENTENCE_CONFIG, json!({"max_seq_length": 256}))]), 256);
        assert_eq!(limit(&[(SENTENCE_CONFIG, json!({"max_seq_length": 4096}))]), 512);
        assert_eq!(limit(&[(TOKENIZER_CONFIG, json!({"model_max_length": 1e30}))]), 512);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let dense = modules(&[TRANSFORMER, POOLING, "sentence_transformers.models.Dense"]);
        assert!(read(&[(MODULES, dense)]).expect_err("a dense module").contains("Dense"));
        let outside = json!([{"type": TRANSFORMER, "path": ""}, {"type": POOLING, "path": "../1_Pooling"}]);
        assert!(read(&[(MODULES, outside)]).expect_err("a path outside").contains("out of the directory"));
        let absent = read(&[(MODULES, modules(&[TRANSFORMER, POOLING]))]);
        assert!(absent.expect_err("no pooling file").contains("1_Pooling/config.json: is missing"));
        let prompt = read(&[(PROMPTS, json!({"default_prompt_name": "query"}))]);
        assert!(prompt.expect_err("a default prompt").contains("default_prompt_name"));
        let directory = directory(&[]);
        fs::remove_file(directory.path().join(WEIGHTS)).expect("removes");
        let error = Settings::read(directory.path()).expect_err("no weights").to_string();
        assert!(error.contains("model.safetensors: is missing"), "{error}");
    }

    #[test]
    fn names_come_from_directories() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let named = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(&path).expect("makes a directory");
            name(&path).map(|name| name.as_str().to_owned()).map_err(|error| error.to_string())
        };
        assert_eq!(named("Owner/All-MiniLM-L6-v2").as_deref(), Ok("owner/all-minilm-l6-v2"));
        assert_eq!(named("my models/All-MiniLM-L6-v2").as_deref(), Ok("augur/all-minilm-l6-v2"));
        assert_eq!(named("models--BAAI--bge-small/snapshots/0a1b").as_deref(), Ok("baai/bge-small"));
        assert!(named("not a name").expect_err("a space").contains("rename it"));
    }

    #[test]
    fn the_card_states_the_licence() {
        let stated = |card: &str| {
            let directory = tempfile::tempdir().expect("a temporary directory");
            fs::write(directory.path().join(CARD), card).expect("writes");
            license(directory.path())
        };
        assert_eq!(stated("---\nlanguage: en\nlicense: apache-2.0\n---\n# Model").as_deref(), Some("apache-2.0"));
        assert_eq!(stated("---\nlicense: other\n---\n"), None);
        assert_eq!(stated("# Model\nlicense: mit\n"), None);
    }
}
