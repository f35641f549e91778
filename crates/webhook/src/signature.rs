//! Standard Webhooks 1.0.0: `v1,` and the base64 of HMAC-SHA-256 over `id.timestamp.body`.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::{MessageId, Secret};

/// The header with the event's id.
pub const HEADER_ID: &str = "webhook-id";
/// The header with the attempt's time, in Unix seconds.
pub const HEADER_TIMESTAMP: &str = "webhook-timestamp";
/// The header with the signatures, separated by spaces.
pub const HEADER_SIGNATURE: &str = "webhook-signature";

/// How far a timestamp may be from the receiver's clock, either way; the number that the official libraries use.
pub const TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// The version of the scheme: the symmetric one.
const VERSION: &str = "v1";

/// The secrets of one endpoint. While a secret rotates there are several, and each signs, so that a receiver that knows
/// any one of them accepts.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// The one that receivers are told.
    pub current: Secret,
    /// Those still in their period of grace.
    pub previous: Vec<Secret>,
}

impl From<Secret> for Secrets {
    fn from(current: Secret) -> Self {
        Self { current, previous: Vec::new() }
    }
}

impl Secrets {
    /// The value of [`HEADER_SIGNATURE`]: one signature for each secret, the current one's first. `timestamp` is in Unix
    /// seconds.
    #[must_use]
    pub fn sign(&self, id: &MessageId, timestamp: i64, body: &[u8]) -> String {
        let sign = |secret: &Secret| {
            let tag = mac(secret, id.as_str(), &timestamp.to_string(), body).finalize().into_bytes();
            format!("{VERSION},{}", STANDARD.encode(tag))
        };
        let signatures: Vec<String> = std::iter::once(&self.current).chain(&self.previous).map(sign).collect();
        signatures.join(" ")
    }
}

/// The three headers as a receiver read them.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// The value of [`HEADER_ID`].
    pub id: &'a str,
    /// The value of [`HEADER_TIMESTAMP`].
    pub timestamp: &'a str,
    /// The value of [`HEADER_SIGNATURE`].
    pub signature: &'a str,
}

/// Why a message is not to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// The timestamp is not a whole number of seconds.
    #[error("the webhook's timestamp is not a number")]
    Timestamp,
    /// It was signed more than [`TOLERANCE`] ago: perhaps somebody sends it again.
    #[error("the webhook was signed too long ago")]
    TooOld,
    /// It was signed more than [`TOLERANCE`] in the future.
    #[error("the webhook was signed in the future")]
    TooNew,
    /// No signature is this secret's over this id, time and body.
    #[error("no signature fits")]
    Signature,
}

/// Whether `body` was signed with `secret`, lately. `now` is in Unix seconds. Signatures are compared in constant time.
///
/// # Errors
/// When it was not, or not within [`TOLERANCE`] of `now`.
pub fn verify(secret: &Secret, signed: Signed<'_>, body: &[u8], now: i64) -> Result<(), Rejected> {
    let timestamp: i64 = signed.timestamp.parse().map_err(|_| Rejected::Timestamp)?;
    let tolerance = TOLERANCE.as_secs();
    if timestamp.abs_diff(now) > tolerance {
        return Err(if timestamp < now { Rejected::TooOld } else { Rejected::TooNew });
    }
    let mac = mac(secret, signed.id, signed.timestamp, body);
    let fits = |entry: &str| {
        let tag = entry.strip_prefix(VERSION).and_then(|rest| STANDARD.decode(rest.strip_prefix(',')?).ok());
        tag.is_some_and(|tag| mac.clone().verify_slice(&tag).is_ok())
    };
    if signed.signature.split(' ').any(fits) { Ok(()) } else { Err(Rejected::Signature) }
}

fn mac(secret: &Secret, id: &str, timestamp: &str, body: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        mac.update(part);
    }
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const ID: &str = "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk";
    const AT: i64 = 1_649_367_553;
    const BODY: &[u8] = br#"{"email":"test@example.com","username":"test_user"}"#;
    const SIGNATURE: &str = "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=";

    fn secret(text: &str) -> Secret {
        text.parse().expect("a good secret")
    }

    fn check(signed: Signed<'_>, body: &[u8], now: i64) -> Result<(), Rejected> {
        verify(&secret(SECRET), signed, body, now)
    }

    const GOOD: Signed<'_> = Signed { id: ID, timestamp: "1649367553", signature: SIGNATURE };

    #[test]
    fn the_contracts_known_answer() {
        let id: MessageId = ID.parse().expect("a good id");
        assert_eq!(Secrets::from(secret(SECRET)).sign(&id, AT, BODY), SIGNATURE);
        assert_eq!(check(GOOD, BODY, AT), Ok(()));
    }

    #[test]
    fn nothing_signed_can_be_altered() {
        let other = "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkx=";
        let bare = SIGNATURE.trim_start_matches("v1,");
        let (asymmetric, short) = (format!("v1a,{bare}"), &SIGNATURE[..SIGNATURE.len() - 4]);
        let cases = [
            ("id", Signed { id: "msg_27UH4WbU6Z5A5EzD8u03UvzRbpl", ..GOOD }, BODY),
            ("time", Signed { timestamp: "1649367554", ..GOOD }, BODY),
            ("time, written otherwise", Signed { timestamp: "+1649367553", ..GOOD }, BODY),
            ("body", GOOD, &BODY[1..]),
            ("boundary", Signed { id: "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk.1649367553", ..GOOD }, BODY),
            ("signature", Signed { signature: other, ..GOOD }, BODY),
            ("empty signature", Signed { signature: "", ..GOOD }, BODY),
            ("empty entry", Signed { signature: "v1,", ..GOOD }, BODY),
            ("no version", Signed { signature: bare, ..GOOD }, BODY),
            ("another scheme", Signed { signature: &asymmetric, ..GOOD }, BODY),
            ("cut short", Signed { signature: short, ..GOOD }, BODY),
        ];
        for (what, signed, body) in cases {
            assert_eq!(check(signed, body, AT), Err(Rejected::Signature), "{what}");
        }
        let another = Secret::from_bytes(&[1; 24]).expect("a good secret");
        assert_eq!(verify(&another, GOOD, BODY, AT), Err(Rejected::Signature));
    }

    #[test]
    fn old_and_future_messages_are_refused() {
        for (now, expected) in [
            (AT + 300, Ok(())),
            (AT + 301, Err(Rejected::TooOld)),
            (AT - 300, Ok(())),
            (AT - 301, Err(Rejected::TooNew)),
            (i64::MAX, Err(Rejected::TooOld)),
            (i64::MIN, Err(Rejected::TooNew)),
        ] {
            assert_eq!(check(GOOD, BODY, now), expected, "{now}");
        }
        for timestamp in ["", "now", "1649367553.5", "99999999999999999999"] {
            assert_eq!(check(Signed { timestamp, ..GOOD }, BODY, AT), Err(Rejected::Timestamp), "{timestamp:?}");
        }
    }

    #[test]
    fn while_a_secret_rotates_receivers_with_either_accept() {
        let (new, old, never) = (Secret::generate(), Secret::generate(), Secret::generate());
        let id: MessageId = ID.parse().expect("a good id");
        let during = Secrets { current: new.clone(), previous: vec![old.clone()] }.sign(&id, AT, BODY);
        let after = Secrets::from(new.clone()).sign(&id, AT, BODY);
        assert_eq!(during.split(' ').count(), 2);
        let accepts = |secret: &Secret, signature: &str| verify(secret, Signed { signature, ..GOOD }, BODY, AT).is_ok();
        assert!(accepts(&new, &during) && accepts(&old, &during) && !accepts(&never, &during));
        assert!(accepts(&new, &after) && !accepts(&old, &after));
    }
}
