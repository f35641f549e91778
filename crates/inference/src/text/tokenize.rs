//! From texts to the ids of their tokens, by the directory's own `tokenizer.json`.

use std::{borrow::Cow, fmt::Display, fs, path::Path};

use tokenizers::{Decoder, Encoding, PostProcessor, TruncationParams, TruncationStrategy};

use super::{
    basic::Basic,
    files::{Settings, TOKENIZER},
    task::Task,
    vocabulary,
};
use crate::LoadError;

/// Words for what the vocabulary lacks, where nothing names one.
const UNKNOWN: [&str; 2] = ["[UNK]", "<unk>"];

/// Cuts texts into tokens.
pub(crate) struct Tokenizer {
    inner: vocabulary::Tokenizer,
    /// What it does with one text, if that is as simple.
    basic: Option<Basic>,
    lower_case: bool,
    is_told_types: bool,
    /// The id of what the vocabulary lacks.
    unknown: Option<u32>,
}

/// A text, or a pair of texts, as the encoder reads it: special tokens included, at least one and at most the model's maximum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub(super) ids: Vec<u32>,
    /// The type of each; empty where all are 0.
    pub(super) types: Vec<u32>,
}

/// Where a token that is not special stands in its text.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Among all tokens.
    pub(super) index: usize,
    /// As the vocabulary has it; the text itself where the vocabulary lacks it.
    pub(super) word: String,
    /// In characters of the text, which are Unicode's code points.
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Tokenizer {
    /// Reads the tokenizer and sets its truncation; whatever padding its file asks for is left to batches.
    ///
    /// # Errors
    /// When the file cannot be read or does not fit the encoder.
    pub(super) fn load(dir: &Path, settings: &Settings) -> Result<Self, LoadError> {
        let path = dir.join(TOKENIZER);
        let wrong = |reason: String| LoadError::new(&path, reason);
        let unread = |error: &dyn Display| wrong(format!("cannot be read: {error}"));
        let json = fs::read_to_string(&path).map_err(|error| unread(&error))?;
        let (mut inner, largest) = vocabulary::read(&json).map_err(|error| unread(&error))?;
        inner.with_padding(None);
        let is_pair = settings.task != Task::FeatureExtraction && settings.task != Task::TokenClassification;
        let special = inner.get_post_processor().map_or(0, |processor| processor.added_tokens(is_pair));
        if settings.max_tokens <= special {
            return Err(wrong(format!("{special} special tokens leave no room in {} tokens", settings.max_tokens)));
        }
        let strategy = match settings.task {
            // What is asked of the text stays whole.
            Task::ZeroShotClassification => TruncationStrategy::OnlyFirst,
            _ => TruncationStrategy::LongestFirst,
        };
        let truncation = TruncationParams { max_length: settings.max_tokens, strategy, ..TruncationParams::default() };
        inner.with_truncation(Some(truncation)).map_err(|error| wrong(error.to_string()))?;
        let unreadable = |error: tokenizers::Error| wrong(format!("cannot read a text: {error}"));
        let empty = inner.encode_fast("", true).map_err(unreadable)?;
        if empty.is_empty() {
            return Err(wrong("adds no special tokens, so an empty text would have none".into()));
        }
        let pair = inner.encode_fast(("", ""), true).map_err(unreadable)?;
        let added = if is_pair { vec![&empty, &pair] } else { vec![&empty] };
        let ids = added.iter().flat_map(|encoding| encoding.get_ids().iter().copied());
        let (id, rows) = (ids.fold(largest, u32::max), settings.config.vocab_size);
        if id as usize >= rows {
            return Err(wrong(format!("has token {id}, but the encoder only {rows} embeddings (vocab_size)")));
        }
        let mut types = added.iter().flat_map(|encoding| encoding.get_type_ids());
        let known = settings.config.type_vocab_size;
        if let Some(kind) = types.find(|kind| settings.is_told_types && **kind as usize >= known) {
            return Err(wrong(format!("gives tokens type {kind}, but the encoder has {known} (type_vocab_size)")));
        }
        let named = settings.unknown.iter().map(String::as_str).chain(UNKNOWN);
        let unknown = named.into_iter().find_map(|word| inner.token_to_id(word));
        let (basic, lower_case) = (Basic::of(&inner), settings.lower_case);
        Ok(Self { inner, basic, lower_case, is_told_types: settings.is_told_types, unknown })
    }

    /// One text.
    ///
    /// # Errors
    /// When the tokenizer cannot read it.
    pub(super) fn text(&self, text: &str) -> tokenizers::Result<Tokens> {
        let text = if self.lower_case { Cow::Owned(text.to_lowercase()) } else { Cow::Borrowed(text) };
        match &self.basic {
            Some(basic) => basic.ids(&self.inner, &text).map(|ids| Tokens { ids, types: Vec::new() }),
            None => self.inner.encode_fast(text, true).map(|encoding| self.tokens(&encoding)),
        }
    }

    /// Two texts that are read together; the longer one is cut first.
    ///
    /// # Errors
    /// When the tokenizer cannot read them.
    pub(super) fn pair(&self, first: &str, second: &str) -> tokenizers::Result<Tokens> {
        self.inner.encode_fast((first, second), true).map(|encoding| self.tokens(&encoding))
    }

    /// One text with each of several; the one is cut, the others are not.
    ///
    /// # Errors
    /// When the tokenizer cannot read one, or one of the others leaves no room.
    pub(super) fn pairs(&self, first: &str, others: &[String]) -> tokenizers::Result<Vec<Tokens>> {
        // Read once; special tokens come with the pairing.
        let mut first = self.inner.encode_fast(first, false)?;
        // What is cut off would be copied with each.
        drop(first.take_overflowing());
        let pair = |other: &String| {
            let other = self.inner.encode_fast(other.as_str(), false)?;
            self.inner.post_process(first.clone(), Some(other), true).map(|encoding| self.tokens(&encoding))
        };
        others.iter().map(pair).collect()
    }

    /// One text, and where its tokens stand.
    ///
    /// # Errors
    /// When the tokenizer cannot read it.
    pub(super) fn places(&self, text: &str) -> tokenizers::Result<(Tokens, Vec<Place>)> {
        let encoding = self.inner.encode_char_offsets(text, true)?;
        // Where each character begins in bytes, so that a word is found at once.
        let bytes: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let written = |start: usize, end: usize| text.get(*bytes.get(start)?..*bytes.get(end)?);
        let mut places = Vec::new();
        for (index, id) in encoding.get_ids().iter().enumerate() {
            if encoding.get_special_tokens_mask()[index] == 0 {
                let (start, end) = encoding.get_offsets()[index];
                let known = self.inner.id_to_token(*id).filter(|_| self.unknown != Some(*id));
                let word = known.unwrap_or_else(|| written(start, end).unwrap_or_default().to_owned());
                places.push(Place { index, word, start, end });
            }
        }
        Ok((self.tokens(&encoding), places))
    }

    /// The text that tokens make, as the tokenizer decodes them.
    ///
    /// # Errors
    /// When it cannot.
    pub(super) fn join(&self, words: Vec<String>) -> tokenizers::Result<String> {
        match self.inner.get_decoder() {
            Some(decoder) => decoder.decode(words),
            None => Ok(words.join(" ")),
        }
    }

    fn tokens(&self, encoding: &Encoding) -> Tokens {
        let is_told = self.is_told_types && encoding.get_type_ids().iter().any(|kind| *kind != 0);
        let types = if is_told { encoding.get_type_ids().to_vec() } else { Vec::new() };
        Tokens { ids: encoding.get_ids().to_vec(), types }
    }
}
