//! Capabilities: signatures in addresses that open one thing to whoever holds them, without any header.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac as _};
use prediction::PredictionId;
use sha2::Sha256;

use crate::cursor::{Signer, TAG};

impl Signer {
    /// What opens this prediction's stream, and nothing else.
    pub(crate) fn capability(&self, id: PredictionId) -> String {
        URL_SAFE_NO_PAD.encode(&self.mac_of_stream(id).finalize().into_bytes()[..TAG])
    }

    /// Whether `text` is what opens this prediction's stream; compared in constant time.
    pub(crate) fn opens(&self, id: PredictionId, text: &str) -> bool {
        let tag = URL_SAFE_NO_PAD.decode(text).ok().filter(|tag| tag.len() == TAG);
        tag.is_some_and(|tag| self.mac_of_stream(id).verify_truncated_left(&tag).is_ok())
    }

    fn mac_of_stream(&self, id: PredictionId) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        // No cursor's signature begins so.
        mac.update(b"augur stream 1\0");
        mac.update(id.0.as_bytes());
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_opens_its_own_prediction_alone() {
        let (signer, id) = (Signer::new([7; 32]), PredictionId::generate());
        let capability = signer.capability(id);
        assert!(signer.opens(id, &capability));
        assert!(!signer.opens(PredictionId::generate(), &capability));
        assert!(!Signer::new([8; 32]).opens(id, &capability));
        for text in ["", "a", &capability[1..], &format!("{capability}AA"), &format!("{capability}=")] {
            assert!(!signer.opens(id, text), "{text:?}");
        }
        for place in 0..capability.len() {
            let mut forged = capability.clone().into_bytes();
            forged[place] = if forged[place] == b'A' { b'E' } else { b'A' };
            assert!(!signer.opens(id, &String::from_utf8(forged).expect("ASCII")), "{place}");
        }
    }
}
