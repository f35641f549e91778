//! Reading `tokenizer.json` as the library does, but straight into the kind of model that it names: where the library has to find that
//! out, it makes a tree of values of the whole vocabulary first, and copies it twice.

use std::{fmt, str::FromStr as _};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use tokenizers::{
    DecoderWrapper, Model, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Result,
    Tokenizer, TokenizerImpl,
    models::{bpe::BPE, unigram::Unigram, wordlevel::WordLevel, wordpiece::WordPiece},
};

/// What is to be known before the rest is read.
#[derive(Deserialize)]
struct Sketch {
    model: ModelSketch,
}

#[derive(Deserialize)]
struct ModelSketch {
    #[serde(rename = "type")]
    kind: Kind,
    vocab: LargestId,
}

#[derive(Clone, Copy, Deserialize)]
enum Kind {
    #[serde(rename = "BPE")]
    Bpe,
    Unigram,
    WordLevel,
    WordPiece,
}

/// The largest id of a vocabulary: of ids by token, or of tokens in the order of their ids.
struct LargestId(u32);

/// A tokenizer, and the largest id of a token that it has.
///
/// # Errors
/// The library's.
pub(super) fn read(json: &str) -> Result<(Tokenizer, u32)> {
    let sketch: Option<Sketch> = serde_json::from_str(json).ok();
    let read = sketch.and_then(|Sketch { model: ModelSketch { kind, vocab: LargestId(largest) } }| {
        let tokenizer = kind.read(json)?;
        let added = tokenizer.get_added_tokens_decoder().into_keys();
        let largest = added.fold(largest, u32::max);
        Some((tokenizer, largest))
    });
    read.map_or_else(|| read_as_it_is(json), Ok)
}

impl Kind {
    /// `None` where the file is not as the library writes it.
    fn read(self, json: &str) -> Option<Tokenizer> {
        match self {
            Self::Bpe => read_as::<BPE>(json),
            Self::Unigram => read_as::<Unigram>(json),
            Self::WordLevel => read_as::<WordLevel>(json),
            Self::WordPiece => read_as::<WordPiece>(json),
        }
    }
}

/// A kind's own reader takes no more than it knows, where the library's first reading of it skips what it does not.
fn read_as<M: DeserializeOwned + Model + Into<ModelWrapper>>(json: &str) -> Option<Tokenizer> {
    type Around<M> = TokenizerImpl<M, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;
    serde_json::from_str::<Around<M>>(json).ok().map(Tokenizer::from)
}

fn read_as_it_is(json: &str) -> Result<(Tokenizer, u32)> {
    let tokenizer = Tokenizer::from_str(json)?;
    let largest = tokenizer.get_vocab(true).into_values().max().unwrap_or_default();
    Ok((tokenizer, largest))
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
    use serde_json::{Value, json};

    use super::*;

    /// A file with this model, and a token besides.
    fn file(model: &Value) -> String {
        let added = json!([{
            "id": 0, "content": "[MASK]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true,
        }]);
        json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
            "pre_tokenizer": null, "post_processor": null, "decoder": null, "model": model,
        })
        .to_string()
    }

    fn models() -> [Value; 4] {
        [
            json!({
                "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
                "vocab": {"[UNK]": 0, "a": 7, "##b": 2},
            }),
            json!({
                "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": {"<unk>": 0, "a": 1, "b": 2, "ab": 5}, "merges": [["a", "b"]],
            }),
            json!({"type": "Unigram", "unk_id": 0, "byte_fallback": false, "vocab": [["<unk>", 0.0], ["a", -1.0], ["b", -2.0]]}),
            json!({"type": "WordLevel", "unk_token": "<unk>", "vocab": {"<unk>": 0, "a": 9}}),
        ]
    }

    #[test]
    fn every_kind_is_read_as_the_library_reads_it() {
        for model in models() {
            let json = file(&model);
            let sketch: Sketch = serde_json::from_str(&json).expect("its kind is known");
            assert!(sketch.model.kind.read(&json).is_some(), "not by the long way: {model}");
            let (ours, largest) = read(&json).expect("sound");
            let (theirs, largest_of_theirs) = read_as_it_is(&json).expect("sound");
            assert_eq!(ours.to_string(false).expect("JSON"), theirs.to_string(false).expect("JSON"));
            assert_eq!(largest, largest_of_theirs, "{model}");
        }
    }

    #[test]
    fn what_is_not_quite_as_it_is_written_now_is_read_the_long_way() {
        let [mut without_kind, mut with_more, ..] = models();
        without_kind.as_object_mut().expect("an object").remove("type");
        with_more["cache_capacity"] = json!(1000);
        for model in [without_kind, with_more] {
            let (tokenizer, largest) = read(&file(&model)).expect("the library reads it");
            assert_eq!(largest, tokenizer.get_vocab(true).into_values().max().expect("tokens"));
        }
    }

    #[test]
    fn what_is_wrong_is_the_librarys_word() {
        let [mut model, mut without_vocabulary, ..] = models();
        model["vocab"]["a"] = json!(-1);
        without_vocabulary.as_object_mut().expect("an object").remove("vocab");
        for json in ["", "{}", "[1]", &file(&json!(null)), &file(&model), &file(&without_vocabulary)] {
            let [ours, theirs] = [read(json).map(|(tokenizer, _)| tokenizer), Tokenizer::from_str(json)];
            let [ours, theirs] = [ours, theirs].map(|read| read.expect_err("no tokenizer").to_string());
            assert_eq!(ours, theirs, "{json}");
        }
    }
}
