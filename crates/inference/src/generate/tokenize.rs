//! From texts to the ids of their tokens, as a GGUF file's own values say.

use tokenizers::{
    AddedToken, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer as Inner,
    models::bpe::{BPE, Vocab},
    normalizers::{Prepend, Replace, Sequence as Normalizers, unicode::NFC},
    pre_tokenizers::{
        byte_level::ByteLevel,
        sequence::Sequence as PreTokenizers,
        split::{Split, SplitPattern},
    },
};

use super::{
    merges,
    vocabulary::{Kind, Vocabulary, Writing},
};
use crate::{
    LoadError,
    gguf::{Gguf, Value},
};

/// What stands for a space in SentencePiece's vocabularies.
const SPACE: &str = "\u{2581}";

/// How GPT-2 cuts a text into words.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// How files say that a text is cut into words (`tokenizer.ggml.pre`).
struct Words {
    names: &'static [&'static str],
    /// Each cuts what those before it left whole.
    patterns: &'static [&'static str],
    /// Whether composed characters are one (Unicode's NFC).
    composes: bool,
    /// Whether a word that is a token is not put together from others.
    knows_whole: bool,
    /// Whether texts begin with a token where the file does not say.
    begins_texts: bool,
}

const WORDS: [Words; 5] = [
    Words {
        names: &["llama-bpe", "llama3", "llama-v3"],
        patterns: &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        composes: false,
        knows_whole: true,
        begins_texts: true,
    },
    Words {
        names: &["qwen2"],
        patterns: &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        composes: true,
        knows_whole: false,
        begins_texts: false,
    },
    Words { names: &["gpt-2"], patterns: &[GPT2], composes: false, knows_whole: false, begins_texts: false },
    Words { names: &["smollm"], patterns: &[r"\p{N}", GPT2], composes: false, knows_whole: false, begins_texts: false },
    Words {
        names: &["default"],
        patterns: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
        composes: false,
        knows_whole: false,
        begins_texts: false,
    },
];

impl Words {
    /// What cuts texts into words, written in the alphabet of bytes.
    fn cut(&self) -> tokenizers::Result<PreTokenizerWrapper> {
        let split = |pattern: &&str| {
            let split = Split::new(SplitPattern::Regex((*pattern).into()), SplitDelimiterBehavior::Isolated, false);
            split.map(PreTokenizerWrapper::from)
        };
        let mut steps = self.patterns.iter().map(split).collect::<Result<Vec<_>, _>>()?;
        steps.push(ByteLevel::new(false, false, false).into());
        Ok(PreTokenizers::new(steps).into())
    }
}

/// Cuts texts into tokens and says what tokens say.
pub(super) struct Tokenizer {
    inner: Inner,
    vocabulary: Vocabulary,
}

impl Tokenizer {
    /// Builds it.
    ///
    /// # Errors
    /// Says what is missing, contradictory or not known here.
    pub(super) fn read(gguf: &Gguf) -> Result<Self, LoadError> {
        match gguf.need("tokenizer.ggml.model", Value::text)? {
            "llama" => Self::sentence_pieces(gguf),
            "gpt2" => Self::byte_pairs(gguf),
            other => Err(gguf.wrong(format!("tokenizer.ggml.model is {other:?}; llama and gpt2 are known"))),
        }
    }

    fn sentence_pieces(gguf: &Gguf) -> Result<Self, LoadError> {
        if gguf.keys().any(|key| key == "tokenizer.ggml.precompiled_charsmap") {
            return Err(gguf.wrong("tokenizer.ggml.precompiled_charsmap is not known here"));
        }
        if gguf.find("tokenizer.ggml.remove_extra_whitespaces", Value::flag)? == Some(true) {
            return Err(gguf.wrong("tokenizer.ggml.remove_extra_whitespaces is not known here"));
        }
        let vocabulary = Vocabulary::read(gguf, Writing::SentencePiece, true)?;
        let scores = gguf.need("tokenizer.ggml.scores", Value::floats)?;
        if scores.len() != vocabulary.tokens.len() || scores.iter().any(|score| score.is_nan()) {
            return Err(gguf.wrong("tokenizer.ggml.scores has no score for each token"));
        }
        let pairs = merges::of_scores(&vocabulary, scores)
            .ok_or_else(|| gguf.wrong("tokenizer.ggml.tokens has more pairs that make a third than are read"))?;
        let unknown = vocabulary.unknown.map(|id| vocabulary.tokens[id as usize].clone());
        let mut bpe = BPE::builder().vocab_and_merges(ids(&vocabulary), pairs).byte_fallback(true).fuse_unk(true);
        if let Some(unknown) = unknown {
            bpe = bpe.unk_token(unknown);
        }
        let replaced = Replace::new(" ", SPACE).map_err(|error| unusable(gguf, &error))?.into();
        let begins_with_space = gguf.find("tokenizer.ggml.add_space_prefix", Value::flag)?.unwrap_or(true);
        let prepended = begins_with_space.then(|| Prepend::new(SPACE.into()).into());
        let normalizer = Normalizers::new(prepended.into_iter().chain([replaced]).collect());
        Self::assemble(gguf, vocabulary, bpe.build(), Some(normalizer.into()), None)
    }

    fn byte_pairs(gguf: &Gguf) -> Result<Self, LoadError> {
        let name = gguf.need("tokenizer.ggml.pre", Value::text)?;
        let words = WORDS.iter().find(|words| words.names.contains(&name)).ok_or_else(|| {
            let known = WORDS.iter().flat_map(|words| words.names).copied().collect::<Vec<_>>().join(", ");
            gguf.wrong(format!("tokenizer.ggml.pre is {name:?}; known are {known}"))
        })?;
        let vocabulary = Vocabulary::read(gguf, Writing::Bytes, words.begins_texts)?;
        let pairs = gguf.need("tokenizer.ggml.merges", Value::texts)?.iter().map(|merge| {
            let pair = merge.split_once(' ').map(|(first, second)| (first.to_owned(), second.to_owned()));
            pair.ok_or_else(|| gguf.wrong(format!("tokenizer.ggml.merges has {merge:?}, which is no pair")))
        });
        let pairs = pairs.collect::<Result<Vec<_>, _>>()?;
        let bpe = BPE::builder().vocab_and_merges(ids(&vocabulary), pairs).ignore_merges(words.knows_whole);
        let cut = words.cut().map_err(|error| unusable(gguf, &error))?;
        let normalizer = words.composes.then(|| NFC.into());
        Self::assemble(gguf, vocabulary, bpe.build(), normalizer, Some(cut))
    }

    fn assemble(
        gguf: &Gguf,
        vocabulary: Vocabulary,
        bpe: tokenizers::Result<BPE>,
        normalizer: Option<NormalizerWrapper>,
        pre_tokenizer: Option<PreTokenizerWrapper>,
    ) -> Result<Self, LoadError> {
        let mut inner = Inner::new(bpe.map_err(|error| unusable(gguf, &error))?);
        inner.with_normalizer(normalizer).map_err(|error| unusable(gguf, &error))?;
        inner.with_pre_tokenizer(pre_tokenizer);
        let added = vocabulary.iter().filter_map(|(_, token, kind)| match kind {
            Kind::Control => Some(AddedToken::from(token, true)),
            Kind::UserDefined => Some(AddedToken::from(token, false).normalized(false)),
            _ => None,
        });
        let added: Vec<_> = added.filter(|added| !added.content.is_empty()).collect();
        inner.add_tokens(added).map_err(|error| unusable(gguf, &error))?;
        Ok(Self { inner, vocabulary })
    }

    /// The tokens of a prompt, what stands before every text included. Special tokens may be written out in it.
    ///
    /// # Errors
    /// When the tokenizer cannot read it.
    pub(super) fn tokens(&self, text: &str) -> tokenizers::Result<Vec<u32>> {
        let mut tokens = self.tokens_as_written(text)?;
        tokens.splice(0..0, self.vocabulary.begin);
        Ok(tokens)
    }

    /// The tokens of a text in which all special tokens are written out.
    ///
    /// # Errors
    /// When the tokenizer cannot read it.
    pub(super) fn tokens_as_written(&self, text: &str) -> tokenizers::Result<Vec<u32>> {
        Ok(self.inner.encode_fast(text, false)?.get_ids().to_vec())
    }

    /// How many tokens there are.
    pub(super) fn size(&self) -> usize {
        self.vocabulary.tokens.len()
    }

    /// What a token adds to a text, in bytes; characters may have several tokens.
    pub(super) fn piece(&self, token: u32) -> &[u8] {
        self.vocabulary.piece(token)
    }

    /// Whether a token ends a text.
    pub(super) fn is_end(&self, token: u32) -> bool {
        self.vocabulary.ends.contains(&token)
    }

    /// The most bytes of a prompt that one token stands for.
    pub(super) fn longest_piece(&self) -> usize {
        self.vocabulary.longest_piece()
    }
}

fn ids(vocabulary: &Vocabulary) -> Vocab {
    vocabulary.ids.iter().map(|(token, id)| (token.clone(), *id)).collect()
}

fn unusable(gguf: &Gguf, error: &tokenizers::Error) -> LoadError {
    gguf.wrong(format!("the values of the tokenizer do not fit each other: {error}"))
}

#[cfg(test)]
mod tests {
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, pre_tokenizers::digits::Digits};

    use super::*;

    fn words(cut: &impl PreTokenizer, text: &str) -> Vec<String> {
        let mut given = PreTokenizedString::from(text);
        cut.pre_tokenize(&mut given).expect("cuts");
        let splits = given.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
        splits.into_iter().map(|(word, _, _)| word.to_owned()).collect()
    }

    fn named(name: &str) -> PreTokenizerWrapper {
        WORDS.iter().find(|words| words.names.contains(&name)).expect("known").cut().expect("patterns")
    }

    #[test]
    fn words_are_those_of_the_models_own_tokenizers() {
        // Those of GPT-2 and SmolLM are made of parts that tokenizers has.
        let gpt2: PreTokenizerWrapper = ByteLevel::new(false, false, true).into();
        let smollm: PreTokenizerWrapper = PreTokenizers::new(vec![Digits::new(true).into(), gpt2.clone()]).into();
        for text in [
            "",
            " ",
            "The ships, they've counted 1234567 of them.",
            "two  spaces\n\n and\tlines  \n",
            "M\u{f6}wen \u{fc}ber 日本 \u{1F6A2}\u{1F6A2}! x\u{b2} \u{661}\u{662}",
            "IT'S don't (a+b)^2 = 12.5%",
        ] {
            assert_eq!(words(&named("gpt-2"), text), words(&gpt2, text), "{text:?}");
            assert_eq!(words(&named("smollm"), text), words(&smollm, text), "{text:?}");
        }
        let text = "a+b 1234567, it's";
        let space = |word: &str| format!("\u{120}{word}");
        assert_eq!(words(&named("qwen2"), text)[..4], ["a", "+b", &space("")[..], "1"]);
        assert_eq!(words(&named("llama-bpe"), text)[2..6], [&space("")[..], "123", "456", "7"]);
        assert_eq!(
            words(&named("default"), text),
            ["a", "+", "b", &space("")[..], "123", "456", "7", ",", &space("it")[..], "'", "s"]
        );
    }
}
