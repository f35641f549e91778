//! The failures that the store itself writes, for predictions that end without a run's word.

use prediction::{Failure, FailureCode};

/// Of a prediction whose worker died each time it ran alone.
pub(crate) fn poison(max_crashes: u32) -> Failure {
    let message = format!("The worker died {max_crashes} times while it ran this prediction alone.");
    Failure::new(FailureCode::Poison, message)
}

/// Of a prediction that was not finished in time.
pub(crate) fn deadline_exceeded() -> Failure {
    Failure::new(FailureCode::DeadlineExceeded, "The prediction was not finished by its deadline.")
}

/// Of a prediction that its caller canceled.
pub(crate) fn canceled() -> Failure {
    Failure::new(FailureCode::Canceled, "The prediction was canceled by its caller.")
}
