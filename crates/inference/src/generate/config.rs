//! What a GGUF header says of a decoder: its family and its sizes. What would change the answer and is not known is refused by name.

use prediction::Limits;

use crate::{
    LoadError,
    gguf::{Gguf, Value},
};

/// Bytes of memory for keys and values of all sequences that run at a time.
const CACHE_BYTES: usize = 2 << 30;

/// So many of the longest sequences find room at the same time: one alone never keeps all others waiting.
const LONGEST_AT_ONCE: usize = 4;

/// The most rows of the matrix that makes queries; far more than any model's, and no product of them overflows.
const LARGEST_SIDE: usize = 1 << 24;

/// Further values of the architecture's own that are read, or that say nothing of what is computed.
const KNOWN: [&str; 18] = [
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "vocab_size",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "expert_count",
    "expert_used_count",
];

/// How a family differs from others; which these are, `general.architecture` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Family {
    /// As files name it.
    pub(super) name: &'static str,
    /// Whether a rotation turns neighbours (llama, whose converter permutes queries and keys for that) rather than a number of the
    /// first half of a head with one of the second.
    pub(super) turns_neighbours: bool,
    /// Whether queries, keys and values have biases; llama's may.
    pub(super) has_biases: Option<bool>,
    /// Whether queries and keys are normed, head by head.
    pub(super) norms_heads: bool,
}

const FAMILIES: [Family; 3] = [
    Family { name: "llama", turns_neighbours: true, has_biases: None, norms_heads: false },
    Family { name: "qwen2", turns_neighbours: false, has_biases: Some(true), norms_heads: false },
    Family { name: "qwen3", turns_neighbours: false, has_biases: Some(false), norms_heads: true },
];

/// A decoder's family and sizes.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) family: Family,
    pub(super) layers: usize,
    /// Numbers of a token between layers.
    pub(super) width: usize,
    /// Numbers of a token within a feed-forward part.
    pub(super) inner: usize,
    /// Heads of queries.
    pub(super) heads: usize,
    /// Heads of keys and values; each serves as many heads of queries.
    pub(super) key_heads: usize,
    pub(super) head_width: usize,
    /// Tokens that it knows.
    pub(super) vocabulary: usize,
    /// The most tokens of a prompt and what follows it: what the model was made for, or what fits the cache.
    pub(super) context: usize,
    pub(super) epsilon: f32,
    /// The wavelengths of rotations are 2π times powers of this.
    pub(super) rope_base: f32,
    /// What positions are divided by.
    pub(super) rope_factor: f32,
}

impl Config {
    /// Reads them.
    ///
    /// # Errors
    /// Says what is missing, contradictory or not known here.
    pub(super) fn read(gguf: &Gguf) -> Result<Self, LoadError> {
        let name = gguf.need("general.architecture", Value::text)?;
        let family = FAMILIES.into_iter().find(|family| family.name == name);
        let family = family.ok_or_else(|| {
            gguf.wrong(format!(
                "general.architecture is {name:?}; known are {}",
                FAMILIES.map(|family| family.name).join(", ")
            ))
        })?;
        refuse_unknown(gguf, name)?;
        let count = |key: &str| gguf.find(&format!("{name}.{key}"), Value::count);
        let needed = |key: &str| match count(key)? {
            Some(count) if count > 0 => Ok(count),
            Some(_) => Err(gguf.wrong(format!("{name}.{key} is 0"))),
            None => Err(gguf.wrong(format!("{name}.{key} is missing"))),
        };
        let (width, heads) = (needed("embedding_length")?, needed("attention.head_count")?);
        let key_heads = count("attention.head_count_kv")?.unwrap_or(heads);
        let head_width = count("attention.key_length")?.unwrap_or(width / heads);
        let fits = |key: &str, value: usize| match count(key)? {
            Some(other) if other != value => {
                Err(gguf.wrong(format!("{name}.{key} is {other}; only {value} runs here")))
            }
            _ => Ok(()),
        };
        fits("attention.value_length", head_width)?;
        fits("rope.dimension_count", head_width)?;
        fits("expert_count", 0)?;
        fits("expert_used_count", 0)?;
        if key_heads == 0 || !heads.is_multiple_of(key_heads) || head_width == 0 || !head_width.is_multiple_of(2) {
            let reason =
                format!("{heads} heads of {head_width} numbers, {key_heads} of keys: no multiples of each other");
            return Err(gguf.wrong(reason));
        }
        if heads.checked_mul(head_width).is_none_or(|side| side > LARGEST_SIDE) {
            return Err(gguf.wrong(format!("{heads} heads of {head_width} numbers are more than any matrix here has")));
        }
        let (vocabulary, _) = gguf.sides("token_embd.weight")?;
        let mut config = Self {
            family,
            layers: needed("block_count")?,
            width,
            inner: needed("feed_forward_length")?,
            heads,
            key_heads,
            head_width,
            vocabulary,
            context: needed("context_length")?,
            epsilon: positive(gguf, &format!("{name}.attention.layer_norm_rms_epsilon"), None)?,
            rope_base: positive(gguf, &format!("{name}.rope.freq_base"), Some(10_000.0))?,
            rope_factor: rope_factor(gguf, name)?,
        };
        config.context = config.context.min(CACHE_BYTES / LONGEST_AT_ONCE / config.token_bytes());
        if config.context < 2 {
            return Err(gguf.wrong("not even two tokens fit the memory for keys and values"));
        }
        Ok(config)
    }

    /// Bytes of a token's keys and values, of all layers.
    fn token_bytes(&self) -> usize {
        let sides = [self.layers, self.key_heads, self.head_width, 2 * size_of::<f32>()];
        sides.into_iter().fold(1, usize::saturating_mul)
    }

    /// Tokens of all sequences that run at a time for which there is memory.
    pub(super) fn cached_tokens(&self) -> usize {
        (CACHE_BYTES / self.token_bytes()).min(self.context.saturating_mul(Limits::default().max_batch))
    }

    /// The most bytes of memory that keys and values of all sequences take.
    pub(super) fn cache_bytes(&self) -> usize {
        self.cached_tokens().saturating_mul(self.token_bytes())
    }
}

/// Refuses what the architecture's own values say beyond what is known.
fn refuse_unknown(gguf: &Gguf, name: &str) -> Result<(), LoadError> {
    let own = |key: &'_ str| Some(key.strip_prefix(name)?.strip_prefix('.')?.to_owned());
    match gguf.keys().filter_map(own).find(|key| !KNOWN.contains(&key.as_str())) {
        Some(key) => Err(gguf.wrong(format!("{name}.{key} is not known here, and may change what is computed"))),
        None => Ok(()),
    }
}

fn positive(gguf: &Gguf, key: &str, absent: Option<f64>) -> Result<f32, LoadError> {
    let stated = gguf.find(key, Value::float)?.or(absent);
    let stated = stated.ok_or_else(|| gguf.wrong(format!("{key} is missing")))? as f32;
    match stated.is_finite() && stated > 0.0 {
        true => Ok(stated),
        false => Err(gguf.wrong(format!("{key} is {stated}; it is above 0"))),
    }
}

fn rope_factor(gguf: &Gguf, name: &str) -> Result<f32, LoadError> {
    let key = format!("{name}.rope.scaling.type");
    let factor = format!("{name}.rope.scaling.factor");
    match gguf.find(&key, Value::text)? {
        Some("none") => Ok(1.0),
        None if gguf.find(&factor, Value::float)?.is_none_or(|factor| factor == 1.0) => Ok(1.0),
        None => Err(gguf.wrong(format!("{factor} is stated, but no {key}"))),
        Some("linear") => positive(gguf, &factor, None),
        Some(other) => Err(gguf.wrong(format!("{key} is {other:?}; none and linear run here"))),
    }
}
