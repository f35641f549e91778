//! Events: what happens to a prediction, as far as its caller is told of it by webhooks.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};

/// Something that happened to a prediction. The codes are in the order in which things happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Event {
    /// Nothing: somebody tries whether a webhook arrives.
    Test,
    /// A worker took it for the first time.
    Start,
    /// It has output.
    Output,
    /// It has logs.
    Logs,
    /// It is terminal.
    Completed,
}

/// The text is not an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is one of start, output, logs, completed")]
pub struct InvalidEvent;

impl Event {
    /// Every event.
    pub const ALL: [Self; 5] = [Self::Test, Self::Start, Self::Output, Self::Logs, Self::Completed];

    /// The number that stands for it in the database; of a prediction's events the later has the higher.
    #[must_use]
    pub const fn code(self) -> i16 {
        match self {
            Self::Test => 0,
            Self::Start => 1,
            Self::Output => 2,
            Self::Logs => 3,
            Self::Completed => 4,
        }
    }

    /// The event that a number in the database stands for.
    #[must_use]
    pub fn from_code(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.code() == code)
    }

    /// The word callers see.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Start => "start",
            Self::Output => "output",
            Self::Logs => "logs",
            Self::Completed => "completed",
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Event {
    type Err = InvalidEvent;

    fn from_str(text: &str) -> Result<Self, InvalidEvent> {
        Self::ALL.into_iter().find(|event| event.as_str() == text).ok_or(InvalidEvent)
    }
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A set of events. Serialised, it is the list of their words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Events(i16);

impl Events {
    /// No event.
    pub const NONE: Self = Self(0);

    /// What a caller is told of who names no events: new output and the end, as with Replicate.
    pub const USUAL: Self = Self(1 << Event::Output.code() | 1 << Event::Completed.code());

    /// Whether this event is among them.
    #[must_use]
    pub const fn contains(self, event: Event) -> bool {
        self.0 & 1 << event.code() != 0
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The number that stands for them in the database: bit `n` for the event with the code `n`.
    #[must_use]
    pub const fn bits(self) -> i16 {
        self.0
    }

    /// The events that a number in the database stands for.
    #[must_use]
    pub fn from_bits(bits: i16) -> Self {
        Event::ALL.into_iter().filter(|event| bits & 1 << event.code() != 0).collect()
    }

    /// The events in the order in which they happen.
    pub fn iter(self) -> impl Iterator<Item = Event> {
        Event::ALL.into_iter().filter(move |event| self.contains(*event))
    }
}

impl FromIterator<Event> for Events {
    fn from_iter<I: IntoIterator<Item = Event>>(events: I) -> Self {
        Self(events.into_iter().fold(0, |bits, event| bits | 1 << event.code()))
    }
}

impl Serialize for Events {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_words_and_bits_read_back() {
        for event in Event::ALL {
            assert_eq!(Event::from_code(event.code()), Some(event));
            assert_eq!(event.as_str().parse(), Ok(event));
            let alone: Events = [event].into_iter().collect();
            assert_eq!(Events::from_bits(alone.bits()), alone);
            assert!(alone.contains(event) && alone.iter().eq([event]));
        }
        assert_eq!((Event::from_code(5), "finish".parse::<Event>()), (None, Err(InvalidEvent)));
        assert_eq!(Events::from_bits(!0x1f), Events::NONE);
    }

    #[test]
    fn a_set_is_a_list_of_words() {
        assert_eq!(serde_json::to_string(&Events::USUAL).expect("JSON"), r#"["output","completed"]"#);
        assert_eq!(serde_json::to_string(&Events::NONE).expect("JSON"), "[]");
    }
}
