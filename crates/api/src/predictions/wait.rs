//! Waiting for a prediction to finish.

use std::time::Duration;

use prediction::{Prediction, PredictionId};
use store::Waiting;
use tokio::time::{Instant, sleep_until};

use crate::{api::Api, keys::Caller, problem::Problem};

/// No answer takes longer than this because of a wait: Replicate's clients stop reading after 60.5 s.
const LONGEST: Duration = Duration::from_millis(59_500);

/// When a request that arrived at `arrived` and prefers to wait this many seconds is answered at the latest.
pub(super) fn ends(arrived: Instant, seconds: u64) -> Instant {
    arrived + Duration::from_secs(seconds).min(LONGEST)
}

/// The prediction once it is terminal, or as it is when the time is up or the API stops; `None` when there is none.
/// `waiting` must have begun before anything was known of the prediction. `known`: it as it was before it ended, unless it may have
/// ended already.
pub(super) async fn settled(
    api: &Api,
    caller: &Caller,
    id: PredictionId,
    waiting: &Waiting,
    until: Instant,
    mut known: Option<Prediction>,
) -> Result<Option<Prediction>, Problem> {
    let mut is_over = false;
    loop {
        let unfinished = match known.take() {
            Some(unfinished) => unfinished,
            None => match api.find(caller, id).await? {
                Some(unfinished) if !is_over && !unfinished.status.is_terminal() => unfinished,
                found => return Ok(found),
            },
        };
        let ended = tokio::select! {
            ended = waiting.woken() => ended,
            () = sleep_until(until) => { is_over = true; None },
            () = api.stop.cancelled() => { is_over = true; None },
        };
        if let Some(ended) = ended {
            return Ok(Some(ended.of(unfinished)));
        }
    }
}
