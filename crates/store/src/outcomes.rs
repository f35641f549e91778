//! Outcomes taken apart into the columns that both databases write, and what they return of those that were applied.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use prediction::{Failure, PredictionId, Status};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    Outcome, Run, RunMetrics, Written,
    numbers::{count, stored_count},
};

/// The runs whose outcomes were applied, each with its prediction's times if that has ended.
pub(crate) type Applied = HashMap<Run, Option<Moments>>;

/// The times of a prediction that has ended, and how many runs it took.
#[derive(Clone, Copy)]
pub(crate) struct Moments {
    pub(crate) claimed_at: Option<OffsetDateTime>,
    pub(crate) started_at: Option<OffsetDateTime>,
    pub(crate) completed_at: OffsetDateTime,
    pub(crate) expires_at: Option<OffsetDateTime>,
    pub(crate) attempts: u32,
}

/// A prediction whose run's outcome was applied; `T` is the database's kind of time.
#[derive(sqlx::FromRow)]
pub(crate) struct AppliedRow<T> {
    id: Uuid,
    epoch: i32,
    attempts: i32,
    claimed_at: Option<T>,
    started_at: Option<T>,
    completed_at: Option<T>,
    expires_at: Option<T>,
}

impl<T: TryInto<OffsetDateTime>> AppliedRow<T> {
    /// It is written, so times that cannot be read are only not told.
    pub(crate) fn into_applied(self) -> (Run, Option<Moments>) {
        let moment = |stored: Option<T>| stored.and_then(|stored| stored.try_into().ok());
        let moments = moment(self.completed_at).map(|completed_at| Moments {
            claimed_at: moment(self.claimed_at),
            started_at: moment(self.started_at),
            completed_at,
            expires_at: moment(self.expires_at),
            attempts: stored_count(self.attempts),
        });
        (Run { id: PredictionId(self.id), epoch: self.epoch }, moments)
    }
}

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
pub(crate) fn written(outcomes: &[Outcome], applied: &Applied) -> Vec<Written> {
    let mut seen = HashSet::new();
    let mut answer = |outcome| {
        let run = Item::from(outcome).run;
        if applied.contains_key(&run) && seen.insert(run) { Written::Applied } else { Written::Stale }
    };
    outcomes.iter().map(&mut answer).collect()
}
