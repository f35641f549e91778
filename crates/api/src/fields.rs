//! The members of a request's object: each is understood or refused, with a JSON Pointer for every fault.

use serde_json::{Value, value::RawValue};

use crate::{
    json::{self, Members, shown},
    problem::{Fault, Kind, Problem},
    validate::MOST_FAULTS,
};

/// A member of a request's object.
pub(crate) struct Member {
    pub(crate) name: String,
    /// Its value as it came.
    pub(crate) raw: Box<RawValue>,
    /// Its value read.
    pub(crate) value: Value,
}

/// The members of a body in order.
pub(crate) fn members(body: &str) -> Result<impl Iterator<Item = Result<Member, Problem>>, Problem> {
    let Members(members) = match serde_json::from_str(body) {
        Ok(members) => members,
        Err(_) if !body.trim_start().starts_with('{') && json::parse(body).is_ok() => {
            return Err(invalid(vec![Fault::new("", "must be an object")]));
        }
        Err(error) => return Err(Problem::new(Kind::InvalidJson, format!("The body is not JSON: {error}."))),
    };
    Ok(members.into_iter().map(|(name, raw)| match json::parse(raw.get()) {
        Ok(value) => Ok(Member { name, raw, value }),
        Err(error) => Err(Problem::new(
            Kind::InvalidJson,
            format!("The member {:?} of the body is not JSON: {error}.", shown(&name)),
        )),
    }))
}

/// A fault of the member of this name.
pub(crate) fn fault(name: &str, detail: &str) -> Fault {
    Fault::new(format!("/{}", shown(name).replace('~', "~0").replace('/', "~1")), detail)
}

/// The problem of a body with these faults.
pub(crate) fn invalid(mut faults: Vec<Fault>) -> Problem {
    faults.truncate(MOST_FAULTS);
    Problem::new(Kind::InvalidRequest, "The request has fields that are missing, unknown or of the wrong kind.")
        .with_faults(faults)
}

/// A member that is a string.
pub(crate) fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// The members of a small body, each of which must be taken; null counts as absent.
pub(crate) struct Fields {
    members: Vec<(String, Value)>,
    faults: Vec<Fault>,
}

impl Fields {
    /// Reads a body.
    pub(crate) fn read(body: &str) -> Result<Self, Problem> {
        let members = members(body)?.map(|member| member.map(|Member { name, value, .. }| (name, value)));
        Ok(Self { members: members.collect::<Result<_, _>>()?, faults: Vec::new() })
    }

    /// Takes the member of this name and reads it with `read`; `expected` says what it should be.
    pub(crate) fn take<T>(&mut self, name: &str, expected: &str, read: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
        let index = self.members.iter().position(|(known, _)| known == name)?;
        let (_, value) = self.members.swap_remove(index);
        if value.is_null() {
            return None;
        }
        let taken = read(&value);
        if taken.is_none() {
            self.faults.push(fault(name, &format!("must be {expected}")));
        }
        taken
    }

    /// As [`Fields::take`], for a member that must be there.
    pub(crate) fn need<T>(&mut self, name: &str, expected: &str, read: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
        let faults = self.faults.len();
        let taken = self.take(name, expected, read);
        if taken.is_none() && self.faults.len() == faults {
            self.faults.push(fault(name, "is required"));
        }
        taken
    }

    /// What was read, unless something was missing or wrong, or nobody took it.
    pub(crate) fn finish<T>(mut self, read: Option<T>) -> Result<T, Problem> {
        self.faults.extend(self.members.iter().map(|(name, _)| fault(name, "is not a field of this request")));
        match read {
            Some(read) if self.faults.is_empty() => Ok(read),
            _ => Err(invalid(self.faults)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<(String, Option<bool>), Problem> {
        let mut fields = Fields::read(body)?;
        let url = fields.need("url", "a string", text);
        let disabled = fields.take("disabled", "true or false", Value::as_bool);
        fields.finish(url.map(|url| (url, disabled)))
    }

    #[test]
    fn every_member_is_taken_or_refused() {
        assert_eq!(read(r#"{"url":"x"}"#).expect("good"), ("x".to_owned(), None));
        assert_eq!(read(r#"{"disabled":false,"url":"x"}"#).expect("good"), ("x".to_owned(), Some(false)));
        assert_eq!(read(r#"{"disabled":null,"url":"x"}"#).expect("good"), ("x".to_owned(), None));
        let refused = |body: &str| {
            let problem = read(body).expect_err(body);
            (problem.kind, problem.faults.iter().map(|fault| fault.pointer.clone()).collect::<Vec<_>>())
        };
        for (body, pointers) in [
            ("{}", vec!["/url"]),
            (r#"{"url":null}"#, vec!["/url"]),
            (r#"{"url":1,"disabled":1,"a/~":1}"#, vec!["/url", "/disabled", "/a~1~0"]),
            ("[]", vec![""]),
        ] {
            assert_eq!(refused(body), (Kind::InvalidRequest, pointers.into_iter().map(str::to_owned).collect()));
        }
        for body in ["", "{", r#"{"url":"x","url":"y"}"#, r#"{"url":{"a":1,"a":2}}"#] {
            assert_eq!(refused(body).0, Kind::InvalidJson, "{body}");
        }
    }
}
