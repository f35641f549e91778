//! The words of a GGUF file: what each token is, what it says, and which tokens begin and end a text.

use std::collections::HashMap;

use super::bytes;
use crate::{
    LoadError,
    gguf::{Gguf, Value},
};

/// The longest token, in bytes: twice what known vocabularies have.
const LONGEST_TOKEN: usize = 512;

/// What a token is (`llama_token_type` of llama.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    /// Says something about the text, and nothing in it.
    Control,
    /// Found in a text before anything else is.
    UserDefined,
    Unused,
    /// One byte, written `<0x0A>`.
    Byte,
}

/// How a vocabulary writes texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writing {
    /// SentencePiece's: `▁` is a space, and bytes have tokens of their own.
    SentencePiece,
    /// GPT-2's: each byte is a character of an alphabet.
    Bytes,
}

/// All tokens.
pub(super) struct Vocabulary {
    /// As the file has them, by id.
    pub(super) tokens: Vec<String>,
    pub(super) kinds: Vec<Kind>,
    pub(super) ids: HashMap<String, u32>,
    /// What stands before a text, if anything does.
    pub(super) begin: Option<u32>,
    /// What ends a text.
    pub(super) ends: Vec<u32>,
    pub(super) unknown: Option<u32>,
    /// What each token adds to a text, in bytes.
    pub(super) pieces: Vec<Vec<u8>>,
}

impl Vocabulary {
    /// Reads it; `begins_texts` is whether texts begin with a token where the file does not say.
    ///
    /// # Errors
    /// Says what is missing, contradictory or not known here.
    pub(super) fn read(gguf: &Gguf, writing: Writing, begins_texts: bool) -> Result<Self, LoadError> {
        let tokens = gguf.need("tokenizer.ggml.tokens", Value::texts)?.to_vec();
        if let Some(token) = tokens.iter().find(|token| token.len() > LONGEST_TOKEN) {
            let reason =
                format!("tokenizer.ggml.tokens has one of {} bytes; at most {LONGEST_TOKEN} are read", token.len());
            return Err(gguf.wrong(reason));
        }
        let kinds = match gguf.find("tokenizer.ggml.token_type", Value::integers)? {
            Some(numbers) => numbers.iter().map(|number| Kind::of(*number)).collect::<Option<Vec<_>>>(),
            None => Some(vec![Kind::Normal; tokens.len()]),
        };
        let kinds = kinds.filter(|kinds| kinds.len() == tokens.len());
        let kinds =
            kinds.ok_or_else(|| gguf.wrong("tokenizer.ggml.token_type has no kind that is known for each token"))?;
        let mut ids = HashMap::with_capacity(tokens.len());
        for (id, token) in (0..).zip(&tokens) {
            if ids.insert(token.clone(), id).is_some() {
                return Err(gguf.wrong(format!("tokenizer.ggml.tokens has {token:?} twice")));
            }
        }
        let special = |name: &str| match gguf.find(&format!("tokenizer.ggml.{name}_token_id"), Value::count)? {
            Some(id) if id >= tokens.len() => Err(gguf.wrong(format!("{name}_token_id is {id}, which no token has"))),
            id => Ok(id.map(|id| id as u32)),
        };
        let flag = |name: &str| gguf.find(&format!("tokenizer.ggml.{name}"), Value::flag);
        if flag("add_eos_token")? == Some(true) {
            return Err(gguf.wrong("tokenizer.ggml.add_eos_token would end every prompt, which nothing could follow"));
        }
        let begin = match (flag("add_bos_token")?.unwrap_or(begins_texts), special("bos")?) {
            (true, None) => return Err(gguf.wrong("texts begin with a token, but bos_token_id is missing")),
            (true, id) => id,
            (false, _) => None,
        };
        let ends = ["eos", "eot", "eom"].into_iter().filter_map(|name| special(name).transpose());
        let ends = ends.collect::<Result<Vec<_>, _>>()?;
        let unknown = special("unknown")?;
        let piece = |(token, kind): (&String, &Kind)| {
            piece(token, *kind, writing).ok_or_else(|| {
                gguf.wrong(format!("token {token:?} of kind {kind:?} is not written as such tokens are"))
            })
        };
        let pieces = tokens.iter().zip(&kinds).map(piece).collect::<Result<_, _>>()?;
        Ok(Self { tokens, kinds, ids, begin, ends, unknown, pieces })
    }

    /// What a token adds to a text; nothing where there is no such token.
    pub(super) fn piece(&self, token: u32) -> &[u8] {
        self.pieces.get(token as usize).map_or(&[], Vec::as_slice)
    }

    /// The most bytes of a text that one token stands for.
    pub(super) fn longest_piece(&self) -> usize {
        // What is written for a special token in a prompt is longer than what the token adds to a text.
        self.tokens.iter().map(String::len).max().unwrap_or_default()
    }

    /// Each token with its id and what it is.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &str, Kind)> {
        (0..).zip(&self.tokens).zip(&self.kinds).map(|((id, token), kind)| (id, token.as_str(), *kind))
    }
}

impl Kind {
    fn of(number: i64) -> Option<Self> {
        Some(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

fn piece(token: &str, kind: Kind, writing: Writing) -> Option<Vec<u8>> {
    match (kind, writing) {
        (Kind::Control | Kind::Unknown | Kind::Unused, _) => Some(Vec::new()),
        (Kind::UserDefined, _) => Some(token.into()),
        (Kind::Normal, Writing::SentencePiece) => Some(token.replace('\u{2581}', " ").into()),
        (Kind::Byte, Writing::SentencePiece) => {
            let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
            Some(vec![u8::from_str_radix(digits, 16).ok()?])
        }
        (Kind::Normal, Writing::Bytes) => token.chars().map(bytes::byte).collect(),
        (Kind::Byte, Writing::Bytes) => None,
    }
}
