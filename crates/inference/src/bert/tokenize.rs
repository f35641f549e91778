//! From a text to the ids of its tokens, by the directory's own `tokenizer.json`.

use std::path::Path;

use tokenizers::{PostProcessor, Tokenizer as Inner, TruncationParams};

use super::files::{Settings, TOKENIZER};
use crate::LoadError;

/// Cuts texts into tokens.
pub(super) struct Tokenizer {
    inner: Inner,
    lower_case: bool,
}

impl Tokenizer {
    /// Reads the tokenizer and sets its truncation; whatever padding its file asks for is left to batches.
    ///
    /// # Errors
    /// When the file cannot be read or does not fit the encoder.
    pub(super) fn load(dir: &Path, settings: &Settings) -> Result<Self, LoadError> {
        let path = dir.join(TOKENIZER);
        let wrong = |reason: String| LoadError::new(&path, reason);
        let mut inner = Inner::from_file(&path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
        inner.with_padding(None);
        let special = inner.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
        if settings.max_tokens <= special {
            return Err(wrong(format!("{special} special tokens leave no room in {} tokens", settings.max_tokens)));
        }
        let truncation = TruncationParams { max_length: settings.max_tokens, ..TruncationParams::default() };
        inner.with_truncation(Some(truncation)).map_err(|error| wrong(error.to_string()))?;
        let rows = settings.config.vocab_size;
        if let Some(id) = inner.get_vocab(true).into_values().max().filter(|id| *id as usize >= rows) {
            return Err(wrong(format!("has token {id}, but the encoder only {rows} embeddings (vocab_size)")));
        }
        let empty = inner.encode_fast("", true).map_err(|error| wrong(format!("cannot read a text: {error}")))?;
        if empty.is_empty() {
            return Err(wrong("adds no special tokens, so an empty text would have none".into()));
        }
        if empty.get_type_ids().iter().any(|id| *id != 0) {
            return Err(wrong("gives single texts another token type than 0".into()));
        }
        Ok(Self { inner, lower_case: settings.lower_case })
    }

    /// The ids of a text's tokens, the special ones included: at least one and at most the model's maximum.
    ///
    /// # Errors
    /// When the tokenizer cannot read the text.
    pub(super) fn encode(&self, text: &str) -> tokenizers::Result<Vec<u32>> {
        let encoding = if self.lower_case {
            self.inner.encode_fast(text.to_lowercase(), true)
        } else {
            self.inner.encode_fast(text, true)
        };
        encoding.map(|encoding| encoding.get_ids().to_vec())
    }
}
