//! What a prediction is and may become: ids, statuses and their legal transitions, failures, model
//! specifications, limits, the retry schedule and the JSON shape callers see. No I/O.

mod duration;
mod failure;
mod id;
mod model;
mod object;
mod retry;
mod status;
mod ticket;

pub use duration::{InvalidDuration, parse_duration};
pub use failure::{Failure, FailureCode};
pub use id::{InvalidId, PredictionId, WorkerId};
pub use model::{InvalidName, Limits, ModelName, ModelSpec, Version};
pub use object::{Metrics, Prediction, QueuePlace, Urls};
pub use retry::RetrySchedule;
pub use status::Status;
pub use ticket::{InvalidPriority, Priority, StreamKey, Ticket};
