//! Why a program ends: one sentence for the person who started it, and an exit status.

use std::{error::Error, fmt};

/// Ends a program. Any error becomes one, with status 1; it is no `Error` itself so that this conversion may exist.
#[derive(Debug)]
pub struct Fatal {
    message: String,
    status: u8,
}

impl Fatal {
    /// Refuses to run without Postgres.
    pub const NEEDS_POSTGRES: &str = "this program needs Postgres, because an embedded SQLite file serves one process \
         only: set --database-url (DATABASE_URL), or run everything in one process with `augur serve`";
    /// Refuses to run on an old schema.
    pub const SCHEMA_BEHIND: &str =
        "the database schema is older than this program; run `augur migrate` (or start with --migrate)";
    /// Refuses to run on a new schema.
    pub const SCHEMA_AHEAD: &str = "the database schema is newer than this program; start a newer version of it";

    /// Ends with status 1.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), status: 1 }
    }

    /// The same, with another exit status.
    #[must_use]
    pub fn with_status(mut self, status: u8) -> Self {
        self.status = status;
        self
    }

    /// The exit status.
    #[must_use]
    pub fn status(&self) -> u8 {
        self.status
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: Error> From<E> for Fatal {
    /// The error's text, and those of its causes that it does not repeat itself.
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            cause = error.source();
        }
        Self::new(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the outer one")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("the inner one")]
    struct Inner;

    #[derive(Debug, thiserror::Error)]
    #[error("quoting {0}")]
    struct Quoting(#[source] Inner);

    #[test]
    fn causes_are_said_once() {
        assert_eq!(Fatal::from(Outer(Inner)).to_string(), "the outer one: the inner one");
        assert_eq!(Fatal::from(Quoting(Inner)).to_string(), "quoting the inner one");
    }
}
