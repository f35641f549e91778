//! Deliveries: one event on its way to one webhook, with the statuses it passes.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};

use crate::{Event, PredictionId};

/// The id of one delivery: there is one for each event of each prediction. As text, `<prediction>_<event>`; sent as
/// `webhook-id`, it is the same in every attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId {
    /// The prediction; of a [`Event::Test`], an id that no prediction has.
    pub prediction: PredictionId,
    /// What happened to it.
    pub event: Event,
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.prediction, self.event)
    }
}

/// The text is not the id of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the id of a delivery is a prediction's id, '_' and an event")]
pub struct InvalidDeliveryId;

impl FromStr for DeliveryId {
    type Err = InvalidDeliveryId;

    fn from_str(text: &str) -> Result<Self, InvalidDeliveryId> {
        let (prediction, event) = text.split_once('_').ok_or(InvalidDeliveryId)?;
        let id: PredictionId = prediction.parse().map_err(|_| InvalidDeliveryId)?;
        // One delivery has one address.
        if id.to_string() != prediction {
            return Err(InvalidDeliveryId);
        }
        Ok(Self { prediction: id, event: event.parse().map_err(|_| InvalidDeliveryId)? })
    }
}

impl Serialize for DeliveryId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeliveryStatus {
    /// For its time to come: at first at once, then for the next attempt.
    Waiting,
    /// A sender holds it under a lease.
    Sending,
    /// The receiver has taken it.
    Delivered,
    /// Given up after the last attempt; it can be sent again.
    Exhausted,
    /// Given up because its endpoint wants no more webhooks; it can be sent again.
    Disabled,
}

impl DeliveryStatus {
    /// Every status.
    pub const ALL: [Self; 5] = [Self::Waiting, Self::Sending, Self::Delivered, Self::Exhausted, Self::Disabled];

    /// Whether nothing more happens to it unless somebody asks for that.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Delivered | Self::Exhausted | Self::Disabled)
    }

    /// The number that stands for it in the database.
    #[must_use]
    pub const fn code(self) -> i16 {
        match self {
            Self::Waiting => 0,
            Self::Sending => 1,
            Self::Delivered => 2,
            Self::Exhausted => 3,
            Self::Disabled => 4,
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
            Self::Waiting => "waiting",
            Self::Sending => "sending",
            Self::Delivered => "delivered",
            Self::Exhausted => "exhausted",
            Self::Disabled => "disabled",
        }
    }
}

impl FromStr for DeliveryStatus {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or(())
    }
}

impl Serialize for DeliveryStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// What the body of a webhook is; each endpoint has its choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BodyForm {
    /// The prediction itself, as Replicate's receivers expect it.
    #[default]
    Prediction,
    /// `{type, timestamp, data}` with the prediction as `data`, as Standard Webhooks recommends.
    Event,
}

impl BodyForm {
    /// Every form.
    pub const ALL: [Self; 2] = [Self::Prediction, Self::Event];

    /// The number that stands for it in the database.
    #[must_use]
    pub const fn code(self) -> i16 {
        match self {
            Self::Prediction => 0,
            Self::Event => 1,
        }
    }

    /// The form that a number in the database stands for.
    #[must_use]
    pub fn from_code(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|form| form.code() == code)
    }

    /// The word callers see.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prediction => "prediction",
            Self::Event => "event",
        }
    }
}

impl FromStr for BodyForm {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|form| form.as_str() == text).ok_or(())
    }
}

impl Serialize for BodyForm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_and_other_texts_are_refused() {
        let prediction = PredictionId::generate();
        for event in Event::ALL {
            let id = DeliveryId { prediction, event };
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        let upper = format!("{}_completed", prediction.to_string().to_uppercase());
        for text in ["", "_", "x_completed", &prediction.to_string(), &format!("{prediction}_end"), &upper] {
            assert_eq!(text.parse::<DeliveryId>(), Err(InvalidDeliveryId), "{text}");
        }
    }

    #[test]
    fn codes_and_words_read_back() {
        for status in DeliveryStatus::ALL {
            assert_eq!(DeliveryStatus::from_code(status.code()), Some(status));
            assert_eq!(status.as_str().parse(), Ok(status));
        }
        for form in BodyForm::ALL {
            assert_eq!(BodyForm::from_code(form.code()), Some(form));
            assert_eq!(form.as_str().parse(), Ok(form));
        }
        assert_eq!((DeliveryStatus::from_code(5), BodyForm::from_code(2)), (None, None));
    }
}
