//! Tickets: what the queue carries in place of predictions, and the streams that carry them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{ModelName, PredictionId, Version};

/// Which predictions of a model go first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// When nothing else waits.
    Low,
    /// The usual one.
    #[default]
    Normal,
    /// Before all others.
    High,
}

/// The text is not a priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a priority is one of low, normal, high")]
pub struct InvalidPriority;

impl Priority {
    /// Every priority, the first served first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// The number that stands for it in the database; higher goes first.
    #[must_use]
    pub const fn code(self) -> i16 {
        match self {
            Self::Low => -1,
            Self::Normal => 0,
            Self::High => 1,
        }
    }

    /// The priority that a number in the database stands for.
    #[must_use]
    pub fn from_code(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|priority| priority.code() == code)
    }

    /// The word callers see.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }
}

impl FromStr for Priority {
    type Err = InvalidPriority;

    fn from_str(text: &str) -> Result<Self, InvalidPriority> {
        Self::ALL.into_iter().find(|priority| priority.as_str() == text).ok_or(InvalidPriority)
    }
}

/// Names one stream of tickets: one model version at one priority.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StreamKey {
    /// The model.
    pub model: ModelName,
    /// Its version: a worker that serves another one must not be handed this stream's tickets.
    pub version: Version,
    /// The priority.
    pub priority: Priority,
}

impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.model, self.version.short(), self.priority.as_str())
    }
}

/// A hint that a prediction waits: its id and where it waits, never its input. The store decides what it is
/// worth; a lost ticket costs latency and a doubled one claims nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// The prediction.
    pub id: PredictionId,
    /// The stream it waits in.
    pub stream: StreamKey,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_read_back_and_sort() {
        for priority in Priority::ALL {
            assert_eq!(Priority::from_code(priority.code()), Some(priority));
            assert_eq!(priority.as_str().parse(), Ok(priority));
        }
        assert!(Priority::High > Priority::Normal && Priority::Normal > Priority::Low);
        assert_eq!("urgent".parse::<Priority>(), Err(InvalidPriority));
    }
}
