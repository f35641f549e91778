//! The statuses of a prediction and the transitions between them; `docs/states.md` has the picture.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Where a prediction stands. The whole set: callers' clients refuse any other word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Accepted, waiting for a worker (also between attempts).
    Starting,
    /// A worker holds it under a lease.
    Processing,
    /// Finished with an output.
    Succeeded,
    /// Finished with a failure.
    Failed,
    /// Ended by its caller or by its deadline.
    Canceled,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 5] = [Self::Starting, Self::Processing, Self::Succeeded, Self::Failed, Self::Canceled];

    /// Whether a prediction with this status never changes again.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Canceled)
    }

    /// Whether the state machine has an edge from this status to `next`.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        match self {
            Self::Starting => matches!(next, Self::Processing | Self::Canceled),
            Self::Processing => !matches!(next, Self::Processing),
            Self::Succeeded | Self::Failed | Self::Canceled => false,
        }
    }

    /// The number that stands for this status in the database.
    #[must_use]
    pub const fn code(self) -> i16 {
        match self {
            Self::Starting => 0,
            Self::Processing => 1,
            Self::Succeeded => 2,
            Self::Failed => 3,
            Self::Canceled => 4,
        }
    }

    /// The status that a number in the database stands for.
    #[must_use]
    pub fn from_code(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.code() == code)
    }

    /// The word callers see.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Processing => "processing",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Status {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_statuses_have_no_way_out_and_all_others_do() {
        for status in Status::ALL {
            let exits = Status::ALL.into_iter().filter(|next| status.may_become(*next)).count();
            assert_eq!(exits == 0, status.is_terminal(), "{status}");
        }
    }

    #[test]
    fn codes_and_words_read_back() {
        for status in Status::ALL {
            assert_eq!(Status::from_code(status.code()), Some(status));
            assert_eq!(status.as_str().parse(), Ok(status));
        }
        assert_eq!(Status::from_code(5), None);
    }
}
