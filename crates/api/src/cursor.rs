//! Cursors of lists: opaque to callers, signed so that nobody can make or alter one, and bound to the tenant, the list and the
//! filters they were made for.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use prediction::{DeliveryId, Event, PredictionId};
use sha2::Sha256;
use store::{Cursor, Place};
use time::OffsetDateTime;
use uuid::Uuid;

/// Half of HMAC-SHA-256: nobody can try 2^128 forgeries over HTTP (RFC 2104, section 5).
pub(crate) const TAG: usize = 16;

/// A position in a list, which a cursor carries.
pub(crate) trait Position: Sized {
    /// As bytes, as many for each position of a list.
    fn to_bytes(&self) -> Vec<u8>;

    /// The position that these bytes stand for.
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

/// Signs cursors with a secret of this installation.
pub(crate) struct Signer {
    /// With the secret, and nothing of a message yet.
    pub(crate) mac: Hmac<Sha256>,
}

impl Signer {
    /// Signs with this secret.
    pub(crate) fn new(secret: [u8; 32]) -> Self {
        Self { mac: Hmac::new_from_slice(&secret).expect("a key may have any length") }
    }

    /// The text that stands for `position` in this tenant's list at the path `list` with these filters.
    pub(crate) fn seal(&self, position: &impl Position, tenant: &str, list: &str, filters: &str) -> String {
        let mut bytes = position.to_bytes();
        let tag = self.mac_of(&bytes, tenant, list, filters).finalize().into_bytes();
        bytes.extend_from_slice(&tag[..TAG]);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The position that `text` stands for, if it was sealed here for this tenant's list with these filters.
    pub(crate) fn open<P: Position>(&self, text: &str, tenant: &str, list: &str, filters: &str) -> Option<P> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (position, tag) = bytes.split_at_checked(bytes.len().checked_sub(TAG)?)?;
        self.mac_of(position, tenant, list, filters).verify_truncated_left(tag).ok()?;
        P::from_bytes(position)
    }

    fn mac_of(&self, position: &[u8], tenant: &str, list: &str, filters: &str) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        // Each part has its length before it or a fixed end: no two of these give the same bytes.
        mac.update(b"augur list cursor 3\0");
        for part in [position, tenant.as_bytes(), list.as_bytes()] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac.update(filters.as_bytes());
        mac
    }
}

/// Unix time in nanoseconds, direction, and the id.
fn beside(created_at: OffsetDateTime, newer: bool, id: &[u8]) -> Vec<u8> {
    let mut bytes = created_at.unix_timestamp_nanos().to_be_bytes().to_vec();
    bytes.push(u8::from(newer));
    bytes.extend_from_slice(id);
    bytes
}

/// What [`beside`] wrote.
fn read_beside(bytes: &[u8]) -> Option<(OffsetDateTime, bool, &[u8])> {
    let (nanoseconds, rest) = bytes.split_first_chunk()?;
    let (newer, id) = rest.split_first()?;
    let created_at = OffsetDateTime::from_unix_timestamp_nanos(i128::from_be_bytes(*nanoseconds)).ok()?;
    Some((created_at, *newer == 1, id))
}

impl Position for Cursor {
    fn to_bytes(&self) -> Vec<u8> {
        beside(self.created_at, self.newer, self.id.0.as_bytes())
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (created_at, newer, id) = read_beside(bytes)?;
        Some(Self { created_at, id: PredictionId(Uuid::from_slice(id).ok()?), newer })
    }
}

impl Position for Place<Uuid> {
    fn to_bytes(&self) -> Vec<u8> {
        beside(self.created_at, self.newer, self.id.as_bytes())
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (created_at, newer, id) = read_beside(bytes)?;
        Some(Self { created_at, id: Uuid::from_slice(id).ok()?, newer })
    }
}

impl Position for Place<DeliveryId> {
    fn to_bytes(&self) -> Vec<u8> {
        let mut id = self.id.prediction.0.as_bytes().to_vec();
        id.extend_from_slice(&self.id.event.code().to_be_bytes());
        beside(self.created_at, self.newer, &id)
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (created_at, newer, id) = read_beside(bytes)?;
        let (prediction, event) = id.split_at_checked(16)?;
        let id = DeliveryId {
            prediction: PredictionId(Uuid::from_slice(prediction).ok()?),
            event: Event::from_code(i16::from_be_bytes(event.try_into().ok()?))?,
        };
        Some(Self { created_at, id, newer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "/v1/predictions";

    fn moment() -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + time::Duration::nanoseconds(1_700_000_000_123_456_789)
    }

    #[test]
    fn only_what_was_sealed_here_opens() {
        let signer = Signer::new([7; 32]);
        let cursor = Cursor { created_at: moment(), id: PredictionId::generate(), newer: true };
        let text = signer.seal(&cursor, "1", LIST, "status=failed");
        let open = |signer: &Signer, text: &str, list, filters| signer.open::<Cursor>(text, "1", list, filters);
        assert_eq!(open(&signer, &text, LIST, "status=failed"), Some(cursor));
        assert_eq!(open(&signer, &text, LIST, ""), None, "other filters");
        for tenant in ["", "2", "11"] {
            assert_eq!(signer.open::<Cursor>(&text, tenant, LIST, "status=failed"), None, "another tenant's");
        }
        assert_eq!(open(&signer, &text, "/v1/others", "status=failed"), None, "another list's");
        assert_eq!(open(&signer, &text, "/v1/predictionss", "tatus=failed"), None, "another list's");
        assert_eq!(open(&Signer::new([8; 32]), &text, LIST, "status=failed"), None, "another installation's");
        for position in 0..text.len() {
            let mut altered = text.clone().into_bytes();
            altered[position] = if altered[position] == b'A' { b'B' } else { b'A' };
            let altered = String::from_utf8(altered).expect("ASCII");
            assert_eq!(open(&signer, &altered, LIST, "status=failed"), None, "{altered}");
        }
        for text in ["", "x", "====", &"A".repeat(10_000), &text[1..]] {
            assert_eq!(open(&signer, text, LIST, "status=failed"), None);
        }
    }

    #[test]
    fn every_kind_of_position_reads_back_and_no_other_length() {
        let signer = Signer::new([7; 32]);
        for newer in [false, true] {
            let id = Uuid::now_v7();
            let endpoint = Place { created_at: moment(), id, newer };
            let text = signer.seal(&endpoint, "", LIST, "");
            assert_eq!(signer.open(&text, "", LIST, ""), Some(endpoint));
            assert_eq!(signer.open::<Place<DeliveryId>>(&text, "", LIST, ""), None);
            let id = DeliveryId { prediction: PredictionId(id), event: Event::Logs };
            let delivery = Place { created_at: moment(), id, newer };
            let text = signer.seal(&delivery, "", LIST, "");
            assert_eq!(signer.open(&text, "", LIST, ""), Some(delivery));
            assert_eq!(signer.open::<Place<Uuid>>(&text, "", LIST, ""), None);
        }
    }
}
