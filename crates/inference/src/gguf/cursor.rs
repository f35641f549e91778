//! Reading numbers and texts one after the other out of bytes that may end anywhere.

/// Where the next number or text is read.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Begins at the first byte.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// How many bytes have been read.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next so many bytes.
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(length);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| format!("ends at byte {}, in the middle of its header", self.bytes.len()))?;
        self.at += length;
        Ok(taken)
    }

    /// The next number, little-endian, by its type's `from_le_bytes`.
    pub(super) fn number<const N: usize, T>(&mut self, read: fn([u8; N]) -> T) -> Result<T, String> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(read(bytes))
    }

    /// The next count, at most `most`; `what` is counted.
    pub(super) fn count(&mut self, most: usize, what: &str) -> Result<usize, String> {
        let count = self.number(u64::from_le_bytes)?;
        match usize::try_from(count) {
            Ok(count) if count <= most => Ok(count),
            _ => Err(format!("states {count} {what}; at most {most} are read")),
        }
    }

    /// The next text, at most so many bytes long.
    pub(super) fn text(&mut self, most: usize) -> Result<&'a str, String> {
        let length = self.count(most, "bytes of a text")?;
        let at = self.at;
        std::str::from_utf8(self.take(length)?).map_err(|_| format!("the text at byte {at} is not UTF-8"))
    }
}
