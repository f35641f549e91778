//! Reading `tokenizer.json` as the library does, but straight into the kind of model that it names: where the library has to find that
//! out, it makes a tree of values of the whole vocabulary first, and copies it twice.

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    str::FromStr as _,
};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use tokenizers::{
    DecoderWrapper, Model, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Result, Token,
    TokenizerBuilder, TokenizerImpl,
    models::{TrainerWrapper, bpe::BPE, unigram::Unigram, wordlevel::WordLevel, wordpiece::WordPieceTrainer},
};

use super::word_piece::WordPiece;

/// The library's tokenizer, around [`Subwords`].
pub(super) type Tokenizer =
    TokenizerImpl<Subwords, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// How words are cut into tokens.
pub(super) enum Subwords {
    WordPiece(WordPiece),
    Library(ModelWrapper),
}

#[derive(Clone, Copy, Deserialize)]
enum Kind {
    #[serde(rename = "BPE")]
    Bpe,
    Unigram,
    WordLevel,
    WordPiece,
}

/// What is read of a tokenizer to know its largest id.
#[derive(Deserialize)]
struct Sketch {
    model: ModelSketch,
}

#[derive(Deserialize)]
struct ModelSketch {
    vocab: LargestId,
}

/// The largest id of a vocabulary: of ids by token, or of tokens in the order of their ids.
struct LargestId(u32);

/// A tokenizer, and the largest id of a token that it has.
///
/// # Errors
/// The library's.
pub(super) fn read(json: &str) -> Result<(Tokenizer, u32)> {
    let (tokenizer, largest) = match serde_json::from_str::<Tokenizer>(json) {
        Ok(tokenizer) => {
            let largest = match tokenizer.get_model() {
                Subwords::WordPiece(model) => model.words().map(|(_, id)| id).max(),
                Subwords::Library(_) => serde_json::from_str(json).ok().map(|Sketch { model }| model.vocab.0),
            };
            (tokenizer, largest)
        }
        Err(_) => (read_as_it_is(json)?, None),
    };
    let largest = largest.or_else(|| tokenizer.get_vocab(false).into_values().max());
    let largest = tokenizer.get_added_tokens_decoder().into_keys().chain(largest).max().unwrap_or_default();
    Ok((tokenizer, largest))
}

/// As the library reads it, which knows more ways to write one.
fn read_as_it_is(json: &str) -> Result<Tokenizer> {
    let read = tokenizers::Tokenizer::from_str(json)?;
    TokenizerBuilder::new()
        .with_model(Subwords::Library(read.get_model().clone()))
        .with_normalizer(read.get_normalizer().cloned())
        .with_pre_tokenizer(read.get_pre_tokenizer().cloned())
        .with_post_processor(read.get_post_processor().cloned())
        .with_decoder(read.get_decoder().cloned())
        .with_added_vocabulary(read.get_added_vocabulary().clone())
        .build()
}

impl Model for Subwords {
    type Trainer = TrainerWrapper;

    fn tokenize(&self, word: &str) -> Result<Vec<Token>> {
        match self {
            Self::WordPiece(model) => model.cut(word),
            Self::Library(model) => model.tokenize(word),
        }
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        match self {
            Self::WordPiece(model) => model.id(token),
            Self::Library(model) => model.token_to_id(token),
        }
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        match self {
            Self::WordPiece(model) => model.word(id).map(str::to_owned),
            Self::Library(model) => model.id_to_token(id),
        }
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        match self {
            Self::WordPiece(model) => model.words().map(|(word, id)| (word.to_owned(), id)).collect(),
            Self::Library(model) => model.get_vocab(),
        }
    }

    fn get_vocab_size(&self) -> usize {
        match self {
            Self::WordPiece(model) => model.words().len(),
            Self::Library(model) => model.get_vocab_size(),
        }
    }

    fn save(&self, dir: &Path, name: Option<&str>) -> Result<Vec<PathBuf>> {
        match self {
            Self::WordPiece(_) => Err("a vocabulary that is only read".into()),
            Self::Library(model) => model.save(dir, name),
        }
    }

    fn get_trainer(&self) -> TrainerWrapper {
        match self {
            Self::WordPiece(_) => WordPieceTrainer::default().into(),
            Self::Library(model) => model.get_trainer(),
        }
    }
}

impl<'de> Deserialize<'de> for Subwords {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(SubwordsVisitor)
    }
}

/// Reads what begins with its kind, as the library writes it. A kind's own reader takes no more than it knows, where the library's
/// first reading of it skips what it does not.
struct SubwordsVisitor;

impl<'de> Visitor<'de> for SubwordsVisitor {
    type Value = Subwords;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a kind of vocabulary")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> std::result::Result<Subwords, A::Error> {
        let Some((Field::Kind, kind)) = fields.next_entry()? else {
            return Err(A::Error::missing_field("type"));
        };
        let rest = MapAccessDeserializer::new(fields);
        Ok(match kind {
            Kind::Bpe => Subwords::Library(BPE::deserialize(rest)?.into()),
            Kind::Unigram => Subwords::Library(Unigram::deserialize(rest)?.into()),
            Kind::WordLevel => Subwords::Library(WordLevel::deserialize(rest)?.into()),
            Kind::WordPiece => Subwords::WordPiece(WordPiece::deserialize(rest)?),
        })
    }
}

#[derive(Deserialize)]
enum Field {
    #[serde(rename = "type")]
    Kind,
}

impl<'de> Deserialize<'de> for LargestId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(LargestIdVisitor)
    }
}

struct LargestIdVisitor;

impl<'de> Visitor<'de> for LargestIdVisitor {
    type Value = LargestId;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a vocabulary")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut ids: A) -> std::result::Result<LargestId, A::Error> {
        let mut largest = 0;
        while let Some((_, id)) = ids.next_entry::<IgnoredAny, u32>()? {
            largest = largest.max(id);
        }
        Ok(LargestId(largest))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut tokens: A) -> std::result::Result<LargestId, A::Error> {
        let mut count = 0_u32;
        while tokens.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(LargestId(count.saturating_sub(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORD_PIECE: &str = r###"{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##",
        "max_input_chars_per_word":100,"vocab":{"[UNK]":0,"a":7,"##b":2}}"###;

    const BPE: &str = r#"{"type":"BPE","dropout":null,"unk_token":"<unk>","continuing_subword_prefix":null,"end_of_word_suffix":null,
        "fuse_unk":false,"byte_fallback":false,"ignore_merges":false,"vocab":{"<unk>":0,"a":1,"b":2,"ab":5},"merges":[["a","b"]]}"#;

    const MODELS: [&str; 4] = [
        WORD_PIECE,
        BPE,
        r#"{"type":"Unigram","unk_id":0,"byte_fallback":false,"vocab":[["<unk>",0.0],["a",-1.0],["b",-2.0]]}"#,
        r#"{"type":"WordLevel","unk_token":"<unk>","vocab":{"<unk>":0,"a":9}}"#,
    ];

    /// A file with this model, and tokens besides, one of which no vocabulary has.
    fn file(model: &str) -> String {
        let added = |id: u32, content: &str| {
            format!(
                r#"{{"id":{id},"content":"{content}","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}}"#
            )
        };
        format!(
            r###"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{},{}],"normalizer":{{"type":"Lowercase"}},
                "pre_tokenizer":{{"type":"Whitespace"}},"post_processor":null,"decoder":{{"type":"WordPiece","prefix":"##","cleanup":true}},
                "model":{model}}}"###,
            added(0, "a"),
            added(3, "[MASK]"),
        )
    }

    fn same(ours: &(Tokenizer, u32), theirs: &tokenizers::Tokenizer) {
        let (ours, largest) = ours;
        let vocabulary = theirs.get_vocab(true);
        assert_eq!(Some(largest), vocabulary.values().max());
        assert_eq!(ours.get_vocab_size(true), theirs.get_vocab_size(true));
        for id in 0..=largest + 1 {
            assert_eq!(ours.id_to_token(id), theirs.id_to_token(id));
        }
        assert_eq!(ours.get_vocab(true), vocabulary);
        for text in ["", "a", "ab", "A b[MASK]ab c", "ba \u{df}"] {
            let [ours, theirs] = [ours.encode(text, true), theirs.encode(text, true)].map(|read| read.expect("a text"));
            assert_eq!(ours, theirs, "{text}");
        }
        let decoded = [ours.decode(&[0, *largest], false), theirs.decode(&[0, *largest], false)];
        let [ours, theirs] = decoded.map(|text| text.expect("tokens"));
        assert_eq!(ours, theirs);
    }

    #[test]
    fn every_kind_is_read_as_the_library_reads_it() {
        for model in MODELS {
            let json = file(model);
            assert!(serde_json::from_str::<Tokenizer>(&json).is_ok(), "not by the long way: {model}");
            same(&read(&json).expect("sound"), &tokenizers::Tokenizer::from_str(&json).expect("sound"));
        }
    }

    #[test]
    fn what_is_not_quite_as_it_is_written_now_is_read_the_long_way() {
        let without_kind = WORD_PIECE.replace(r#""type":"WordPiece","#, "");
        let kind_last = without_kind.replace("}}", r#"},"type":"WordPiece"}"#);
        let with_more = BPE.replace(r#""merges""#, r#""cache_capacity":1000,"merges""#);
        for model in [without_kind, kind_last, with_more] {
            let json = file(&model);
            assert!(serde_json::from_str::<Tokenizer>(&json).is_err(), "by the short way: {model}");
            same(&read(&json).expect("sound"), &tokenizers::Tokenizer::from_str(&json).expect("sound"));
        }
    }

    #[test]
    fn what_is_wrong_is_the_librarys_word() {
        let negative = WORD_PIECE.replace('7', "-1");
        let without_vocabulary = BPE.replace("vocab", "words");
        let twice = WORD_PIECE.replace(r#""vocab""#, r#""type":"WordPiece","vocab""#);
        for json in ["", "{}", "[1]", &file("null"), &file(&negative), &file(&without_vocabulary), &file(&twice)] {
            let ours = read(json).err().expect("no tokenizer").to_string();
            assert_eq!(ours, tokenizers::Tokenizer::from_str(json).expect_err("no tokenizer").to_string(), "{json}");
        }
    }
}
