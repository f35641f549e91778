//! Waiting for a prediction to finish.

use std::time::Duration;

use prediction::{Prediction, PredictionId};
use tokio::time::{Instant, sleep_until};

use crate::{api::Api, keys::Caller, problem::Problem, waiters::Waiting};

/// No answer takes longer than this because of a wait: Replicate's clients stop reading after 60.5 s.
const LONGEST: Duration = Duration::from_millis(59_500);

/// When a request that arrived at `arrived` and prefers to wait this many seconds is answered at the latest.
pub(super) fn ends(arrived: Instant, seconds: u64) -> Instant {
    arrived + Duration::from_secs(seconds).min(LONGEST)
}

/// The prediction once it is terminal, or as it is when the time is up or the API stops; `None` when there is none.
/// `waiting` must have begun before the caller knew the prediction to be unfinished. `look_first`: whether it may be
/// finished already.
pub(super) async fn settled(
    api: &Api,
    caller: &Caller,
    id: PredictionId,
    waiting: &Waiting,
    until: Instant,
    look_first: bool,
) -> Result<Option<Prediction>, Problem> {
    let mut is_over = false;
    let mut look = look_first;
    loop {
        if look {
            let prediction = api.find(caller, id).await?;
            if is_over || prediction.as_ref().is_none_or(|prediction| prediction.status.is_terminal()) {
                return Ok(prediction);
            }
        }
        look = true;
        is_over = tokio::select! {
            () = waiting.woken() => false,
            () = sleep_until(until) => true,
            () = api.stop.cancelled() => true,
        };
    }
}
