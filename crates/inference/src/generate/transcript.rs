//! The text that grows token by token: stop strings end it, and characters are never cut.

/// Bytes of what was generated; tokens need not end where characters do.
pub(super) struct Transcript {
    bytes: Vec<u8>,
    stops: Vec<String>,
    /// Where a stop string begins, once there is one.
    stopped_at: Option<usize>,
}

impl Transcript {
    /// An empty one that ends where one of these begins.
    pub(super) fn new(stops: Vec<String>) -> Self {
        Self { bytes: Vec::new(), stops, stopped_at: None }
    }

    /// Adds what a token says; whether the text is at its end.
    pub(super) fn add(&mut self, piece: &[u8]) -> bool {
        let longest = self.stops.iter().map(String::len).max().unwrap_or_default();
        // A stop string that is new ends in the piece.
        let from = (self.bytes.len() + 1).saturating_sub(longest);
        self.bytes.extend_from_slice(piece);
        let begins = |stop: &String| {
            let windows = self.bytes[from.min(self.bytes.len())..].windows(stop.len().max(1));
            windows.into_iter().position(|window| window == stop.as_bytes()).map(|at| from + at)
        };
        self.stopped_at = self.stops.iter().filter_map(begins).min();
        self.stopped_at.is_some()
    }

    /// The text, without the stop string, and without a character at its end that is not whole. Bytes that are no characters
    /// become U+FFFD.
    pub(super) fn text(&self) -> String {
        let bytes = &self.bytes[..self.stopped_at.unwrap_or(self.bytes.len())];
        let mut text = String::new();
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let is_cut = chunks.peek().is_none() && is_beginning(chunk.invalid());
            if !chunk.invalid().is_empty() && !is_cut {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        text
    }
}

/// Whether these bytes, which are no character, may become one with others after them.
fn is_beginning(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds pieces until the text is at its end; how many were added, and the text.
    fn told(stops: &[&str], pieces: &[&[u8]]) -> (usize, String) {
        let mut transcript = Transcript::new(stops.iter().map(|stop| (*stop).to_owned()).collect());
        let added = pieces.iter().position(|piece| transcript.add(piece)).map_or(pieces.len(), |last| last + 1);
        (added, transcript.text())
    }

    #[test]
    fn a_stop_string_ends_it_wherever_tokens_end() {
        assert_eq!(told(&["end"], &[b"the e", b"n", b"d of", b" it"]), (3, "the ".into()));
        assert_eq!(told(&["end"], &[b"end"]), (1, String::new()));
        assert_eq!(told(&["end"], &[b"e", b"en", b"", b"dd"]), (4, "e".into()));
        assert_eq!(told(&["end"], &[b"th", b"e e", b"n"]), (3, "the en".into()));
        assert_eq!(told(&[], &[b"a", b"b"]), (2, "ab".into()));
        // What comes first counts, not what is named first.
        assert_eq!(told(&["there", "here"], &[b"over there"]), (1, "over ".into()));
        assert_eq!(told(&["b", "abc"], &[b"a", b"bc"]), (2, String::new()));
        assert_eq!(told(&["\u{fc}"], &[b"f\xC3", b"\xBCr"]), (2, "f".into()));
    }

    #[test]
    fn characters_are_never_cut() {
        let text = "a\u{fc}\u{1F6A2}z";
        for end in 0..=text.len() {
            let whole = (0..=end).rev().find(|at| text.is_char_boundary(*at)).expect("the beginning");
            assert_eq!(told(&[], &[&text.as_bytes()[..end]]).1, text[..whole], "{end} bytes");
        }
        assert_eq!(told(&[], &[b"a\xFFb", b"\xFF"]).1, "a\u{FFFD}b\u{FFFD}");
        assert_eq!(told(&[], &[b"\xC3a"]).1, "\u{FFFD}a");
    }
}
