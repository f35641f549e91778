//! WordPiece as the library has it, with all words of the vocabulary in one string: the library keeps each of them twice, by itself,
//! and takes several times as long to read a vocabulary.

use std::{fmt, hash::BuildHasher as _};

use hashbrown::{DefaultHashBuilder, HashTable, hash_table::Entry};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, MapAccess, Visitor},
};
use tokenizers::{Result, Token, models::wordpiece::Error};

/// Cuts a word into the longest pieces that the vocabulary has, one after the other
/// (<https://arxiv.org/abs/1609.08144>, section 4.1, as BERT does it).
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WordPiece {
    #[serde(rename = "vocab")]
    vocabulary: Vocabulary,
    /// The word for what the vocabulary lacks.
    #[serde(rename = "unk_token")]
    unknown: String,
    /// What the vocabulary has before each piece that does not begin a word.
    #[serde(rename = "continuing_subword_prefix")]
    prefix: String,
    /// In characters; a longer word is unknown.
    #[serde(rename = "max_input_chars_per_word")]
    longest: usize,
}

/// Words and their ids.
struct Vocabulary {
    words: Vec<Word>,
    /// The text of all words.
    text: String,
    hasher: DefaultHashBuilder,
    /// The indices of words, by their text.
    by_text: HashTable<u32>,
    /// The indices of words, in the order of their ids.
    by_id: Vec<u32>,
}

struct Word {
    id: u32,
    /// Where it stands in the text of all words.
    start: u32,
    end: u32,
}

impl WordPiece {
    /// The pieces of a word, with their places in it in bytes; the unknown word where the vocabulary lacks one.
    ///
    /// # Errors
    /// When the vocabulary lacks the unknown word, too.
    pub(super) fn cut(&self, word: &str) -> Result<Vec<Token>> {
        let mut pieces = Vec::new();
        if !self.each_piece(word, |piece, id, offsets| pieces.push(Token { id, value: piece.to_owned(), offsets })) {
            let id = self.unknown()?;
            pieces = vec![Token { id, value: self.unknown.clone(), offsets: (0, word.len()) }];
        }
        Ok(pieces)
    }

    /// Appends the ids of these pieces.
    ///
    /// # Errors
    /// When the vocabulary lacks the unknown word, too; what is appended then has no meaning.
    pub(super) fn cut_to_ids(&self, word: &str, ids: &mut Vec<u32>) -> Result<()> {
        let before = ids.len();
        if !self.each_piece(word, |_, id, _| ids.push(id)) {
            ids.truncate(before);
            ids.push(self.unknown()?);
        }
        Ok(())
    }

    /// The id of the unknown word.
    ///
    /// # Errors
    /// When the vocabulary lacks it.
    pub(super) fn unknown(&self) -> Result<u32> {
        self.id(&self.unknown).ok_or_else(|| Error::MissingUnkToken.into())
    }

    /// Has `take` take the pieces of a word, each as the vocabulary has it, with its id and place; whether they are all of the word.
    fn each_piece(&self, word: &str, mut take: impl FnMut(&str, u32, (usize, usize))) -> bool {
        if word.chars().count() > self.longest {
            return false;
        }
        let (mut start, mut continued) = (0, String::new());
        while start < word.len() {
            let (rest, before) = if start == 0 {
                (word, 0)
            } else {
                continued.clear();
                continued.extend([&self.prefix, &word[start..]]);
                (&*continued, self.prefix.len())
            };
            let ends = rest[before..].char_indices().map(|(at, character)| before + at + character.len_utf8());
            let Some((piece, id)) = ends.rev().find_map(|end| Some((&rest[..end], self.id(&rest[..end])?))) else {
                return false;
            };
            let end = start + piece.len() - before;
            take(piece, id, (start, end));
            start = end;
        }
        true
    }

    /// The id of a word.
    pub(super) fn id(&self, word: &str) -> Option<u32> {
        self.vocabulary.id(word)
    }

    /// The word that has an id; of several, the first.
    pub(super) fn word(&self, id: u32) -> Option<&str> {
        let Vocabulary { words, text, by_id, .. } = &self.vocabulary;
        let place = by_id.partition_point(|index| words[*index as usize].id < id);
        let word = &words[*by_id.get(place)? as usize];
        (word.id == id).then(|| word.of(text))
    }

    /// All words with their ids, in the order of these.
    pub(super) fn words(&self) -> impl ExactSizeIterator<Item = (&str, u32)> {
        let Vocabulary { words, text, by_id, .. } = &self.vocabulary;
        by_id.iter().map(|index| &words[*index as usize]).map(|word| (word.of(text), word.id))
    }
}

impl Vocabulary {
    /// Of words that come twice the last id counts.
    fn new(text: String, mut words: Vec<Word>) -> Self {
        let hasher = DefaultHashBuilder::default();
        let mut by_text = HashTable::with_capacity(words.len());
        let mut by_id: Vec<u32> = Vec::with_capacity(words.len());
        for index in 0..words.len() {
            let spelled = |index: &u32| words[*index as usize].of(&text);
            let hash = |index: &u32| hasher.hash_one(spelled(index));
            let place = index as u32;
            match by_text.entry(hash(&place), |other| spelled(other) == spelled(&place), hash) {
                Entry::Vacant(vacant) => {
                    vacant.insert(place);
                    by_id.push(place);
                }
                Entry::Occupied(occupied) => words[*occupied.get() as usize].id = words[index].id,
            }
        }
        by_id.sort_by_key(|index| words[*index as usize].id);
        Self { words, text, hasher, by_text, by_id }
    }

    fn id(&self, word: &str) -> Option<u32> {
        let words = &self.words;
        let is_it = |index: &u32| words[*index as usize].of(&self.text) == word;
        self.by_text.find(self.hasher.hash_one(word), is_it).map(|index| words[*index as usize].id)
    }
}

impl Word {
    fn of<'a>(&self, text: &'a str) -> &'a str {
        &text[self.start as usize..self.end as usize]
    }
}

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(IdsByWord)
    }
}

struct IdsByWord;

impl<'de> Visitor<'de> for IdsByWord {
    type Value = Vocabulary;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ids by word")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut ids: A) -> std::result::Result<Vocabulary, A::Error> {
        let place = |text: &String| u32::try_from(text.len()).map_err(A::Error::custom);
        let (mut text, mut words) = (String::new(), Vec::new());
        loop {
            let start = place(&text)?;
            if ids.next_key_seed(Append(&mut text))?.is_none() {
                return Ok(Vocabulary::new(text, words));
            }
            words.push(Word { id: ids.next_value()?, start, end: place(&text)? });
        }
    }
}

/// Writes a string to the end of another.
struct Append<'a>(&'a mut String);

impl<'de> DeserializeSeed<'de> for Append<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Append<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a word")
    }

    fn visit_str<E>(self, word: &str) -> std::result::Result<(), E> {
        self.0.push_str(word);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use serde_json::json;
    use tokenizers::{Model as _, models::wordpiece::WordPiece as Library};

    use super::*;

    /// A model of these words, as we read it and as the library does.
    fn read(vocabulary: &HashMap<String, u32>, prefix: &str, longest: usize) -> (WordPiece, Library) {
        let json = json!({
            "unk_token": "[UNK]", "continuing_subword_prefix": prefix, "max_input_chars_per_word": longest, "vocab": vocabulary,
        })
        .to_string();
        (serde_json::from_str(&json).expect("ours"), serde_json::from_str(&json).expect("the library's"))
    }

    proptest! {
        #[test]
        fn words_are_cut_as_the_library_cuts_them(
            words in prop::collection::hash_map("(##)?[ab\u{df}\u{732b}\"]{0,3}", 0..60_u32, 0..60),
            unknown in prop::option::of(0..60_u32),
            prefix in prop::sample::select(vec!["##", "", "\u{df}"]),
            longest in 0..10_usize,
            texts in prop::collection::vec("[abc\u{df}\u{732b}\"#]{0,12}", 1..20),
        ) {
            let mut words = words;
            words.extend(unknown.map(|id| ("[UNK]".to_owned(), id)));
            let (ours, theirs) = read(&words, prefix, longest);
            for text in &texts {
                let [ours, theirs] = [ours.cut(text), theirs.tokenize(text)].map(|cut| cut.map_err(|error| error.to_string()));
                prop_assert_eq!(ours, theirs);
            }
            prop_assert_eq!(ours.words().map(|(word, id)| (word.to_owned(), id)).collect::<HashMap<_, _>>(), words);
            for id in 0..61 {
                prop_assert_eq!(ours.word(id).is_some(), theirs.id_to_token(id).is_some());
                prop_assert!(ours.word(id).is_none_or(|word| ours.id(word) == Some(id)));
            }
        }
    }

    #[test]
    fn a_word_that_comes_twice_has_its_last_id() {
        let json = r#"{"unk_token":"u","continuing_subword_prefix":"","max_input_chars_per_word":9,"vocab":{"a":5,"u":1,"a":0}}"#;
        let model: WordPiece = serde_json::from_str(json).expect("sound");
        assert_eq!(model.words().collect::<Vec<_>>(), [("a", 0), ("u", 1)]);
        assert_eq!((model.word(5), model.word(0), model.id("a")), (None, Some("a"), Some(0)));
    }
}
