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

/// What is known of a prediction that has not ended. Itself only where it is of use, if it is told how it ended, and small: whoever
/// waits is to cost little.
pub(super) struct Unfinished(Option<Prediction>);

impl Unfinished {
    /// The most bytes of an input and metadata that are kept while somebody waits.
    const MOST: usize = 16 << 10;

    /// As it was read.
    pub(super) fn read(api: &Api, prediction: &Prediction) -> Self {
        let payloads = [&prediction.input, &prediction.metadata].into_iter().flatten();
        let is_small = payloads.map(|payload| payload.get().len()).sum::<usize>() <= Self::MOST;
        Self((api.is_told_of_ends && is_small).then(|| prediction.clone()))
    }

    /// As it was accepted. Metadata may be stored in other words.
    pub(super) fn accepted(api: &Api, prediction: &Prediction) -> Self {
        if prediction.metadata.is_some() { Self(None) } else { Self::read(api, prediction) }
    }
}

/// The prediction once it is terminal, or as it is when the time is up or the API stops; `None` when there is none.
/// `waiting` must have begun before anything was known of the prediction. `known`: what is, unless it may have ended already.
pub(super) async fn settled(
    api: &Api,
    caller: &Caller,
    id: PredictionId,
    waiting: &Waiting,
    until: Instant,
    mut known: Option<Unfinished>,
) -> Result<Option<Prediction>, Problem> {
    let mut is_over = false;
    loop {
        let Unfinished(unfinished) = match known.take() {
            Some(unfinished) => unfinished,
            None => match api.find(caller, id).await? {
                Some(found) if !is_over && !found.status.is_terminal() => Unfinished::read(api, &found),
                found => return Ok(found),
            },
        };
        let ended = tokio::select! {
            ended = waiting.woken() => ended,
            () = sleep_until(until) => { is_over = true; None },
            () = api.stop.cancelled() => { is_over = true; None },
        };
        if let (Some(ended), Some(unfinished)) = (ended, unfinished) {
            return Ok(Some(ended.of(unfinished)));
        }
    }
}
