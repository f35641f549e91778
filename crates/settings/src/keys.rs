//! `augur keys`: what it can do, and which settings each takes; and the key that a caller shows.

use std::{convert::Infallible, fmt, str::FromStr, time::Duration};

use clap::{Args, Subcommand};

use crate::{DataSettings, FileSettings, PrintSettings, StoreSettings, groups::positive_duration};

/// The longest name of a key, in characters.
const LONGEST_NAME: usize = 64;

/// What `augur keys` can do.
#[derive(Clone, Debug, Subcommand)]
pub enum KeysCommand {
    /// Makes an API key and prints it, this once
    ///
    /// From the first key on, every request needs one. What is made with a key is seen with that key alone; what was made before is
    /// finished, and seen with none. Running servers take it within two seconds.
    #[command(after_help = "Examples:\n  \
        augur keys create web\n  \
        export AUGUR_API_KEY=$(augur keys create nightly --share 0.2)")]
    Create(CreateKey),
    /// Lists the API keys, revoked ones too
    ///
    /// The keys themselves are stored nowhere.
    Ls(ListKeys),
    /// Gives an API key another text, and prints it, this once
    ///
    /// For when the former became known. What was made with the key stays its own. Running servers take the new text and refuse the
    /// former within two seconds; with --overlap the former stays good that long, so that callers can be given the new one meanwhile.
    #[command(after_help = "Examples:\n  \
        augur keys rotate web\n  \
        augur keys rotate web --overlap 1h")]
    Rotate(RotateKey),
    /// Revokes an API key, for good
    ///
    /// Running servers refuse it within two seconds. What was made with it is finished. Even when the last one is revoked requests
    /// need a key. What became known is better rotated: what was made with a revoked key nobody sees.
    Revoke(NamedKey),
}

/// The settings of `augur keys create`.
#[derive(Args, Clone, Debug)]
pub struct CreateKey {
    /// What to call it: up to 64 letters, digits, and -, _, . or @, of which the first is a letter.
    #[arg(value_parser = key_name)]
    pub name: String,
    /// The most of the queue that may be filled with it, above 0 and up to 1, if not what servers are set to (--key-share).
    #[arg(long, value_parser = share, value_name = "FRACTION")]
    pub share: Option<f64>,
    /// Which database.
    #[command(flatten)]
    pub store: StoreSettings,
    /// Where the embedded store is.
    #[command(flatten)]
    pub data: DataSettings,
    /// Where the configuration file is.
    #[command(flatten)]
    pub file: FileSettings,
}

/// The settings of `augur keys ls`.
#[derive(Args, Clone, Debug)]
pub struct ListKeys {
    /// How it is printed.
    #[command(flatten)]
    pub print: PrintSettings,
    /// Which database.
    #[command(flatten)]
    pub store: StoreSettings,
    /// Where the embedded store is.
    #[command(flatten)]
    pub data: DataSettings,
    /// Where the configuration file is.
    #[command(flatten)]
    pub file: FileSettings,
}

/// The settings of `augur keys rotate`.
#[derive(Args, Clone, Debug)]
pub struct RotateKey {
    /// How long the former text stays good; those before it end then, or when they would have. Without it all of them are refused.
    /// Servers older than this command refuse them in any case.
    #[arg(long, value_parser = positive_duration, value_name = "DURATION")]
    pub overlap: Option<Duration>,
    /// Which key.
    #[command(flatten)]
    pub named: NamedKey,
}

/// Which key is meant, as `augur keys rotate` and `revoke` take it.
#[derive(Args, Clone, Debug)]
pub struct NamedKey {
    /// The key's name or id.
    #[arg(value_name = "NAME|ID")]
    pub key: String,
    /// Which database.
    #[command(flatten)]
    pub store: StoreSettings,
    /// Where the embedded store is.
    #[command(flatten)]
    pub data: DataSettings,
    /// Where the configuration file is.
    #[command(flatten)]
    pub file: FileSettings,
}

/// The API key that `augur predict` shows the server, which must not be shown to anybody else.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// The text of it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl FromStr for ApiKey {
    type Err = Infallible;

    /// Takes any text: what the server thinks of it the server says.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

/// A part of something: above 0, up to 1.
pub(crate) fn share(text: &str) -> Result<f64, &'static str> {
    let share = text.parse().ok().filter(|share| *share > 0.0 && *share <= 1.0);
    share.ok_or("expected a fraction above 0 and up to 1, as in 0.25")
}

/// A name that is no id.
fn key_name(text: &str) -> Result<String, &'static str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    let is_name = text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(is_plain);
    if is_name && text.len() <= LONGEST_NAME {
        Ok(text.to_owned())
    } else {
        Err("expected up to 64 letters, digits, and -, _, . or @, of which the first is a letter")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_parts_and_names_are_no_ids() {
        for (text, expected) in [("1", Some(1.0)), ("0.25", Some(0.25)), ("1e-6", Some(1e-6))] {
            assert_eq!(share(text).ok(), expected);
        }
        for text in ["0", "-0.5", "1.01", "50%", "NaN", "inf", ""] {
            assert!(share(text).is_err(), "{text}");
        }
        for name in ["web", "A", "team-1_x.y@example.org"] {
            assert_eq!(key_name(name).as_deref(), Ok(name));
        }
        for name in ["", "1", "1web", "-web", "a b", "é", "a\n", &"a".repeat(65)] {
            assert!(key_name(name).is_err(), "{name}");
        }
        let Ok(key) = "augur_secret".parse::<ApiKey>();
        assert_eq!((format!("{key:?}").as_str(), key.reveal()), ("ApiKey(…)", "augur_secret"));
    }
}
