//! Cursors of the list: opaque to callers, signed so that nobody can make or alter one, and bound to the filters
//! of the list they were made for.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use prediction::PredictionId;
use sha2::Sha256;
use store::Cursor;
use time::OffsetDateTime;
use uuid::Uuid;

/// Unix time in nanoseconds, id, direction.
const PLACE: usize = 16 + 16 + 1;
/// Half of HMAC-SHA-256: nobody can try 2^128 forgeries over HTTP (RFC 2104, section 5).
const TAG: usize = 16;

/// Signs cursors with a secret of this installation.
pub(crate) struct Signer {
    secret: [u8; 32],
}

impl Signer {
    /// Signs with this secret.
    pub(crate) fn new(secret: [u8; 32]) -> Self {
        Self { secret }
    }

    /// The text that stands for `cursor` in the list with these filters.
    pub(crate) fn seal(&self, cursor: Cursor, filters: &str) -> String {
        let mut bytes = [0; PLACE + TAG];
        bytes[..16].copy_from_slice(&cursor.created_at.unix_timestamp_nanos().to_be_bytes());
        bytes[16..32].copy_from_slice(cursor.id.0.as_bytes());
        bytes[32] = u8::from(cursor.newer);
        if let Some(mac) = self.mac(&bytes[..PLACE], filters) {
            bytes[PLACE..].copy_from_slice(&mac.finalize().into_bytes()[..TAG]);
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The cursor that `text` stands for, if it was sealed here for the list with these filters.
    pub(crate) fn open(&self, text: &str, filters: &str) -> Option<Cursor> {
        let bytes: [u8; PLACE + TAG] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        let (place, tag) = bytes.split_at(PLACE);
        self.mac(place, filters)?.verify_truncated_left(tag).ok()?;
        let nanoseconds = i128::from_be_bytes(place[..16].try_into().ok()?);
        Some(Cursor {
            created_at: OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).ok()?,
            id: PredictionId(Uuid::from_slice(&place[16..32]).ok()?),
            newer: place[32] == 1,
        })
    }

    fn mac(&self, place: &[u8], filters: &str) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.secret).ok()?;
        mac.update(b"augur list cursor 1\0");
        mac.update(place);
        mac.update(filters.as_bytes());
        Some(mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sealed_here_opens() {
        let signer = Signer::new([7; 32]);
        let created_at = OffsetDateTime::UNIX_EPOCH + time::Duration::nanoseconds(1_700_000_000_123_456_789);
        let cursor = Cursor { created_at, id: PredictionId::generate(), newer: true };
        let text = signer.seal(cursor, "status=failed");
        assert_eq!(signer.open(&text, "status=failed"), Some(cursor));
        assert_eq!(signer.open(&text, ""), None, "another list's");
        assert_eq!(Signer::new([8; 32]).open(&text, "status=failed"), None, "another installation's");
        for position in 0..text.len() {
            let mut altered = text.clone().into_bytes();
            altered[position] = if altered[position] == b'A' { b'B' } else { b'A' };
            let altered = String::from_utf8(altered).expect("ASCII");
            assert_eq!(signer.open(&altered, "status=failed"), None, "{altered}");
        }
        for text in ["", "x", "====", &"A".repeat(10_000), &text[1..]] {
            assert_eq!(signer.open(text, "status=failed"), None);
        }
    }
}
