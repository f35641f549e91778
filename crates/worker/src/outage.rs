//! Calls on the store: waited for so long and no longer, and an outage is logged once and then now and then, however many
//! calls fail.

use std::{fmt, future::Future, time::Duration};

use store::StoreError;
use tokio::time::timeout;

use crate::sparingly::Sparingly;

/// An outage is logged once more when failures go on for this long.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Why a call on the store gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The store is away; trying again helps. A write may or may not have happened.
    Away,
    /// The store said no; the same call will be refused again.
    Refused,
}

/// What is remembered of a store that does not answer.
pub(crate) struct Outage(Sparingly);

impl Default for Outage {
    fn default() -> Self {
        Self(Sparingly::new(LOG_EVERY))
    }
}

impl Outage {
    /// Notes that a call on the store failed.
    pub(crate) fn saw(&self, error: &dyn fmt::Display) {
        self.0.say(|| tracing::warn!(%error, "the store does not answer; trying again"));
    }

    /// Waits for the store's answer, but no longer than `patience`: a connection may hang for ever.
    pub(crate) async fn ask<T>(
        &self,
        patience: Duration,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, Trouble> {
        match timeout(patience, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error @ StoreError::Unavailable(_))) => {
                self.saw(&error);
                Err(Trouble::Away)
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "the store refused a call");
                Err(Trouble::Refused)
            }
            Err(_) => {
                self.saw(&"no answer in time");
                Err(Trouble::Away)
            }
        }
    }
}
