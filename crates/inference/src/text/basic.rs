//! BERT's basic tokenizer (clean, lower-case, cut at spaces and punctuation) with WordPiece, in one pass over what is plain ASCII. The library
//! takes as many passes as there are steps, and keeps track of where each character came from: 4 % of a service's time and more.

use std::{iter, mem};

use tokenizers::{NormalizerWrapper, PreTokenizerWrapper, Result, TruncationDirection};

use super::{
    vocabulary::{Subwords, Tokenizer},
    word_piece::WordPiece,
};

/// Where texts are cut whatever else a tokenizer does. No token of several characters has any of these.
const SPACES: [char; 4] = [' ', '\t', '\n', '\r'];

/// What a library's tokenizer does with a text, if that is what BERT's does.
pub(super) struct Basic {
    lower_case: bool,
    /// Tokens of a text, special ones not counted, at most.
    most: usize,
    /// Special tokens before those of a text, and after them.
    before: Vec<u32>,
    after: Vec<u32>,
    /// Bytes of a word that is left to the library: they are not ASCII, or may begin a token that is found before words are cut.
    is_left: [bool; 256],
}

impl Basic {
    /// What this tokenizer does, with its truncation; `None` if it is another's.
    pub(super) fn of(tokenizer: &Tokenizer) -> Option<Self> {
        let (Some(NormalizerWrapper::BertNormalizer(normalizer)), Some(PreTokenizerWrapper::BertPreTokenizer(_))) =
            (tokenizer.get_normalizer(), tokenizer.get_pre_tokenizer())
        else {
            return None;
        };
        let truncation = tokenizer.get_truncation().filter(|how| how.direction == TruncationDirection::Right)?;
        let is_plain = normalizer.clean_text && tokenizer.get_padding().is_none();
        let model = word_piece(tokenizer).filter(|model| is_plain && model.unknown().is_ok())?;
        let mut is_left = [false; 256];
        is_left[usize::from(u8::MAX / 2) + 1..].fill(true);
        for content in tokenizer.get_added_vocabulary().get_vocab().keys().map(String::as_bytes) {
            let first = content.first().filter(|_| content.iter().all(u8::is_ascii_graphic))?;
            is_left[usize::from(first.to_ascii_lowercase())] = true;
            is_left[usize::from(first.to_ascii_uppercase())] = true;
        }
        // A text of one token shows where its tokens stand among special ones.
        let special = tokenizer.encode_fast("", true).ok()?;
        let is_word = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'z') && !is_left[usize::from(byte)];
        let (word, id) = model
            .words()
            .find(|(word, id)| !word.is_empty() && word.bytes().all(is_word) && !special.get_ids().contains(id))?;
        let shown = tokenizer.encode_fast(word, true).ok()?;
        let place = shown.get_ids().iter().position(|shown| *shown == id)?;
        let (before, after) = special.get_ids().split_at_checked(place)?;
        let is_so = shown.get_ids().iter().eq(before.iter().chain(iter::once(&id)).chain(after));
        let has_types = shown.get_type_ids().iter().any(|kind| *kind != 0);
        Some(Self {
            lower_case: normalizer.lowercase,
            most: truncation.max_length.checked_sub(special.len())?,
            before: before.to_vec(),
            after: after.to_vec(),
            is_left,
        })
        .filter(|_| is_so && !has_types)
    }

    /// The ids of a text's tokens and of special ones, as that tokenizer gives them.
    ///
    /// # Errors
    /// The tokenizer's.
    pub(super) fn ids(&self, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
        let Some(model) = word_piece(tokenizer) else {
            return Ok(tokenizer.encode_fast(text, true)?.get_ids().to_vec());
        };
        let mut ids = self.before.clone();
        let most = ids.len() + self.most;
        let mut word = String::new();
        // Neighbours are left to the library at once.
        let (mut left, mut end) = (0..0, 0);
        for part in text.split(SPACES) {
            let begin = end;
            end += part.len() + 1;
            if part.is_empty() {
                continue;
            }
            if part.bytes().any(|byte| self.is_left[usize::from(byte)]) {
                left = if left.is_empty() { begin } else { left.start }..begin + part.len();
                continue;
            }
            ids.extend(of_library(tokenizer, &text[mem::take(&mut left)])?);
            if ids.len() >= most {
                break;
            }
            self.cut(part, &mut word, |word| model.cut_to_ids(word, &mut ids))?;
        }
        ids.extend(of_library(tokenizer, &text[left])?);
        ids.truncate(most);
        ids.extend(&self.after);
        Ok(ids)
    }

    /// Has `take` take the words of what has no spaces.
    fn cut(&self, part: &str, word: &mut String, mut take: impl FnMut(&str) -> Result<()>) -> Result<()> {
        word.clear();
        for character in part.chars().filter(|character| !character.is_ascii_control()) {
            if character.is_ascii_punctuation() {
                if !word.is_empty() {
                    take(word)?;
                }
                take(character.encode_utf8(&mut [0; 4]))?;
                word.clear();
            } else {
                word.push(if self.lower_case { character.to_ascii_lowercase() } else { character });
            }
        }
        if word.is_empty() { Ok(()) } else { take(word) }
    }
}

/// The ids of a part's tokens.
fn of_library(tokenizer: &Tokenizer, part: &str) -> Result<Vec<u32>> {
    if part.is_empty() { Ok(Vec::new()) } else { Ok(tokenizer.encode_fast(part, false)?.get_ids().to_vec()) }
}

fn word_piece(tokenizer: &Tokenizer) -> Option<&WordPiece> {
    match tokenizer.get_model() {
        Subwords::WordPiece(model) => Some(model),
        Subwords::Library(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use tokenizers::{TruncationParams, TruncationStrategy};

    use super::{super::vocabulary, *};

    const WORDS: &str = "[PAD] [UNK] [CLS] [SEP] [MASK] a b ab A ab1 ##a ##b ##1 ##\u{e9} 1 12 . ! [ ] ' \u{e9} e \u{732b} ba mask ## #";

    /// A tokenizer of BERT's kind with these settings and tokens that are found before words are cut, which gives texts so many tokens at most.
    fn tokenizer(normalizer: &Value, added: &[Value], most: usize) -> Tokenizer {
        let words: serde_json::Map<_, _> =
            WORDS.split(' ').zip(0_u32..).map(|(word, id)| (word.into(), id.into())).collect();
        let special = |id: &str| json!({ "SpecialToken": { "id": id, "type_id": 0 } });
        let of = |which: &str| json!({ "Sequence": { "id": which, "type_id": 0 } });
        let named = |id: &str| json!({ "id": id, "ids": [words[id]], "tokens": [id] });
        let json = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": normalizer,
            "pre_tokenizer": { "type": "BertPreTokenizer" },
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [special("[CLS]"), of("A"), special("[SEP]")],
                "pair": [special("[CLS]"), of("A"), special("[SEP]"), of("B"), special("[SEP]")],
                "special_tokens": { "[CLS]": named("[CLS]"), "[SEP]": named("[SEP]") },
            },
            "decoder": null,
            "model": "",
        });
        // What kind it is comes first, as the library writes it.
        let model = json!({
            "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 6, "vocab": words,
        });
        let model = model.to_string().replacen('{', "{\"type\":\"WordPiece\",", 1);
        let json = json.to_string().replacen("\"model\":\"\"", &format!("\"model\":{model}"), 1);
        let (mut tokenizer, _) = vocabulary::read(&json).expect("sound");
        let strategy = TruncationStrategy::LongestFirst;
        let truncation = TruncationParams { max_length: most, strategy, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(truncation)).expect("room for special tokens");
        tokenizer
    }

    fn normalizer(is_clean: bool, lower_case: bool, strip_accents: Option<bool>, handle_chinese_chars: bool) -> Value {
        json!({
            "type": "BertNormalizer", "clean_text": is_clean, "handle_chinese_chars": handle_chinese_chars,
            "strip_accents": strip_accents, "lowercase": lower_case,
        })
    }

    fn added(id: u32, content: &str, [single_word, lstrip, rstrip, normalized]: [bool; 4]) -> Value {
        json!({
            "id": id, "content": content, "single_word": single_word, "lstrip": lstrip, "rstrip": rstrip, "normalized": normalized,
            "special": !normalized,
        })
    }

    /// Plain words, and whatever could be taken for something else: what is removed, spaces of all kinds, marks that combine, letters that
    /// become others, and parts of what is added.
    const TEXT: &str = "([abAB1 .!'#]|ab1|mask|\\[MASK\\]|\\[mask\\]|[\\[\\]]|[\t\n\r\x00\x0b\x0c\x1f\x7f]|\
        [\u{85}\u{a0}\u{ad}\u{200b}\u{2003}\u{2028}\u{3000}\u{fffd}]|[\u{301}\u{323}\u{e9}\u{c9}\u{df}\u{130}\u{3a3}\u{732b}\u{2260}\u{1fef}\u{2019}]){0,24}";

    proptest! {
        #[test]
        fn ids_are_the_librarys(
            (lower_case, strip_accents, is_chinese) in (any::<bool>(), any::<Option<bool>>(), any::<bool>()),
            how in any::<[bool; 4]>(),
            content in prop::sample::select(vec!["[MASK]", "[mask", "mask", "Ab", "!", "1"]),
            is_added in any::<bool>(),
            most in 3..30_usize,
            texts in prop::collection::vec(TEXT, 1..20),
        ) {
            let added = if is_added { vec![added(40, content, how)] } else { Vec::new() };
            let tokenizer = tokenizer(&normalizer(true, lower_case, strip_accents, is_chinese), &added, most);
            let basic = Basic::of(&tokenizer).expect("BERT's");
            for text in texts {
                let theirs = tokenizer.encode_fast(&*text, true).expect("a text");
                prop_assert_eq!(basic.ids(&tokenizer, &text).expect("a text"), theirs.get_ids(), "{:?}", text);
            }
        }
    }

    #[test]
    fn what_is_not_so_is_the_librarys() {
        let plain = normalizer(true, true, None, true);
        let not_ours = [
            tokenizer(&normalizer(false, true, None, true), &[], 9),
            tokenizer(&json!({ "type": "Lowercase" }), &[], 9),
            tokenizer(&plain, &[added(40, "a b", [false; 4])], 9),
            tokenizer(&plain, &[added(40, "\u{e9}", [false; 4])], 9),
        ];
        assert!(not_ours.iter().all(|tokenizer| Basic::of(tokenizer).is_none()));
        let mut cut_before = tokenizer(&plain, &[], 9);
        assert!(Basic::of(&cut_before).is_some());
        let mut truncation = cut_before.get_truncation().expect("set").clone();
        truncation.direction = TruncationDirection::Left;
        cut_before.with_truncation(Some(truncation)).expect("room");
        assert!(Basic::of(&cut_before).is_none());
    }
}
