//! Identifiers: of predictions (UUID, version 7 when made here, so that they sort by age) and of workers.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The id of one prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PredictionId(pub Uuid);

impl PredictionId {
    /// A new id that sorts after those made earlier on this machine.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for PredictionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The text is not the hyphenated form of a UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a prediction id is a UUID in its hyphenated form")]
pub struct InvalidId;

impl FromStr for PredictionId {
    type Err = InvalidId;

    /// Reads the hyphenated form only, so that one prediction has one address.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if text.len() != 36 {
            return Err(InvalidId);
        }
        Uuid::try_parse(text).map(Self).map_err(|_| InvalidId)
    }
}

/// The id of one run of one worker process: random at each start, so that a restarted worker is never
/// taken for its predecessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(pub Uuid);

impl WorkerId {
    /// A new random id.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::new_v4())
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_and_sort_by_age() {
        let first = PredictionId::generate();
        let second = PredictionId::generate();
        assert!(first < second);
        assert_eq!(first.to_string().parse(), Ok(first));
    }

    #[test]
    fn other_forms_are_refused() {
        for text in
            ["", "x", "../etc/passwd", "0191d7a0e6f87cc1a1b2c3d4e5f60718", "{0191d7a0-e6f8-7cc1-a1b2-c3d4e5f6071}"]
        {
            assert_eq!(text.parse::<PredictionId>(), Err(InvalidId), "{text}");
        }
    }
}
