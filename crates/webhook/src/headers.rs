//! Headers that go with a webhook besides our own, and those that nobody may set.

use hyper::header::{HeaderName, HeaderValue};

/// In bytes, of the value.
const LONGEST_VALUE: usize = 1024;

/// Names that decide where a request goes, how long it is, what it is signed with or how the connection is used.
const OURS: &[&str] = &[
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "upgrade",
    "http2-settings",
    "te",
    "trailer",
    "expect",
    "accept-encoding",
    "user-agent",
];
const OUR_PREFIXES: &[&str] = &["webhook-", "proxy-"];

/// A header that may go with a webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtraHeader {
    pub(crate) name: HeaderName,
    pub(crate) value: HeaderValue,
}

/// Why a header may not go with a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedHeader {
    /// Not a header's name by HTTP's grammar.
    #[error("this is not the name of a header")]
    Name,
    /// It would overrule the request's own.
    #[error("this header is the server's own and cannot be set")]
    Reserved,
    /// A line break or another character that is not visible ASCII, or more than 1,024 bytes.
    #[error("a header's value is at most {LONGEST_VALUE} visible ASCII characters and spaces")]
    Value,
}

impl ExtraHeader {
    /// The header of this name and value.
    ///
    /// # Errors
    /// When either is malformed, or the name is reserved.
    pub fn new(name: &str, value: &str) -> Result<Self, RefusedHeader> {
        let name: HeaderName = name.parse().map_err(|_| RefusedHeader::Name)?;
        if OURS.contains(&name.as_str()) || OUR_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix)) {
            return Err(RefusedHeader::Reserved);
        }
        let visible = value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if !visible || value.len() > LONGEST_VALUE {
            return Err(RefusedHeader::Value);
        }
        let value = HeaderValue::from_str(value).map_err(|_| RefusedHeader::Value)?;
        Ok(Self { name, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_headers_pass() {
        let long = "a".repeat(LONGEST_VALUE + 1);
        for (name, value, expected) in [
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None),
            ("X-Team", "vision and speech", None),
            ("Authorization", "Bearer abc", None),
            ("Host", "internal", Some(RefusedHeader::Reserved)),
            ("content-LENGTH", "0", Some(RefusedHeader::Reserved)),
            ("Transfer-Encoding", "chunked", Some(RefusedHeader::Reserved)),
            ("webhook-signature", "v1,forged", Some(RefusedHeader::Reserved)),
            ("Webhook-Id", "other", Some(RefusedHeader::Reserved)),
            ("Proxy-Authorization", "Basic eA==", Some(RefusedHeader::Reserved)),
            ("Connection", "x-team", Some(RefusedHeader::Reserved)),
            ("", "x", Some(RefusedHeader::Name)),
            (":authority", "x", Some(RefusedHeader::Name)),
            ("x y", "x", Some(RefusedHeader::Name)),
            ("x\r\nhost", "x", Some(RefusedHeader::Name)),
            ("x", "a\r\nHost: internal", Some(RefusedHeader::Value)),
            ("x", "a\nb", Some(RefusedHeader::Value)),
            ("x", "a\0b", Some(RefusedHeader::Value)),
            ("x", "ä", Some(RefusedHeader::Value)),
            ("x", &long, Some(RefusedHeader::Value)),
        ] {
            assert_eq!(ExtraHeader::new(name, value).err(), expected, "{name:?}: {value:?}");
        }
    }
}
