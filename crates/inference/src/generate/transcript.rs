//! The text that grows token by token: stop strings end it, and characters are never cut.

/// Bytes of what was generated; tokens need not end where characters do.
pub(super) struct Transcript {
    bytes: Vec<u8>,
    /// What the first `read` bytes say.
    text: String,
    read: usize,
    stops: Vec<String>,
    /// Where a stop string begins, once there is one.
    stopped_at: Option<usize>,
}

impl Transcript {
    /// An empty one that ends where one of these begins.
    pub(super) fn new(stops: Vec<String>) -> Self {
        Self { bytes: Vec::new(), text: String::new(), read: 0, stops, stopped_at: None }
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
        self.read_to(self.stopped_at.unwrap_or_else(|| self.bytes.len() - self.held_back()));
        self.stopped_at.is_some()
    }

    /// The text so far, without what may yet turn out to be a stop string or another character.
    pub(super) fn settled(&self) -> &str {
        &self.text
    }

    /// The text, without the stop string, and without a character at its end that is not whole. Bytes that are no characters
    /// become U+FFFD.
    pub(super) fn finish(&mut self) -> String {
        self.read_to(self.stopped_at.unwrap_or(self.bytes.len()));
        self.text.clone()
    }

    /// Reads on to here, as far as characters are whole.
    fn read_to(&mut self, end: usize) {
        let bytes = self.bytes.get(self.read..end).unwrap_or_default();
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.text.push_str(chunk.valid());
            self.read += chunk.valid().len();
            let is_cut = chunks.peek().is_none() && is_beginning(chunk.invalid());
            if !chunk.invalid().is_empty() && !is_cut {
                self.text.push(char::REPLACEMENT_CHARACTER);
                self.read += chunk.invalid().len();
            }
        }
    }

    /// How many bytes at the end may be the beginning of a stop string.
    fn held_back(&self) -> usize {
        let longest = |stop: &String| {
            let most = stop.len().saturating_sub(1).min(self.bytes.len());
            (1..=most).rev().find(|length| self.bytes.ends_with(&stop.as_bytes()[..*length])).unwrap_or_default()
        };
        self.stops.iter().map(longest).max().unwrap_or_default()
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
        let mut settled = String::new();
        let mut add = |piece: &&[u8]| {
            let is_over = transcript.add(piece);
            assert!(transcript.settled().starts_with(&settled), "what is settled changes");
            settled = transcript.settled().to_owned();
            is_over
        };
        let added = pieces.iter().position(&mut add).map_or(pieces.len(), |last| last + 1);
        let text = transcript.finish();
        assert!(text.starts_with(&settled), "{text:?} does not begin with {settled:?}");
        (added, text)
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

    #[test]
    fn what_may_become_a_stop_string_is_held_back() {
        let mut transcript = Transcript::new(vec!["ende".into(), "\n\n".into()]);
        let mut settled = |piece: &str| {
            transcript.add(piece.as_bytes());
            transcript.settled().to_owned()
        };
        assert_eq!(settled("the e"), "the ");
        assert_eq!(settled("n"), "the ");
        assert_eq!(settled("dz"), "the endz");
        assert_eq!(settled("\n"), "the endz");
        assert_eq!(settled("\u{fc}"), "the endz\n\u{fc}");
    }
}
