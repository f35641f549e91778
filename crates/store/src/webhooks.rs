//! The webhook side of the contract: what goes into the outbox and what comes out.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use prediction::{BodyForm, DeliveryId, DeliveryStatus, Events, PredictionId};
use time::OffsetDateTime;
use uuid::Uuid;

/// Where a caller wants to be told of what. The texts are normalised URLs that were vetted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// The URL as it is called.
    pub url: String,
    /// The URL without its query: what settings, secrets and 410 go by.
    pub endpoint: String,
    /// Its scheme, host and port: what limits and health go by.
    pub origin: String,
    /// Of which events.
    pub events: Events,
}

/// One claim of one delivery: `epoch` is the fence, as with [`Run`](crate::Run).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sending {
    /// The delivery.
    pub id: DeliveryId,
    /// The claim it belongs to.
    pub epoch: i32,
}

/// How many more attempts each may have in flight: of origins, or of endpoints.
#[derive(Clone, Debug, Default)]
pub struct Spare {
    /// Those of which something is known; 0 leaves one out.
    pub known: HashMap<String, u32>,
    /// Each of the others.
    pub usual: u32,
}

impl Spare {
    /// The same for all.
    #[must_use]
    pub fn each(usual: u32) -> Self {
        Self { known: HashMap::new(), usual }
    }

    /// What this one has.
    #[must_use]
    pub fn of(&self, name: &str) -> u32 {
        self.known.get(name).copied().unwrap_or(self.usual)
    }
}

/// What a claim may take: a delivery counts for its origin and for its endpoint.
#[derive(Clone, Debug, Default)]
pub struct Room {
    /// By origin.
    pub origins: Spare,
    /// By endpoint.
    pub endpoints: Spare,
    /// What bounds some origins together; nothing when there is none.
    pub others: Option<Others>,
}

/// Room that is kept for origins which are known to be well: all others have a part together.
#[derive(Clone, Debug, Default)]
pub struct Others {
    /// How many more attempts they may have in flight together.
    pub spare: u32,
    /// The origins that are known to be well, which this does not bound.
    pub well: HashSet<String>,
}

impl Room {
    /// The same for all origins and all endpoints.
    #[must_use]
    pub fn each(usual: u32) -> Self {
        Self { origins: Spare::each(usual), endpoints: Spare::each(usual), others: None }
    }

    /// How many more attempts this origin and others have together, where that is bounded.
    #[must_use]
    pub fn shared(&self, origin: &str) -> Option<u32> {
        self.others.as_ref().filter(|others| !others.well.contains(origin)).map(|others| others.spare)
    }
}

/// The deliveries that wait for one endpoint, the longest due first. Lines are ordered by origin and endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The origin.
    pub origin: String,
    /// The endpoint.
    pub endpoint: String,
}

/// What a claim of deliveries took.
#[derive(Clone, Debug)]
pub struct DeliveryClaim {
    /// The deliveries.
    pub claimed: Vec<ClaimedDelivery>,
    /// Endpoints of which the database refused to give any. Their turns were lost to others: a claim soon after this one is to leave
    /// them no room.
    pub refused: Vec<String>,
    /// The last line that was looked at, if there may be more behind it: the next claim goes on there.
    pub looked_to: Option<Line>,
}

/// A delivery held under a lease.
#[derive(Clone, Debug)]
pub struct ClaimedDelivery {
    /// Its id and fence.
    pub sending: Sending,
    /// Whose prediction it is about.
    pub tenant: String,
    /// Where to.
    pub url: String,
    /// The URL without its query.
    pub endpoint: String,
    /// Its scheme, host and port.
    pub origin: String,
    /// Attempts recorded in the present round.
    pub round: u32,
    /// When it was claimed, by the database's clock: the time to sign.
    pub claimed_at: OffsetDateTime,
    /// When the event happened.
    pub created_at: OffsetDateTime,
    /// What the endpoint wants as a body.
    pub body: BodyForm,
    /// Whether the endpoint wants no more webhooks.
    pub is_disabled: bool,
    /// Bytes of the prediction's input and output, for bounding memory.
    pub payload_bytes: u64,
}

/// An attempt that came to an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// When it began, by the database's clock.
    pub at: OffsetDateTime,
    /// How long it took.
    pub latency: Duration,
    /// The answer, or why there was none.
    pub result: Result<Answer, Unanswered>,
}

/// A receiver's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The first bytes of its body; the store keeps [`Answer::KEPT_BYTES`] of them.
    pub body: Vec<u8>,
}

impl Answer {
    /// So much of a body is kept, as the HTTP contract promises.
    pub const KEPT_BYTES: usize = 16 * 1024;
}

/// Why an attempt had no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unanswered {
    /// In one word.
    pub error: String,
    /// For people.
    pub message: String,
}

/// What becomes of a delivery that was held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextStep {
    /// The receiver has taken it.
    Delivered,
    /// It is due again, not before this long from now.
    Retry {
        /// The wait.
        wait: Duration,
    },
    /// That was the last attempt.
    Exhausted,
    /// The receiver wants no more (410): this delivery is over, and its endpoint is disabled.
    Gone,
    /// Its endpoint is disabled.
    Disabled,
}

/// What a sender writes about a delivery that it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Which, and the fence.
    pub sending: Sending,
    /// The attempt; none when it was handed back untried, or its endpoint is disabled.
    pub attempt: Option<Attempt>,
    /// What follows.
    pub next: NextStep,
}

/// What a sweep of deliveries did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweptDeliveries {
    /// Whose sender's lease ended: waiting again, and due.
    pub requeued: u64,
    /// That had waited too long in all.
    pub exhausted: u64,
}

/// A delivery as callers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Its id.
    pub id: DeliveryId,
    /// Where to.
    pub url: String,
    /// The URL without its query.
    pub endpoint: String,
    /// Where it stands.
    pub status: DeliveryStatus,
    /// Attempts recorded.
    pub attempts: u32,
    /// When the event happened.
    pub created_at: OffsetDateTime,
    /// When it is tried next; none when it is over.
    pub due_at: Option<OffsetDateTime>,
    /// When it was over.
    pub completed_at: Option<OffsetDateTime>,
    /// The latest attempt, without the answer's body.
    pub latest: Option<Attempt>,
}

/// Which deliveries to list.
#[derive(Clone, Debug, Default)]
pub struct DeliveryFilter {
    /// Only of this prediction.
    pub prediction: Option<PredictionId>,
    /// Only to this endpoint (a URL without a query).
    pub endpoint: Option<String>,
    /// Only with this status.
    pub status: Option<DeliveryStatus>,
}

/// A place in a list that is ordered by time and id, newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<I> {
    /// The entry beside the place…
    pub created_at: OffsetDateTime,
    /// …and its id.
    pub id: I,
    /// Whether the page lies on the newer side of it.
    pub newer: bool,
}

/// One page of a list, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageOf<T, I> {
    /// The entries.
    pub entries: Vec<T>,
    /// Where older ones go on, if there are any.
    pub next: Option<Place<I>>,
    /// Where newer ones are, if there are any.
    pub previous: Option<Place<I>>,
}

/// What is remembered of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its id.
    pub id: Uuid,
    /// The URL without a query.
    pub url: String,
    /// What it wants as a body.
    pub body: BodyForm,
    /// When it was first remembered.
    pub created_at: OffsetDateTime,
    /// Since when it wants no more webhooks.
    pub disabled_at: Option<OffsetDateTime>,
}

/// A change of what is remembered of an endpoint; what is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointChange {
    /// What it wants as a body.
    pub body: Option<BodyForm>,
    /// Whether it wants no more webhooks.
    pub is_disabled: Option<bool>,
}

/// A signing secret, encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedSecret {
    /// Whose it is.
    pub tenant: String,
    /// The endpoint (a URL without a query); empty: the tenant's default.
    pub endpoint: String,
    /// The ciphertext.
    pub sealed: Vec<u8>,
    /// Until when it signs beside the one that took its place; none: it is the current one.
    pub expires_at: Option<OffsetDateTime>,
}
