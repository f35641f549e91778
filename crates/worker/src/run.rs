//! One prediction held: run within its time, then its outcome written, or dropped when it is no longer this worker's.

use std::{
    future,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use inference::Output;
use prediction::{Event, Failure, FailureCode, RetrySchedule};
use queue::Slot;
use store::{Claimed, Outcome, Run, RunMetrics, Written};
use tokio::time::sleep;

use crate::{
    backoff::Backoff,
    complete::{self, NotWritten},
    held::Hold,
    node::Node,
    outage::Trouble,
};

/// The most bytes of one output's JSON: what a caller can still be expected to read in one answer.
const MAX_OUTPUT_BYTES: usize = 16 << 20;

/// Runs it; returns when it is settled. Its slot is free as soon as it has run and there is room for its outcome: while that is
/// written, the next one runs. `claimed_at`: before the claim was sent.
pub(crate) async fn run(node: &Node, claimed: Claimed, claimed_at: Instant, slot: Option<Slot>) {
    let hold = node.held.hold(claimed.run, claimed_at + node.config.lease);
    if claimed.is_first && claimed.webhook_events.contains(Event::Start) {
        node.due.notify_one();
    }
    let outcome = predict(node, &claimed, &hold).await;
    hold.abandon().abandon();
    let Some(outcome) = outcome else { return };
    node.slots.ran();
    let _room = node.outcomes.room_for(&outcome).await;
    drop(slot);
    let tells =
        complete::ended_id(&outcome).is_some() && claimed.webhook_events.iter().any(|event| event > Event::Start);
    if write(node, outcome, &hold).await == Written::Applied && tells {
        node.due.notify_one();
    }
}

/// How the run ended; nothing when it is canceled, past its deadline or lost: its end is the store's business.
async fn predict(node: &Node, claimed: &Claimed, hold: &Hold) -> Option<Outcome> {
    let run = claimed.run;
    let Some(model) = node.models.get(&claimed.model, &claimed.version) else {
        tracing::warn!(prediction = %run.id, model = %claimed.model, "claimed, but not served here: handed back");
        return Some(Outcome::Released { run });
    };
    if node.stop.is_cancelled() {
        return Some(Outcome::Released { run });
    }
    let begun = Instant::now();
    let result = tokio::select! {
        biased;
        () = hold.gone() => return None,
        () = past(claimed.deadline_in) => return None,
        () = node.hand_back.cancelled() => return Some(Outcome::Released { run }),
        result = model.predict(&claimed.input, hold.abandon().clone()) => result,
    };
    Some(match result.and_then(check_size) {
        Ok(output) => {
            let metrics = RunMetrics {
                predict_seconds: output.predict_time.as_secs_f64(),
                batch_size: output.batch_size,
                tokens: output.tokens,
            };
            Outcome::Succeeded { run, output: output.value, metrics }
        }
        Err(failure) => failed(claimed, failure, begun.elapsed()),
    })
}

async fn past(deadline_in: Option<Duration>) {
    match deadline_in {
        Some(left) => sleep(left).await,
        None => future::pending().await,
    }
}

fn check_size(output: Output) -> Result<Output, Failure> {
    let bytes = output.value.get().len();
    if bytes <= MAX_OUTPUT_BYTES {
        return Ok(output);
    }
    let message = format!("the output has {bytes} bytes; {MAX_OUTPUT_BYTES} can be stored");
    Err(Failure::new(FailureCode::ModelError, message))
}

/// Tried again while that may help and retries are left, else final.
fn failed(claimed: &Claimed, failure: Failure, took: Duration) -> Outcome {
    let run = claimed.run;
    if failure.retryable && claimed.retries < claimed.max_retries {
        tracing::debug!(prediction = %run.id, %failure, "to be tried again");
        return Outcome::Retry { run, delay: RetrySchedule::default().delay(claimed.retries, rand::random()) };
    }
    let metrics = RunMetrics { predict_seconds: took.as_secs_f64(), batch_size: 1, tokens: None };
    Outcome::Failed { run, failure, metrics }
}

/// Tries until the store says what became of it. Past its lease the outcome waits for the store's word on the lease first.
async fn write(node: &Node, mut outcome: Outcome, hold: &Hold) -> Written {
    let mut backoff = Backoff::for_store();
    loop {
        hold.settled().await;
        match node.outcomes.write(outcome).await {
            Ok(Written::Applied) => return Written::Applied,
            Ok(Written::Stale) => {
                node.stale.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(run = ?hold.run(), "result refused: the prediction is no longer this run's");
                return Written::Stale;
            }
            Err(NotWritten { outcome: unwritten, trouble: Trouble::Away }) => {
                outcome = unwritten;
                sleep(backoff.next()).await;
            }
            Err(NotWritten { outcome: Outcome::Succeeded { run, metrics, .. }, trouble: Trouble::Refused }) => {
                outcome = unstorable(run, metrics);
            }
            Err(NotWritten { trouble: Trouble::Refused, .. }) => {
                tracing::error!(run = ?hold.run(), "its end cannot be stored; its lease will end");
                return Written::Stale;
            }
        }
    }
}

/// The store refused this output and no other of its batch, for example for a character that the database has not.
fn unstorable(run: Run, metrics: RunMetrics) -> Outcome {
    let failure = Failure::new(FailureCode::ModelError, "the output cannot be stored");
    Outcome::Failed { run, failure, metrics }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    fn claimed(retries: u32) -> Claimed {
        Claimed {
            run: Run { id: prediction::PredictionId::generate(), epoch: 1 },
            model: "augur/echo".parse().expect("a name"),
            version: "0".repeat(64).parse().expect("a version"),
            input: RawValue::from_string("{}".to_owned()).expect("JSON"),
            retries,
            max_retries: 2,
            deadline_in: None,
            webhook_events: prediction::Events::NONE,
            is_first: true,
        }
    }

    #[test]
    fn retryable_failures_are_tried_again_while_retries_are_left() {
        let failure = |code| Failure::new(code, "no");
        let end = |retries, code| failed(&claimed(retries), failure(code), Duration::ZERO);
        assert!(matches!(end(0, FailureCode::Timeout), Outcome::Retry { .. }));
        assert!(matches!(end(1, FailureCode::Internal), Outcome::Retry { delay, .. } if delay.as_secs_f64() >= 3.2));
        assert!(matches!(end(2, FailureCode::Timeout), Outcome::Failed { .. }));
        assert!(matches!(end(0, FailureCode::ModelError), Outcome::Failed { .. }));
    }

    #[test]
    fn outputs_have_a_bound() {
        let output = |bytes: usize| Output {
            value: RawValue::from_string(format!("\"{}\"", "x".repeat(bytes - 2))).expect("JSON"),
            predict_time: Duration::ZERO,
            batch_size: 1,
            tokens: None,
        };
        assert!(check_size(output(MAX_OUTPUT_BYTES)).is_ok());
        let refused = check_size(output(MAX_OUTPUT_BYTES + 1)).expect_err("one byte too many");
        assert_eq!(refused.code, FailureCode::ModelError);
    }
}
