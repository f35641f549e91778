//! Why a prediction failed: one table of codes, and the record that callers see.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

macro_rules! failure_codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $word:literal, retryable: $retryable:literal;)+) => {
        /// The kinds of failure; the words are part of the HTTP contract.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum FailureCode {
            $($(#[doc = $doc])+ #[serde(rename = $word)] $name,)+
        }

        impl FailureCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The word callers see.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word),+ }
            }

            /// Whether trying again may help, unless the failure itself says otherwise.
            #[must_use]
            pub const fn retryable(self) -> bool {
                match self { $(Self::$name => $retryable),+ }
            }
        }
    };
}

failure_codes! {
    /// The model could not read this input, although it fits the schema.
    InvalidInput = "invalid_input", retryable: false;
    /// The input is larger than the model accepts.
    InputTooLarge = "input_too_large", retryable: false;
    /// The model ran and failed.
    ModelError = "model_error", retryable: false;
    /// No worker can run this version any more.
    ModelUnavailable = "model_unavailable", retryable: true;
    /// One run took longer than the model's time limit.
    Timeout = "timeout", retryable: true;
    /// Not finished by its deadline.
    DeadlineExceeded = "deadline_exceeded", retryable: false;
    /// It was running alone each time its worker died.
    Poison = "poison", retryable: false;
    /// Canceled by its caller.
    Canceled = "canceled", retryable: false;
    /// A fault of the server's own.
    Internal = "internal", retryable: true;
}

impl fmt::Display for FailureCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for FailureCode {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text).ok_or(())
    }
}

/// A failure as it is stored and shown: the message is for the caller, so it names no paths, SQL or internals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Failure {
    /// What kind of failure.
    pub code: FailureCode,
    /// What happened, in a sentence for the caller.
    pub message: String,
    /// Whether trying again may help.
    pub retryable: bool,
}

impl Failure {
    /// A failure of this kind, retryable as its code says.
    #[must_use]
    pub fn new(code: FailureCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retryable: code.retryable() }
    }

    /// The same failure, with the code's word on retrying overruled.
    #[must_use]
    pub fn with_retryable(mut self, retryable: bool) -> Self {
        self.retryable = retryable;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_back_and_match_serde() {
        for code in FailureCode::ALL {
            assert_eq!(code.as_str().parse(), Ok(*code));
            assert_eq!(serde_json::to_value(code).expect("a code is a string"), code.as_str());
        }
    }
}
