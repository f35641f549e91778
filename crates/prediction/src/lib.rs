//! What a prediction is and may become: ids, statuses and their legal transitions, failures, model
//! specifications, limits, the retry schedule, events and their deliveries, and the JSON shape callers see. No I/O.

mod delivery;
mod duration;
mod event;
mod failure;
mod id;
mod model;
mod object;
mod retry;
mod status;
mod ticket;

pub use delivery::{BodyForm, DeliveryId, DeliveryStatus, InvalidDeliveryId};
pub use duration::{InvalidDuration, parse_duration};
pub use event::{Event, Events, InvalidEvent};
pub use failure::{Failure, FailureCode};
pub use id::{InvalidId, PredictionId, WorkerId};
pub use model::{InvalidName, Label, Limits, ModelName, ModelSpec, Offer, Version};
pub use object::{Metrics, Prediction, QueuePlace, Urls};
pub use retry::RetrySchedule;
pub use status::Status;
pub use ticket::{InvalidPriority, Priority, StreamKey, Ticket};
