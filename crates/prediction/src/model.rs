//! Models: their names, versions, specifications and limits.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize, Serializer};

/// The owner of models whose directory names none.
const LOCAL_OWNER: &str = "augur";

/// `owner/name`: each part 1–64 characters of `a-z 0-9 . _ -`, starting with a letter or digit. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct ModelName {
    text: Arc<str>,
    slash: usize,
}

/// The text is not a model name or a version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidName(&'static str);

impl ModelName {
    /// The name `augur/<name>` of a local model without an owner.
    ///
    /// # Errors
    /// When `name` has characters that names do not have.
    pub fn local(name: &str) -> Result<Self, InvalidName> {
        format!("{LOCAL_OWNER}/{name}").parse()
    }

    /// The part before the slash.
    #[must_use]
    pub fn owner(&self) -> &str {
        &self.text[..self.slash]
    }

    /// The part after the slash.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.text[self.slash + 1..]
    }

    /// The whole, `owner/name`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

fn is_name_part(part: &str) -> bool {
    let mut bytes = part.bytes();
    let first_is_alphanumeric = bytes.next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    first_is_alphanumeric
        && part.len() <= 64
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
}

impl FromStr for ModelName {
    type Err = InvalidName;

    /// Upper-case letters are folded, as Hugging Face's names have them.
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let text = text.to_ascii_lowercase();
        match text.split_once('/') {
            Some((owner, name)) if is_name_part(owner) && is_name_part(name) => {
                let slash = owner.len();
                Ok(Self { text: text.into(), slash })
            }
            _ => Err(InvalidName("a model is named owner/name, of letters, digits, '.', '_' and '-'")),
        }
    }
}

impl TryFrom<String> for ModelName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl Serialize for ModelName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What sets one of several versions of a model apart where they lie beside each other, as in `owner/name@label`: 1–64
/// characters as names have them, but not `default`. It is for operators; callers name a version by its digits. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label(Arc<str>);

impl Label {
    /// No version is labelled so: it says which one a name alone means.
    pub const DEFAULT: &str = "default";

    /// The label.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Label {
    type Err = InvalidName;

    /// Upper-case letters are folded, as in names.
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        match text.to_ascii_lowercase() {
            text if text == Self::DEFAULT => Err(InvalidName("no version has the label \"default\"")),
            text if is_name_part(&text) => Ok(Self(text.into())),
            _ => Err(InvalidName("a label is 1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit")),
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The version of a model: the SHA-256 of its files' digests, 64 hex digits. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Version(Arc<str>);

impl Version {
    /// The least number of digits that name a version.
    pub const SHORTEST: usize = 12;

    /// All 64 digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 digits.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..Self::SHORTEST]
    }

    /// Whether `text` (12 to 64 hex digits) names this version.
    #[must_use]
    pub fn is_named_by(&self, text: &str) -> bool {
        text.len() >= Self::SHORTEST && self.0.starts_with(text)
    }
}

impl FromStr for Version {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let is_digest = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if is_digest { Ok(Self(text.into())) } else { Err(InvalidName("a version is 64 lower-case hex digits")) }
    }
}

impl TryFrom<String> for Version {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What bounds one prediction of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The longest one run may take, in seconds.
    pub timeout_seconds: u32,
    /// How often a retryable failure is tried again.
    pub max_retries: u32,
    /// The most predictions in one batch.
    pub max_batch: usize,
    /// The most bytes of one input's JSON.
    pub max_input_bytes: usize,
}

impl Limits {
    /// The longest one run may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(u64::from(self.timeout_seconds))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { timeout_seconds: 60, max_retries: 3, max_batch: 32, max_input_bytes: 1 << 20 }
    }
}

/// What a worker publishes about a version it serves, and all that the API knows of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// `owner/name`.
    pub name: ModelName,
    /// The digest of its files.
    pub version: Version,
    /// What it does, for example `image-classification`; the field's standard words.
    pub task: String,
    /// A sentence for people.
    pub description: String,
    /// SPDX expression, where known.
    pub license: Option<String>,
    /// Where the weights and data come from, where known.
    pub source: Option<String>,
    /// JSON Schema (2020-12) that every input fits.
    pub input_schema: serde_json::Value,
    /// JSON Schema (2020-12) that every output fits.
    pub output_schema: serde_json::Value,
    /// What bounds one prediction.
    pub limits: Limits,
}

/// What a worker says of one version that it serves.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// What it is.
    pub spec: ModelSpec,
    /// Whether the model's name alone means this version.
    pub is_default: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_and_folded() {
        let name: ModelName = "Sentence-Transformers/all-MiniLM-L6-v2".parse().expect("a good name");
        assert_eq!((name.owner(), name.name()), ("sentence-transformers", "all-minilm-l6-v2"));
        assert_eq!(ModelName::local("digits").expect("a good name").as_str(), "augur/digits");
    }

    #[test]
    fn hostile_names_are_refused() {
        let long = format!("a/{}", "b".repeat(65));
        for text in
            ["", "a", "/", "a/", "/a", "../x", "a/../b", "a/..", "a/b/c", "a/b\0", "a/b c", "a\\b/c", "ä/b", &long]
        {
            assert!(text.parse::<ModelName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn labels_are_folded_and_never_paths() {
        let label: Label = "Int8-v1.2".parse().expect("a good label");
        assert_eq!((label.as_str(), label.to_string().as_str()), ("int8-v1.2", "int8-v1.2"));
        let long = "a".repeat(65);
        for text in ["", ".", "..", "../x", "a/b", "/a", "a\\b", "a\0", "a b", "a@b", ".a", "-a", "ä", "Default", &long]
        {
            assert!(text.parse::<Label>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn twelve_digits_name_a_version() {
        let version: Version = "0123456789abcdef".repeat(4).parse().expect("a good version");
        assert!(version.is_named_by(version.short()) && version.is_named_by(version.as_str()));
        assert!(
            !version.is_named_by("0123456789a") && !version.is_named_by("") && !version.is_named_by("1123456789ab")
        );
        assert!("0123".parse::<Version>().is_err() && "G".repeat(64).parse::<Version>().is_err());
    }
}
