//! Reading a request for a prediction: every field is understood or refused.

use std::{fmt, time::Duration};

use prediction::{Event, Events, ModelName, Priority, Version};
use serde_json::{Value, value::RawValue};

use crate::{
    fields::{Member, fault, invalid, members},
    headers::positive_duration,
    problem::{Fault, Problem},
};

/// The most bytes of a caller's metadata.
const LONGEST_METADATA: usize = 16 * 1024;

/// What a caller asked to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The default version of a model.
    Model(ModelName),
    /// A version, by its first digits.
    Version(String),
    /// A version that must be the model's.
    VersionOfModel(ModelName, String),
    /// A text that can name neither model nor version.
    Nothing(String),
}

impl Target {
    /// Reads `owner/name`, `owner/name:digest` or a digest of 12 to 64 hex digits.
    pub(crate) fn parse(text: &str) -> Self {
        let digits = |text: &str| {
            let is_digest =
                (Version::SHORTEST..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
            is_digest.then(|| text.to_ascii_lowercase())
        };
        if let Some(digits) = digits(text) {
            return Self::Version(digits);
        }
        let (name, version) = match text.split_once(':') {
            Some((name, version)) => (name, Some(digits(version))),
            None => (text, None),
        };
        match (name.parse(), version) {
            (Ok(name), None) => Self::Model(name),
            (Ok(name), Some(Some(digits))) => Self::VersionOfModel(name, digits),
            (Err(_), _) | (Ok(_), Some(None)) => Self::Nothing(text.to_owned()),
        }
    }

    /// The model that a path names.
    pub(crate) fn of_path(owner: &str, name: &str) -> Self {
        let text = format!("{owner}/{name}");
        text.parse().map_or(Self::Nothing(text), Self::Model)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model(name) => name.fmt(f),
            Self::Version(digits) => digits.fmt(f),
            Self::VersionOfModel(name, digits) => write!(f, "{name}:{digits}"),
            Self::Nothing(text) => text.fmt(f),
        }
    }
}

/// A request that can be read; whether its input fits the model is seen later.
#[derive(Debug)]
pub(crate) struct CreateRequest {
    pub(crate) target: Target,
    /// The input as it came.
    pub(crate) input: Box<RawValue>,
    /// The input read.
    pub(crate) input_value: Value,
    pub(crate) priority: Priority,
    pub(crate) deadline: Option<Duration>,
    /// The caller's object as it came.
    pub(crate) metadata: Option<Box<RawValue>>,
    /// The caller's object read.
    pub(crate) metadata_value: Option<Value>,
    /// The URL as it came, and of which events it is to be told.
    pub(crate) webhook: Option<(String, Events)>,
}

/// What has been read so far.
#[derive(Default)]
struct Draft {
    target: Option<Target>,
    input: Option<(Box<RawValue>, Value)>,
    priority: Priority,
    deadline: Option<Duration>,
    metadata: Option<(Box<RawValue>, Value)>,
    webhook: Option<String>,
    events: Option<Events>,
    faults: Vec<Fault>,
}

impl CreateRequest {
    /// Reads the body of a request. `named`: what the address names, when it does.
    pub(crate) fn parse(body: &str, named: Option<Target>) -> Result<Self, Problem> {
        let is_named = named.is_some();
        let mut draft = Draft { target: named, ..Draft::default() };
        for member in members(body)? {
            let Member { name, raw, value } = member?;
            draft.take(&name, raw, value, is_named);
        }
        draft.finish()
    }
}

impl Draft {
    fn take(&mut self, name: &str, raw: Box<RawValue>, value: Value, is_named: bool) {
        match (name, value) {
            ("input", value) => self.input = Some((raw, value)),
            (
                "version" | "model" | "priority" | "deadline" | "metadata" | "webhook" | "webhook_events_filter",
                Value::Null,
            ) => {}
            ("version" | "model", _) if is_named => self.refuse(name, "the address names the model already"),
            ("version" | "model", _) if self.target.is_some() => self.refuse(name, "give either version or model"),
            ("version" | "model", Value::String(text)) => self.target = Some(Target::parse(&text)),
            ("priority", Value::String(text)) if text.parse::<Priority>().is_ok() => {
                self.priority = text.parse().unwrap_or_default();
            }
            ("priority", _) => self.refuse(name, "must be low, normal or high"),
            ("deadline", Value::String(text)) if positive_duration(&text).is_some() => {
                self.deadline = positive_duration(&text);
            }
            ("deadline", _) => self.refuse(name, "must be a whole number and a unit: 500ms, 30s, 5m, 2h, 7d"),
            ("metadata", value) => self.take_metadata(raw, value),
            ("webhook", Value::String(url)) => self.webhook = Some(url),
            ("webhook_events_filter", value) => match events(&value) {
                Some(events) => self.events = Some(events),
                None => self.refuse(name, "must be a list of one or more of start, output, logs and completed"),
            },
            // What clients send when it is not wanted. Asked for in earnest it is refused like all that this server does
            // not do: a request for it that seemed to succeed would be a lie.
            ("stream", Value::Null | Value::Bool(false)) => {}
            ("version" | "model" | "webhook", _) => self.refuse(name, "must be a string"),
            _ => self.refuse(name, "is not a field of this request"),
        }
    }

    fn take_metadata(&mut self, raw: Box<RawValue>, value: Value) {
        if !value.is_object() {
            self.refuse("metadata", "must be an object");
        } else if raw.get().len() > LONGEST_METADATA {
            self.refuse("metadata", &format!("is larger than {LONGEST_METADATA} bytes"));
        } else if has_nul(&value) {
            self.refuse("metadata", "must not hold U+0000");
        } else {
            self.metadata = Some((raw, value));
        }
    }

    fn refuse(&mut self, name: &str, detail: &str) {
        self.faults.push(fault(name, detail));
    }

    fn finish(self) -> Result<CreateRequest, Problem> {
        let Self { target, input, priority, deadline, metadata, webhook, events, mut faults } = self;
        let is_faulty = |name: &str| faults.iter().any(|fault| fault.pointer == name);
        let lacks_target = target.is_none() && !is_faulty("/version") && !is_faulty("/model");
        let lacks_webhook = events.is_some() && webhook.is_none() && !is_faulty("/webhook");
        if lacks_target {
            faults.push(fault("version", "is required, or model"));
        }
        if lacks_webhook {
            faults.push(fault("webhook_events_filter", "says nothing without webhook"));
        }
        if input.is_none() {
            faults.push(fault("input", "is required"));
        }
        match (target, input) {
            (Some(target), Some((input, input_value))) if faults.is_empty() => {
                let (metadata, metadata_value) = metadata.unzip();
                let webhook = webhook.map(|url| (url, events.unwrap_or(Events::USUAL)));
                Ok(CreateRequest { target, input, input_value, priority, deadline, metadata, metadata_value, webhook })
            }
            _ => Err(invalid(faults)),
        }
    }
}

/// The events of a filter; none when it names none, or something else.
fn events(filter: &Value) -> Option<Events> {
    let event = |word: &Value| word.as_str()?.parse().ok().filter(|event| *event != Event::Test);
    let events: Events = filter.as_array()?.iter().map(event).collect::<Option<_>>()?;
    Some(events).filter(|events| !events.is_empty())
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(has_nul),
        Value::Object(members) => members.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_told_apart() {
        let name: ModelName = "a/b".parse().expect("a name");
        let digits = "0123456789ab".to_owned();
        assert_eq!(Target::parse("A/b"), Target::Model(name.clone()));
        assert_eq!(Target::parse("0123456789AB"), Target::Version(digits.clone()));
        assert_eq!(Target::parse("a/b:0123456789ab"), Target::VersionOfModel(name, digits));
        for text in ["", "a", "0123456789a", "../x", "a/b:", "a/b:xyz", "a/b/c", "a/b\0", &"0".repeat(65)] {
            assert_eq!(Target::parse(text), Target::Nothing(text.to_owned()), "{text:?}");
        }
    }
}
