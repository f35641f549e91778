//! Predictions that were claimed together: each is run within its time, then its outcome written, or dropped when it is no longer
//! this worker's. One task runs them all, and hands in together what ends at the same moment.

use std::{
    future,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use inference::Output;
use prediction::{Event, Events, Failure, FailureCode, RetrySchedule};
use store::{Claimed, Outcome, Run, RunMetrics, Written};
use tokio::{task::yield_now, time::sleep};

use crate::{
    backoff::Backoff,
    complete,
    held::Hold,
    node::{Broken, Node},
    outage::Trouble,
    slots::Taken,
};

/// The most bytes of one output's JSON: what a caller can still be expected to read in one answer.
const MAX_OUTPUT_BYTES: usize = 16 << 20;

/// A run that has ended, with an outcome to be written.
struct Ended {
    hold: Hold,
    outcome: Outcome,
    webhook_events: Events,
}

/// Runs them; returns when all are settled. The slot of each is free as soon as it has run and there is room for its outcome:
/// while that is written, the next one runs. `claimed_at`: before the claim was sent.
pub(crate) async fn run(node: &Node, claimed: Vec<Claimed>, claimed_at: Instant, mut slots: Option<Taken>) {
    if claimed.iter().any(|claimed| claimed.is_first && claimed.webhook_events.contains(Event::Start)) {
        node.due.notify_one();
    }
    let holds =
        node.held.hold(claimed.iter().map(|claimed| claimed.run), claimed_at + node.config.lease, &node.audience);
    let run_one = |(claimed, hold): (Claimed, Hold)| async move {
        let outcome = predict(node, &claimed, &hold).await?;
        Some(Ended { hold, outcome, webhook_events: claimed.webhook_events })
    };
    let mut running: FuturesUnordered<_> = claimed.into_iter().zip(holds).map(run_one).collect();
    let mut settling = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(first) = running.next() => {
                // Its batch ends at the same moment: what is written together costs the store less.
                yield_now().await;
                let mut ended = vec![first];
                while let Some(Some(next)) = running.next().now_or_never() {
                    ended.push(next);
                }
                let used = slots.as_mut().and_then(|slots| slots.split(ended.len()));
                settling.push(settle(node, ended.into_iter().flatten().collect(), used));
            }
            Some(()) = settling.next() => {}
            else => return,
        }
    }
}

/// Sees to it that the outcomes are written. `slots`: which those used that have ended.
async fn settle(node: &Node, ended: Vec<Ended>, slots: Option<Taken>) {
    if ended.is_empty() {
        return;
    }
    if let Some(slots) = &slots {
        slots.ran();
    }
    let _room = node.outcomes.room_for(ended.iter().map(|ended| &ended.outcome)).await;
    drop(slots);
    write(node, ended).await;
}

/// Ends this worker when nothing mends what is broken for its process: else it would take predictions and fail them faster than any other
/// could run them, or take them again and again without an end, until they are taken for poison.
///
/// # Panics
/// Then.
pub(crate) async fn end_when_broken(node: Arc<Node>) {
    if let Some(broken) = node.over.run_until_cancelled(node.broken.wait()).await {
        panic!("{broken}: what it ran is left to its leases");
    }
}

/// How the run ended; nothing when it is canceled, past its deadline, lost or left to its lease: its end is the store's business.
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
    let Some(input) = &claimed.input else {
        tracing::error!(prediction = %run.id, "its stored input cannot be read");
        return Some(failed(claimed, unreadable(), begun.elapsed()));
    };
    let result = tokio::select! {
        biased;
        () = past(claimed.deadline_in) => return None,
        () = node.hand_back.cancelled() => return Some(Outcome::Released { run }),
        // It ends at once when the run is taken back.
        result = model.predict_aloud(input, hold.abandon().clone(), hold.draft().clone()) => result,
    };
    if hold.is_gone() {
        return None;
    }
    if result.is_err() && model.is_broken() {
        if node.models.get(&claimed.model, &claimed.version).is_none() {
            // Withdrawn, because it lost weights: it is loaded anew, here or elsewhere.
            return Some(Outcome::Released { run });
        }
        // Somebody else may have said so.
        let _ = node.broken.set(Broken::Model(claimed.model.clone(), model.device()));
        return None;
    }
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

/// What is stored will not become JSON again.
fn unreadable() -> Failure {
    Failure::new(FailureCode::Internal, "the stored input cannot be read").with_retryable(false)
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

/// Tries until the store says what became of each. Past their leases outcomes wait for the store's word on these first.
async fn write(node: &Node, mut ended: Vec<Ended>) {
    let mut backoff = Backoff::for_store();
    while !ended.is_empty() {
        node.held.settled(ended.iter().map(|ended| &ended.hold)).await;
        let (outcomes, rest): (Vec<_>, Vec<_>) =
            ended.into_iter().map(|ended| (ended.outcome, (ended.hold, ended.webhook_events))).unzip();
        let (mut unwritten, mut is_away, mut is_due) = (Vec::new(), false, false);
        for ((hold, webhook_events), (outcome, written)) in rest.into_iter().zip(node.outcomes.write(outcomes).await) {
            match (written, outcome) {
                (Ok(Written::Applied), outcome) => {
                    let ends = complete::ended_id(&outcome).is_some();
                    is_due |= ends && webhook_events.iter().any(|event| event > Event::Start);
                }
                (Ok(Written::Stale), _) => {
                    node.stale.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(run = ?hold.run(), "result refused: the prediction is no longer this run's");
                }
                (Err(Trouble::Away), outcome) => {
                    is_away = true;
                    unwritten.push(Ended { hold, outcome, webhook_events });
                }
                (Err(Trouble::Refused), Outcome::Succeeded { run, metrics, .. }) => {
                    unwritten.push(Ended { hold, outcome: unstorable(run, metrics), webhook_events });
                }
                (Err(Trouble::Refused), _) => {
                    tracing::error!(run = ?hold.run(), "its end cannot be stored; its lease will end");
                }
            }
        }
        if is_due {
            node.due.notify_one();
        }
        if is_away {
            sleep(backoff.next()).await;
        }
        ended = unwritten;
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
            input: None,
            retries,
            max_retries: 2,
            deadline_in: None,
            webhook_events: Events::NONE,
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
    fn what_cannot_be_read_is_not_tried_again() {
        assert!(matches!(failed(&claimed(0), unreadable(), Duration::ZERO), Outcome::Failed { .. }));
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
