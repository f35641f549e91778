//! Secrets at rest: encrypted with a key that whoever keeps them never sees, and bound to whom they belong to.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chacha20poly1305::{
    KeyInit as _, XChaCha20Poly1305,
    aead::{Aead as _, Payload},
};

use crate::Secret;

/// In bytes, of the cipher's nonce; long enough to be drawn at random for ever.
const NONCE: usize = 24;

/// Encrypts secrets and decrypts them, with XChaCha20-Poly1305. What it makes is the nonce and the ciphertext with its tag.
/// Its `Debug` does not show the key.
#[derive(Clone)]
pub struct Sealer(XChaCha20Poly1305);

/// The text is not a key. Says nothing of what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a webhook key is the standard base64 of 32 bytes")]
pub struct InvalidKey;

/// What is to be decrypted was encrypted with another key or for another endpoint, or was altered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the secret was not sealed with this key for this endpoint")]
pub struct NotOurs;

impl Sealer {
    /// Seals with this key, which should be random.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self(XChaCha20Poly1305::new(&key.into()))
    }

    /// The ciphertext of a secret of this tenant's endpoint; the empty endpoint has the tenant's default. Each call gives
    /// another one.
    ///
    /// # Panics
    /// Never: the cipher refuses only what is longer than 256 GiB.
    #[must_use]
    pub fn seal(&self, secret: &Secret, tenant: &str, endpoint: &str) -> Vec<u8> {
        let (nonce, owner) = (rand::random::<[u8; NONCE]>(), owner(tenant, endpoint));
        let payload = Payload { msg: secret.as_bytes(), aad: &owner };
        let ciphertext = self.0.encrypt(&nonce.into(), payload).expect("a secret is short");
        [&nonce[..], &ciphertext].concat()
    }

    /// The secret again.
    ///
    /// # Errors
    /// When it was not sealed with this key for this tenant's endpoint.
    pub fn open(&self, sealed: &[u8], tenant: &str, endpoint: &str) -> Result<Secret, NotOurs> {
        let (nonce, ciphertext) = sealed.split_first_chunk::<NONCE>().ok_or(NotOurs)?;
        let owner = owner(tenant, endpoint);
        let payload = Payload { msg: ciphertext, aad: &owner };
        let bytes = self.0.decrypt(&(*nonce).into(), payload).map_err(|_| NotOurs)?;
        Secret::from_bytes(&bytes).map_err(|_| NotOurs)
    }
}

/// What binds a ciphertext to its place; neither text has a zero in it.
fn owner(tenant: &str, endpoint: &str) -> Vec<u8> {
    [tenant.as_bytes(), b"\0", endpoint.as_bytes()].concat()
}

impl FromStr for Sealer {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let bytes = STANDARD.decode(text).map_err(|_| InvalidKey)?;
        Ok(Self::new(bytes.try_into().map_err(|_| InvalidKey)?))
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://example.com/hook";

    #[test]
    fn a_secret_reads_back_with_the_same_key_in_the_same_place_only() {
        let (sealer, secret) = (Sealer::new([1; 32]), Secret::generate());
        let sealed = sealer.seal(&secret, "acme", URL);
        let bytes = |opened: Result<Secret, NotOurs>| opened.map(|secret| secret.as_bytes().to_vec());
        assert_eq!(bytes(sealer.open(&sealed, "acme", URL)), Ok(secret.as_bytes().to_vec()));
        for (sealer, tenant, endpoint) in [
            (Sealer::new([2; 32]), "acme", URL),
            (sealer.clone(), "acme", ""),
            (sealer.clone(), "acme", "https://example.com/hooks"),
            (sealer.clone(), "", URL),
            (sealer.clone(), "acmehttps://example.com", "/hook"),
        ] {
            assert_eq!(bytes(sealer.open(&sealed, tenant, endpoint)), Err(NotOurs), "{tenant:?} {endpoint:?}");
        }
        assert_ne!(sealer.seal(&secret, "acme", URL), sealed);
        let plain = secret.as_bytes();
        assert!(!sealed.windows(8).any(|window| window == &plain[..8]), "it is encrypted");
    }

    #[test]
    fn whatever_is_altered_is_refused() {
        let sealer = Sealer::new([1; 32]);
        let sealed = sealer.seal(&Secret::generate(), "", "");
        for place in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[place] ^= 1;
            assert!(sealer.open(&altered, "", "").is_err(), "byte {place}");
            assert!(sealer.open(&sealed[..place], "", "").is_err(), "{place} bytes");
        }
    }

    /// The draft that defines the cipher (draft-irtf-cfrg-xchacha-03, A.3.1) has an example; ours must read such ciphertexts.
    #[test]
    fn the_cipher_is_the_published_one() {
        let key: [u8; 32] = std::array::from_fn(|n| 0x80 + n as u8);
        let nonce: [u8; 24] = std::array::from_fn(|n| 0x40 + n as u8);
        let aad = [0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7];
        let text = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.";
        let sealed = Sealer::new(key).0.encrypt(&nonce.into(), Payload { msg: text, aad: &aad }).expect("short");
        let tag = [0xc0, 0x87, 0x59, 0x24, 0xc1, 0xc7, 0x98, 0x79, 0x47, 0xde, 0xaf, 0xd8, 0x78, 0x0a, 0xcf, 0x49];
        assert_eq!(sealed[text.len()..], tag);
        assert_eq!(sealed[..4], [0xbd, 0x6d, 0x17, 0x9d]);
    }

    #[test]
    fn keys_are_read_and_not_shown() {
        let text = STANDARD.encode([0x41; 32]);
        let (read, made) = (text.parse::<Sealer>().expect("a good key"), Sealer::new([0x41; 32]));
        let secret = Secret::generate();
        assert!(read.open(&made.seal(&secret, "", ""), "", "").is_ok());
        assert_eq!(format!("{made:?}"), "Sealer(…)");
        for bad in ["", "QUFB", &STANDARD.encode([0; 31]), &STANDARD.encode([0; 33]), &text[1..], &format!(" {text}")] {
            assert_eq!(bad.parse::<Sealer>().err(), Some(InvalidKey), "{bad:?}");
        }
    }
}
