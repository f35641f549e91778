//! The secret that a receiver and we share: `whsec_` and standard base64 of 24 to 64 bytes.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};

const PREFIX: &str = "whsec_";

/// In bytes; Standard Webhooks 1.0.0, "Signature scheme".
const LENGTHS: RangeInclusive<usize> = 24..=64;

/// A signing secret. Its `Debug` does not show it, and it has no `Display`: only [`Secret::reveal`] does.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

/// The text or bytes are not a secret. Says nothing of what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a webhook secret is whsec_ followed by the standard base64 of 24 to 64 bytes")]
pub struct InvalidSecret;

impl Secret {
    /// A new secret of 32 random bytes, as many as the hash has.
    #[must_use]
    pub fn generate() -> Self {
        Self(rand::random::<[u8; 32]>().to_vec())
    }

    /// The secret of these bytes, for example as they were stored.
    ///
    /// # Errors
    /// When there are fewer than 24 or more than 64.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidSecret> {
        if LENGTHS.contains(&bytes.len()) { Ok(Self(bytes.to_vec())) } else { Err(InvalidSecret) }
    }

    /// The bytes, which are the key of the signature; for storing them encrypted.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text that the receiver is given, `whsec_…`.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(&self.0))
    }
}

impl FromStr for Secret {
    type Err = InvalidSecret;

    fn from_str(text: &str) -> Result<Self, InvalidSecret> {
        let encoded = text.strip_prefix(PREFIX).ok_or(InvalidSecret)?;
        Self::from_bytes(&STANDARD.decode(encoded).map_err(|_| InvalidSecret)?)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_reads_back() {
        let text = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
        assert_eq!(text.parse::<Secret>().expect("a good secret").reveal(), text);
        let fresh = Secret::generate();
        assert_eq!(fresh.reveal().parse::<Secret>().expect("a good secret").as_bytes(), fresh.as_bytes());
        assert_ne!(Secret::generate().as_bytes(), fresh.as_bytes());
    }

    #[test]
    fn anything_else_is_refused() {
        let of = |bytes: usize| format!("{PREFIX}{}", STANDARD.encode(vec![7; bytes]));
        for (bytes, good) in [(23, false), (24, true), (64, true), (65, false), (0, false)] {
            assert_eq!(of(bytes).parse::<Secret>().is_ok(), good, "{bytes} bytes");
        }
        for text in [
            "",
            "whsec_",
            "C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            "WHSEC_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            "whsec_C2FVsBQIhrscChlQIMV-b5sSYspob7oD",
            "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD ",
            "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oDAA",
        ] {
            assert!(text.parse::<Secret>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn debug_does_not_show_it() {
        let secret = Secret::from_bytes(&[0x41; 32]).expect("a good secret");
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        let kept = crate::Secrets { current: secret.clone(), previous: vec![secret] };
        let shown = format!("{kept:?}");
        assert!(!shown.contains("65") && !shown.contains("QUFB") && !shown.contains("AAAA"), "{shown}");
    }
}
