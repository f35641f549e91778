//! Outcomes taken apart into the columns that both databases write.

use std::{collections::HashSet, time::Duration};

use prediction::{Failure, Status};

use crate::{Outcome, Run, RunMetrics, Written, numbers::count};

/// One outcome as columns.
pub(crate) struct Item<'a> {
    pub(crate) run: Run,
    /// What the prediction becomes.
    pub(crate) status: Status,
    /// The pause before a retry; none when it is released.
    pub(crate) delay: Option<Duration>,
    pub(crate) output: Option<&'a str>,
    pub(crate) failure: Option<&'a Failure>,
    metrics: Option<&'a RunMetrics>,
}

impl<'a> From<&'a Outcome> for Item<'a> {
    fn from(outcome: &'a Outcome) -> Self {
        let waits = |run: &Run, delay| Item {
            run: *run,
            status: Status::Starting,
            delay,
            output: None,
            failure: None,
            metrics: None,
        };
        match outcome {
            Outcome::Succeeded { run, output, metrics } => Item {
                status: Status::Succeeded,
                output: Some(output.get()),
                metrics: Some(metrics),
                ..waits(run, None)
            },
            Outcome::Failed { run, failure, metrics } => {
                Item { status: Status::Failed, failure: Some(failure), metrics: Some(metrics), ..waits(run, None) }
            }
            Outcome::Retry { run, delay } => waits(run, Some(*delay)),
            Outcome::Released { run } => waits(run, None),
        }
    }
}

impl Item<'_> {
    pub(crate) fn predict_seconds(&self) -> Option<f64> {
        self.metrics.map(|metrics| metrics.predict_seconds)
    }

    pub(crate) fn batch_size(&self) -> Option<i32> {
        self.metrics.map(|metrics| count(metrics.batch_size))
    }

    pub(crate) fn tokens(&self) -> Option<i32> {
        self.metrics.and_then(|metrics| metrics.tokens).map(count)
    }
}

/// One answer per outcome: the first outcome of a run that was written is applied, all else is stale.
pub(crate) fn written(outcomes: &[Outcome], mut applied: HashSet<Run>) -> Vec<Written> {
    let answer = |outcome| if applied.remove(&Item::from(outcome).run) { Written::Applied } else { Written::Stale };
    outcomes.iter().map(answer).collect()
}
