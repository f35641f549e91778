//! Query strings: read strictly, so that a misspelt filter is not taken for no filter, and written again for `next`.

use axum::{extract::Query, http::Uri};

use crate::{
    json::shown,
    problem::{Kind, Problem},
};

/// The parameters of a query, each of which must be taken.
pub(crate) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Reads the query of an address; no name may come twice.
    pub(crate) fn read(uri: &Uri) -> Result<Self, Problem> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|_| Problem::new(Kind::MalformedRequest, "The query cannot be read."))?;
        for (index, (name, value)) in pairs.iter().enumerate() {
            if pairs[..index].iter().any(|(known, _)| known == name) {
                return Err(refused(name, "is given twice"));
            }
            if name.contains('\0') || value.contains('\0') {
                return Err(refused(name, "holds a NUL character"));
            }
        }
        Ok(Self(pairs))
    }

    /// Takes the parameter of this name and reads it with `read`; `expected` says what it should be.
    pub(crate) fn take<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        let Some(index) = self.0.iter().position(|(known, _)| known == name) else { return Ok(None) };
        let (_, value) = self.0.swap_remove(index);
        read(&value).map(Some).ok_or_else(|| refused(name, &format!("must be {expected}")))
    }

    /// Takes all whose name begins with `prefix`, by the rest of their name, sorted.
    pub(crate) fn take_all(&mut self, prefix: &str) -> Vec<(String, String)> {
        let mut taken = Vec::new();
        self.0.retain_mut(|(name, value)| match name.strip_prefix(prefix) {
            Some(rest) => {
                taken.push((rest.to_owned(), std::mem::take(value)));
                false
            }
            None => true,
        });
        taken.sort();
        taken
    }

    /// Refuses what nobody took.
    pub(crate) fn finish(self) -> Result<(), Problem> {
        match self.0.first() {
            Some((name, _)) => Err(refused(name, "is not a parameter of this call")),
            None => Ok(()),
        }
    }
}

fn refused(name: &str, why: &str) -> Problem {
    Problem::new(Kind::MalformedRequest, format!("The query parameter {:?} {why}.", shown(name)))
}

/// Writes a query, percent-encoded (RFC 3986: everything but the unreserved characters).
pub(crate) fn write<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut query = String::new();
    for (name, value) in pairs {
        if !query.is_empty() {
            query.push('&');
        }
        encode(name, &mut query);
        query.push('=');
        encode(value, &mut query);
    }
    query
}

fn encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            for digit in [byte >> 4, byte & 15] {
                out.push(char::from(b"0123456789ABCDEF"[usize::from(digit)]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let pairs = [("metadata.a b", "é&=+%/?#\u{1F600}"), ("limit", "5")];
        let uri: Uri = format!("/x?{}", write(pairs)).parse().expect("an address");
        let mut parameters = Parameters::read(&uri).expect("a query");
        assert_eq!(parameters.take("limit", "a number", |text| text.parse().ok()).expect("taken"), Some(5));
        assert_eq!(parameters.take_all("metadata."), [("a b".to_owned(), "é&=+%/?#\u{1F600}".to_owned())]);
        assert!(parameters.finish().is_ok());
    }

    #[test]
    fn doubled_unknown_and_unreadable_parameters_are_refused() {
        let read = |query: &str| Parameters::read(&format!("/x?{query}").parse().expect("an address"));
        assert!(read("a=1&a=2").is_err() && read("a=%00").is_err());
        assert!(read("b=1").is_ok_and(|parameters| parameters.finish().is_err()));
        assert!(read("a=x").is_ok_and(|mut parameters| parameters.take("a", "1", |_| None::<()>).is_err()));
    }
}
