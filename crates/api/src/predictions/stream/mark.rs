//! How far a text was read, and a check of what was: enough to go on from, and to see whether another text begins alike.

/// FNV-1a of 32 bits (<https://datatracker.ietf.org/doc/html/draft-eastlake-fnv>): against texts that differ by accident.
const OFFSET: u32 = 0x811C_9DC5;
const PRIME: u32 = 0x0100_0193;

/// A place in a text, and a check of what comes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) bytes: u64,
    check: u32,
}

impl Default for Mark {
    fn default() -> Self {
        Self { bytes: 0, check: OFFSET }
    }
}

impl Mark {
    /// Reads on.
    pub(super) fn read(&mut self, text: &str) {
        self.bytes += text.len() as u64;
        self.check = text.bytes().fold(self.check, |check, byte| (check ^ u32::from(byte)).wrapping_mul(PRIME));
    }

    /// The id of an event that ends here.
    pub(super) fn id(self, attempt: u32) -> String {
        format!("{attempt}:{}:{:08x}", self.bytes, self.check)
    }

    /// What [`id`](Self::id) wrote, whatever the attempt.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let mut parts = text.split(':');
        let (attempt, bytes, check) = (parts.next()?, parts.next()?, parts.next()?);
        let is_whole = digits(attempt) && digits(bytes) && check.len() == 8 && parts.next().is_none();
        let is_hex = check.bytes().all(|byte| byte.is_ascii_hexdigit());
        (is_whole && is_hex).then_some(())?;
        Some(Self { bytes: bytes.parse().ok()?, check: u32::from_str_radix(check, 16).ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_back_from_its_id() {
        let mut mark = Mark::default();
        mark.read("foobar");
        // The check of "foobar", as published.
        assert_eq!(mark.id(2), "2:6:bf9cf968");
        assert_eq!(Mark::parse(&mark.id(2)), Some(mark));
        assert_eq!(Mark::parse(&Mark::default().id(1)), Some(Mark::default()));
        for text in ["", "1", "1:2", "1:2:3", "1:2:bf9cf968:", "-1:2:bf9cf968", "1:+2:bf9cf968", "1:2:+f9cf968", "x"] {
            assert_eq!(Mark::parse(text), None, "{text:?}");
        }
        assert_eq!(Mark::parse("1:99999999999999999999:bf9cf968"), None);
    }
}
