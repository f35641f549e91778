//! Which version of a model somebody means: `owner/name`, `owner/name@label` or `owner/name:digits`.

use std::fmt;

use prediction::{Label, ModelName, Version};

use crate::commands::model_name;

/// A model, and which of its versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelVersion {
    /// The model.
    pub name: ModelName,
    /// Its version.
    pub which: Which,
}

/// A version of a model, as somebody names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one that the name alone means.
    Default,
    /// The one with this label, in a directory of models.
    Labelled(Label),
    /// The one whose digest begins with these 12 to 64 hex digits.
    Digits(String),
}

/// Reads a version as a directory of models has them.
///
/// # Errors
/// When the text is none.
pub(crate) fn model_version(text: &str) -> Result<ModelVersion, String> {
    let (name, which) = match (text.split_once('@'), text.split_once(':')) {
        (Some((name, label)), _) => (name, Which::Labelled(label.parse().map_err(|error| format!("{error}"))?)),
        (None, Some((name, digits))) => (name, Which::Digits(read_digits(digits)?)),
        (None, None) => (text, Which::Default),
    };
    Ok(ModelVersion { name: model_name(name)?, which })
}

/// Reads a version as servers know them.
///
/// # Errors
/// When the text is none.
pub(crate) fn served_version(text: &str) -> Result<ModelVersion, String> {
    match model_version(text)? {
        ModelVersion { which: Which::Labelled(_), .. } => {
            Err("servers know no labels, but digits, as in owner/name:0123456789ab".to_owned())
        }
        version => Ok(version),
    }
}

fn read_digits(text: &str) -> Result<String, String> {
    let is_digest =
        (Version::SHORTEST..=64).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    match is_digest {
        true => Ok(text.to_ascii_lowercase()),
        false => {
            Err(format!("behind : come {} to 64 hex digits of a version; a label comes behind @", Version::SHORTEST))
        }
    }
}

impl fmt::Display for ModelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.which {
            Which::Default => name.fmt(f),
            Which::Labelled(label) => write!(f, "{name}@{label}"),
            Which::Digits(digits) => write!(f, "{name}:{digits}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_named_alone_by_label_and_by_digits() {
        for (text, expected) in [
            ("Owner/Name", "owner/name"),
            ("name", "augur/name"),
            ("name@INT8", "augur/name@int8"),
            ("owner/name:0123456789AB", "owner/name:0123456789ab"),
        ] {
            assert_eq!(model_version(text).map(|version| version.to_string()).as_deref(), Ok(expected));
        }
        for wrong in
            ["", "a@", "a@../b", "a@default", "a:0123456789a", "a:xyzxyzxyzxyz", "a@b:0123456789ab", "a/b/c@d", "@a"]
        {
            assert!(model_version(wrong).is_err(), "{wrong}");
        }
        assert!(served_version("a@b").expect_err("a label").contains("owner/name:0123456789ab"));
        assert!(served_version("a:0123456789ab").is_ok() && served_version("a").is_ok());
    }
}
