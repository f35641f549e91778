//! What became of deliveries, taken apart into the columns that both databases write.

use std::{collections::HashSet, time::Duration};

use prediction::DeliveryStatus;
use time::OffsetDateTime;

use crate::{Answer, Attempt, NextStep, Sending, Settled, Written, numbers::micros};

/// One settled delivery as columns.
pub(crate) struct Item<'a> {
    pub(crate) sending: Sending,
    /// What the delivery becomes.
    pub(crate) status: DeliveryStatus,
    /// The pause before the next attempt.
    pub(crate) wait: Option<Duration>,
    /// Whether its endpoint is disabled by this.
    pub(crate) is_gone: bool,
    attempt: Option<&'a Attempt>,
}

impl<'a> From<&'a Settled> for Item<'a> {
    fn from(settled: &'a Settled) -> Self {
        let (status, wait) = match settled.next {
            NextStep::Delivered => (DeliveryStatus::Delivered, None),
            NextStep::Retry { wait } => (DeliveryStatus::Waiting, Some(wait)),
            NextStep::Exhausted => (DeliveryStatus::Exhausted, None),
            NextStep::Gone | NextStep::Disabled => (DeliveryStatus::Disabled, None),
        };
        Self {
            sending: settled.sending,
            status,
            wait,
            is_gone: settled.next == NextStep::Gone,
            attempt: settled.attempt.as_ref(),
        }
    }
}

impl<'a> Item<'a> {
    /// When the attempt began; none when there was no attempt.
    pub(crate) fn at(&self) -> Option<OffsetDateTime> {
        self.attempt.map(|attempt| attempt.at)
    }

    pub(crate) fn latency(&self) -> Option<i64> {
        self.attempt.map(|attempt| micros(attempt.latency))
    }

    pub(crate) fn http_status(&self) -> Option<i16> {
        self.answer().map(|answer| i16::try_from(answer.status).unwrap_or(i16::MAX))
    }

    pub(crate) fn body(&self) -> Option<&'a [u8]> {
        self.answer().map(|answer| &answer.body[..answer.body.len().min(Answer::KEPT_BYTES)])
    }

    pub(crate) fn error(&self) -> Option<&'a str> {
        self.attempt?.result.as_ref().err().map(|unanswered| unanswered.error.as_str())
    }

    /// Without U+0000, which Postgres does not take in a text: it would refuse the whole batch, again and again.
    pub(crate) fn message(&self) -> Option<String> {
        let unanswered = self.attempt?.result.as_ref().err()?;
        Some(unanswered.message.replace('\0', "\u{fffd}"))
    }

    fn answer(&self) -> Option<&'a Answer> {
        self.attempt?.result.as_ref().ok()
    }
}

/// One answer per settled delivery: the first word of a holder that was written is applied, all else is stale.
pub(crate) fn written(settled: &[Settled], mut applied: HashSet<Sending>) -> Vec<Written> {
    let answer = |settled: &Settled| if applied.remove(&settled.sending) { Written::Applied } else { Written::Stale };
    settled.iter().map(answer).collect()
}
