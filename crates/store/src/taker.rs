//! New predictions that a worker of the same process claims in the transaction that stores them: they need neither a ticket nor a
//! claim of their own.

use std::{
    cmp::Reverse,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use prediction::{Event, ModelName, Version, WorkerId};

use crate::{Claimed, NewPrediction, Run, Waiters};

/// The epoch of what is claimed when it is stored.
const FIRST_EPOCH: i32 = 1;

/// A worker that claims what is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimant {
    /// The worker.
    pub worker: WorkerId,
    /// How long it holds what it claims without renewing it.
    pub lease: Duration,
}

/// What a worker gives an API in the same process.
#[derive(Clone)]
pub struct Companion {
    /// Takes new predictions.
    pub taker: Taker,
    /// Whom it tells how predictions ended.
    pub waiters: Waiters,
}

/// Makes room in a worker for up to so many new predictions of a version; none where others of it have tickets that wait in this
/// process.
pub type Taker = Arc<dyn Fn(&ModelName, &Version, usize) -> Option<Box<dyn Places>> + Send + Sync>;

/// Room in a worker for predictions of one version, free again when dropped.
pub trait Places: Send {
    /// Who claims them.
    fn claimant(&self) -> Claimant;

    /// How many there are; at least one.
    fn count(&self) -> usize;

    /// Runs these, which are stored as claimed; `since` lies before they were.
    fn start(&mut self, stored: Vec<Claimed>, since: Instant);

    /// Hands these back if they were stored, of which the database has not said whether they were.
    fn give_back(&mut self, doubtful: Vec<Run>);
}

/// The room for a batch, version by version.
#[derive(Default)]
pub(crate) struct Taken(Vec<OfVersion>);

struct OfVersion {
    version: (ModelName, Version),
    places: Box<dyn Places>,
}

impl OfVersion {
    fn is_of(&self, new: &NewPrediction) -> bool {
        new.claimed_by().is_some() && (&new.model, &new.version) == (&self.version.0, &self.version.1)
    }
}

impl Taken {
    /// Takes what is about to be queued, as far as there is room for it, the highest priority first; those have a claimant then
    /// instead of a ticket.
    pub(crate) fn from(taker: &Taker, batch: &mut [NewPrediction]) -> Self {
        let mut eligible: Vec<&mut NewPrediction> =
            batch.iter_mut().filter(|new| new.queued && new.is_claimable()).collect();
        eligible.sort_by_key(|new| Reverse(new.priority.code()));
        let mut taken = Vec::new();
        while let Some(first) = eligible.first() {
            let version = (first.model.clone(), first.version.clone());
            let (same, others): (Vec<_>, Vec<_>) =
                eligible.into_iter().partition(|new| (&new.model, &new.version) == (&version.0, &version.1));
            eligible = others;
            let Some(places) = taker(&version.0, &version.1, same.len()) else { continue };
            for new in same.into_iter().take(places.count()) {
                (new.claimant, new.queued) = (Some(places.claimant()), false);
            }
            taken.push(OfVersion { version, places });
        }
        Self(taken)
    }

    /// Runs those of a part of the batch that are stored since then, the highest priority first.
    pub(crate) fn start(&mut self, batch: &[NewPrediction], stored: &[usize], since: Instant) {
        for of_version in &mut self.0 {
            let mut same: Vec<&NewPrediction> = stored.iter().map(|place| &batch[*place]).collect();
            same.retain(|new| of_version.is_of(new));
            same.sort_by_key(|new| Reverse(new.priority.code()));
            if !same.is_empty() {
                of_version.places.start(same.into_iter().map(|new| new.as_claimed(since)).collect(), since);
            }
        }
    }

    /// Hands back those of a part of the batch that may have been stored.
    pub(crate) fn give_back(&mut self, batch: &[NewPrediction], part: Range<usize>) {
        for of_version in &mut self.0 {
            let same = batch[part.clone()].iter().filter(|new| of_version.is_of(new));
            let runs: Vec<Run> = same.map(NewPrediction::first_run).collect();
            if !runs.is_empty() {
                of_version.places.give_back(runs);
            }
        }
    }
}

impl NewPrediction {
    /// Whether it can be claimed in the transaction that stores it.
    pub(crate) fn is_claimable(&self) -> bool {
        !self.webhook_events().contains(Event::Start)
    }

    /// Who claims it then.
    pub(crate) fn claimed_by(&self) -> Option<Claimant> {
        self.claimant.filter(|_| self.is_claimable())
    }

    /// The run of its claimant.
    pub(crate) fn first_run(&self) -> Run {
        Run { id: self.id, epoch: FIRST_EPOCH }
    }

    /// What its claimant holds once it is stored, which it was after `since`.
    pub(crate) fn as_claimed(&self, since: Instant) -> Claimed {
        Claimed {
            run: self.first_run(),
            webhook_events: self.webhook_events(),
            model: self.model.clone(),
            version: self.version.clone(),
            input: Some(self.input.clone()),
            retries: 0,
            max_retries: self.max_retries,
            deadline_in: self.deadline.map(|deadline| deadline.saturating_sub(since.elapsed())),
            is_first: true,
        }
    }
}
