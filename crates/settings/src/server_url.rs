//! The address of a database or Redis server, whose password must not be shown.

use std::{convert::Infallible, fmt, str::FromStr};

/// An address such as `postgres://user:password@host/name`. Shown and debugged, it is only scheme, host and path.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl(String);

impl ServerUrl {
    /// The whole address, password included: for connecting, never for showing.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServerUrl {
    type Err = Infallible;

    /// Takes any text: who connects says what is wrong with it, without showing it.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((scheme, rest)) = self.0.split_once("://") else { return f.write_str("(not a URL)") };
        // The query may carry a password as well, and an unescaped one may have an '@' in it.
        let rest = rest.split_once('?').map_or(rest, |(before, _)| before);
        let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
        write!(f, "{scheme}://{place}")
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_secret_is_not_shown() {
        let cases = [
            ("postgres://augur:s3cret@db:5432/augur?sslmode=require", "postgres://db:5432/augur"),
            ("postgres://augur:s3@cret@db/augur", "postgres://db/augur"),
            ("postgres:///augur?host=/run&password=s3cret", "postgres:///augur"),
            ("redis://:s3cret@127.0.0.1:6379/1", "redis://127.0.0.1:6379/1"),
            ("s3cret", "(not a URL)"),
        ];
        for (text, shown) in cases {
            let Ok(url) = text.parse::<ServerUrl>();
            assert_eq!((url.to_string().as_str(), format!("{url:?}").as_str()), (shown, shown));
            assert_eq!(url.reveal(), text);
        }
    }
}
