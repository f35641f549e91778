//! The alphabet in which GPT-2's vocabulary writes bytes: those that are printed stand for themselves, the others for characters from U+0100 on.

/// Whether a byte stands for itself.
fn is_printed(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// The byte that a character stands for, if it is one of the alphabet.
pub(super) fn byte(character: char) -> Option<u8> {
    let code = u32::from(character);
    match u8::try_from(code) {
        Ok(byte) => is_printed(byte).then_some(byte),
        Err(_) => (0..=u8::MAX).filter(|byte| !is_printed(*byte)).nth(code as usize - 0x100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        assert_eq!((byte('A'), byte('\u{120}'), byte('\u{10A}')), (Some(b'A'), Some(b' '), Some(b'\n')));
        assert_eq!((byte(' '), byte('\u{144}'), byte('\u{2581}')), (None, None, None));
        let mut bytes: Vec<u8> = (0..0x200).filter_map(char::from_u32).filter_map(byte).collect();
        bytes.sort_unstable();
        assert!(bytes.into_iter().eq(0..=u8::MAX));
    }
}
