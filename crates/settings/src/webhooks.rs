//! The settings of webhooks. What their texts mean, crate `webhook` knows; here a program asks for them by its types.

use std::{convert::Infallible, fmt, str::FromStr};

use clap::{ArgAction, Args, value_parser};

use crate::{Fatal, run::NOT_UNDERSTOOD};

/// Whether webhooks are sent, and where to.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Webhooks")]
pub struct WebhookSettings {
    /// The key that the store's signing secrets of webhooks are encrypted with: the base64 of 32 random bytes, as
    /// `openssl rand -base64 32` makes them; the same for all programs. Without it there are no webhooks, except that `augur`
    /// on its own SQLite file keeps a key in webhook.key in --data-dir.
    #[arg(long, env = "AUGUR_WEBHOOK_KEY", hide_env_values = true, value_name = "BASE64")]
    pub webhook_key: Option<WebhookKey>,
    /// A private network that webhooks may go to, as in 10.0.0.0/8; may be repeated, or separated by commas. The public
    /// internet is always allowed.
    #[arg(long, env = "AUGUR_WEBHOOK_ALLOW", action = ArgAction::Append, value_delimiter = ',', value_name = "NETWORK")]
    pub webhook_allow: Vec<String>,
}

impl WebhookSettings {
    /// What is logged where there are no webhooks.
    pub const OFF: &str = "webhooks are off, because no webhook key is set (AUGUR_WEBHOOK_KEY)";

    /// The key, if one is given.
    ///
    /// # Errors
    /// When it is none. The text is not shown.
    pub fn key<K: FromStr<Err: fmt::Display>>(&self) -> Result<Option<K>, Fatal> {
        let key = self.webhook_key.as_ref().map(|WebhookKey(text)| text.parse()).transpose();
        key.map_err(|error| refused(&format!("--webhook-key (AUGUR_WEBHOOK_KEY): {error}")))
    }

    /// The private networks that are allowed.
    ///
    /// # Errors
    /// When one is none.
    pub fn allowed<N: FromStr<Err: fmt::Display>>(&self) -> Result<Vec<N>, Fatal> {
        let network = |text: &String| {
            let network = text.parse();
            network.map_err(|error| refused(&format!("--webhook-allow (AUGUR_WEBHOOK_ALLOW): {text:?}: {error}")))
        };
        self.webhook_allow.iter().map(network).collect()
    }
}

fn refused(what: &str) -> Fatal {
    Fatal::new(format!("bad value for {what}")).with_status(NOT_UNDERSTOOD)
}

/// How webhooks are sent.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Webhooks")]
pub struct DeliverySettings {
    /// The most webhooks that a worker sends at once.
    #[arg(long, env = "AUGUR_DELIVERIES", default_value_t = 256, value_parser = value_parser!(u32).range(1..))]
    #[arg(value_name = "N")]
    pub deliveries: u32,
}

/// The text of the key, which must not be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookKey(String);

impl FromStr for WebhookKey {
    type Err = Infallible;

    /// Takes any text: what is wrong with it is said without showing it, by [`WebhookSettings::key`].
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for WebhookKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookKey(…)")
    }
}
