//! What goes into the store and what comes out: the types of its batch-first contract.

use std::time::Duration;

use prediction::{Events, Failure, ModelName, ModelSpec, Prediction, PredictionId, Priority, Status, Version};
use serde_json::value::RawValue;
use time::OffsetDateTime;

use crate::{Claimant, Webhook};

/// A prediction to be stored; the caller has validated it.
#[derive(Clone, Debug)]
pub struct NewPrediction {
    /// Its id; made by the API or, with PUT, by the caller.
    pub id: PredictionId,
    /// Whose it is: the id of an API key, or the empty string where requests need none.
    pub tenant: String,
    /// The model.
    pub model: ModelName,
    /// The version that shall run it.
    pub version: Version,
    /// Its input as it came.
    pub input: Box<RawValue>,
    /// Which goes first.
    pub priority: Priority,
    /// Canceled unless finished within this time of acceptance.
    pub deadline: Option<Duration>,
    /// The caller's own object (no U+0000 in it).
    pub metadata: Option<Box<RawValue>>,
    /// SHA-256 of the request, to tell a repetition from a conflict.
    pub fingerprint: [u8; 32],
    /// The caller's idempotency key.
    pub idempotency_key: Option<String>,
    /// The model's limit on retries and time, frozen at acceptance.
    pub max_retries: u32,
    /// How long its record is kept once it is terminal.
    pub retention: Duration,
    /// Whether its ticket is about to be queued (or, beside a worker that has room, that it is claimed at once instead).
    pub queued: bool,
    /// Where its caller wants to be told of what.
    pub webhook: Option<Webhook>,
    /// Who claims it in the transaction that stores it, if anybody. One whose caller is told of its start waits all the same, for
    /// a claim that tells.
    pub claimant: Option<Claimant>,
}

impl NewPrediction {
    /// The events that its caller is told of.
    pub(crate) fn webhook_events(&self) -> Events {
        self.webhook.as_ref().map_or(Events::NONE, |webhook| webhook.events)
    }
}

/// What became of one new prediction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is stored.
    Created {
        /// The database's time of acceptance.
        created_at: OffsetDateTime,
        /// Its deadline on the database's clock.
        deadline_at: Option<OffsetDateTime>,
    },
    /// The same request (same key or same caller-made id, same fingerprint) was stored before.
    Replayed {
        /// The prediction that exists.
        id: PredictionId,
    },
    /// The idempotency key was used with another request.
    KeyConflict,
    /// The id exists, with another request (or is another tenant's).
    IdConflict,
}

/// Which waiting predictions lack a ticket, beside those never queued or due for a retry.
#[derive(Clone, Copy, Debug, Default)]
pub struct Due {
    /// Those queued before this moment count as unqueued: the queue has lost its contents since.
    pub queued_before: Option<OffsetDateTime>,
    /// Those queued longer ago than this count as unqueued: the stream was seen empty.
    pub queued_for: Option<Duration>,
}

/// The answer to a claim.
#[derive(Debug, Default)]
pub struct Claim {
    /// What the worker now holds.
    pub claimed: Vec<Claimed>,
    /// Waiting predictions that must run alone.
    pub suspects: Vec<PredictionId>,
    /// Waiting predictions that the database refuses to give.
    pub refused: Vec<PredictionId>,
}

impl Claim {
    pub(crate) fn of(claims: Vec<Self>, refused: Vec<PredictionId>) -> Self {
        let (claimed, suspects): (Vec<_>, Vec<_>) =
            claims.into_iter().map(|claim| (claim.claimed, claim.suspects)).unzip();
        Self { claimed: claimed.into_iter().flatten().collect(), suspects: suspects.concat(), refused }
    }
}

/// A prediction held under a lease.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// Its id and fence.
    pub run: Run,
    /// The model.
    pub model: ModelName,
    /// The version to run.
    pub version: Version,
    /// Its input as it came; nothing where what is stored is no JSON any more: it can only fail, alone.
    pub input: Option<Box<RawValue>>,
    /// Retries spent so far.
    pub retries: u32,
    /// Retries allowed.
    pub max_retries: u32,
    /// Time left until its deadline, by the database's clock.
    pub deadline_in: Option<Duration>,
    /// The events that its caller is told of.
    pub webhook_events: Events,
    /// Whether no worker took it before.
    pub is_first: bool,
}

/// One run of one prediction: `epoch` is the fence, raised by every claim, cancel and sweep, never lowered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    /// The prediction.
    pub id: PredictionId,
    /// The claim it belongs to.
    pub epoch: i32,
}

/// The answer to a renewal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renewed {
    /// No longer held (canceled, swept, finished): drop them.
    pub lost: Vec<PredictionId>,
    /// Nothing is known of them: the database went away before their turn, or refused too many others.
    pub not_tried: Vec<PredictionId>,
}

/// What a run cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RunMetrics {
    /// Seconds in the model.
    pub predict_seconds: f64,
    /// Predictions in the same batch.
    pub batch_size: u32,
    /// Tokens, for text models.
    pub tokens: Option<u32>,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// With an output.
    Succeeded {
        /// The run.
        run: Run,
        /// The output as JSON.
        output: Box<RawValue>,
        /// What it cost.
        metrics: RunMetrics,
    },
    /// With a failure that is final.
    Failed {
        /// The run.
        run: Run,
        /// Why.
        failure: Failure,
        /// What it cost.
        metrics: RunMetrics,
    },
    /// With a failure to be tried again: back to `starting`, one retry spent.
    Retry {
        /// The run.
        run: Run,
        /// Not before this long from now.
        delay: Duration,
    },
    /// Handed back unfinished (graceful stop): back to `starting`, nothing spent but a release.
    Released {
        /// The run.
        run: Run,
    },
}

/// Whether an outcome was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It was.
    Applied,
    /// Somebody else owns the prediction by now, or it is terminal: nothing was changed.
    Stale,
}

/// How to sweep.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    /// The lease in use: a Postgres that started less than this ago is not swept for expired leases.
    pub lease: Duration,
    /// Solo crashes after which a prediction fails as `poison`.
    pub max_crashes: u32,
    /// At most this many of each kind.
    pub limit: u32,
    /// Whether expired leases are looked at (not just after this node lost the database).
    pub leases: bool,
}

/// What a sweep did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Went back to waiting, as suspects; they have no ticket.
    pub requeued: Vec<PredictionId>,
    /// Became terminal: poison and passed deadlines.
    pub ended: Vec<PredictionId>,
}

impl Swept {
    pub(crate) fn of(parts: Vec<Self>) -> Self {
        let (requeued, ended): (Vec<_>, Vec<_>) = parts.into_iter().map(|part| (part.requeued, part.ended)).unzip();
        Self { requeued: requeued.concat(), ended: ended.concat() }
    }
}

/// How many records a purge removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Records of predictions.
    pub predictions: u64,
    /// Idempotency keys.
    pub keys: u64,
    /// Tests of webhooks.
    pub tests: u64,
    /// Records of predictions that the database refused to remove.
    pub refused: u64,
}

impl Purged {
    /// Whether a purge of at most `limit` of each may have left some.
    #[must_use]
    pub fn is_full(self, limit: u32) -> bool {
        (self.predictions + self.refused).max(self.keys).max(self.tests) >= u64::from(limit)
    }
}

/// Who holds a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lead {
    /// Another node.
    Another,
    /// This node, from now on: the database, or what it remembers, may be another than when it held the role before.
    Begun,
    /// This node, as before.
    Kept,
}

/// The outcome of a cancel.
#[derive(Debug)]
pub enum CancelResult {
    /// It is canceled now.
    Canceled(Box<Prediction>),
    /// It was terminal already.
    AlreadyTerminal(Box<Prediction>),
    /// There is none, or it is not the tenant's.
    NotFound,
}

/// Which predictions to list.
#[derive(Clone, Debug, Default)]
pub struct ListFilter {
    /// Only with this status.
    pub status: Option<Status>,
    /// Only of this model.
    pub model: Option<ModelName>,
    /// Only accepted after this moment.
    pub created_after: Option<OffsetDateTime>,
    /// Only accepted before this moment.
    pub created_before: Option<OffsetDateTime>,
    /// Only whose metadata has this top-level string, number or boolean, compared as text.
    pub metadata: Vec<(String, String)>,
}

/// A place in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The prediction beside the place…
    pub created_at: OffsetDateTime,
    /// …and its id.
    pub id: PredictionId,
    /// Whether the page lies on the newer side of it.
    pub newer: bool,
}

/// One page of a list.
#[derive(Debug, Default)]
pub struct Page {
    /// Newest first.
    pub predictions: Vec<Prediction>,
    /// Where older ones go on, if there are any.
    pub next: Option<Cursor>,
    /// Where newer ones are, if there are any.
    pub previous: Option<Cursor>,
}

/// The line of one version.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelQueue {
    /// The model.
    pub model: ModelName,
    /// The version.
    pub version: Version,
    /// Predictions waiting.
    pub waiting: u64,
    /// Predictions held by workers.
    pub processing: u64,
    /// Age of the oldest waiting one, in seconds.
    pub oldest_seconds: f64,
}

/// So many predictions of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionCount {
    /// The model.
    pub model: ModelName,
    /// The version.
    pub version: Version,
    /// How many.
    pub count: u64,
}

/// A version that workers have published.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishedModel {
    /// What it is.
    pub spec: ModelSpec,
    /// When it was first published.
    pub created_at: OffsetDateTime,
    /// When a worker last began to say that the model's name alone means it, if any ever did.
    pub default_at: Option<OffsetDateTime>,
    /// How many live workers serve it.
    pub workers: u32,
    /// How many of these say that the model's name alone means it.
    pub default_workers: u32,
}

/// How the schema found compares with the one this program was built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schema {
    /// The same.
    Current,
    /// Older: `augur migrate` brings it up.
    Behind,
    /// Newer: this program is old.
    Ahead,
}
