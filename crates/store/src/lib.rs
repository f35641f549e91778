//! The truth: predictions, their inputs and outcomes, the deliveries that tell of them, the models that workers publish;
//! Postgres and SQLite behind one batch-first contract. Times are the database's own, leases are fenced by `epoch`, and every call
//! takes or returns a batch.
//!
//! `docs/states.md` draws the state machine; the migrations enforce it.

/// The same call on whichever database this is.
macro_rules! on_backend {
    ($store:ident, $backend:ident => $call:expr) => {
        match &$store.backend {
            Backend::Postgres($backend) => $call,
            Backend::Sqlite($backend) => $call,
        }
    };
}

mod accept;
mod apart;
mod api_keys;
mod contract;
mod deliveries;
mod error;
mod failures;
mod find;
mod lines;
mod numbers;
mod outcomes;
mod page;
mod postgres;
mod repeated;
mod rows;
mod runs;
mod schema;
mod settled;
mod sqlite;
mod taker;
mod turn;
mod waiters;
mod webhook_rows;
mod webhooks;

pub use accept::{Accepter, Enqueue};
pub use api_keys::{ApiKey, FormerApiKey};
pub use contract::{
    Accepted, CancelResult, Claim, Claimed, Cursor, Due, Lead, ListFilter, ModelQueue, NewPrediction, Outcome, Page,
    PublishedModel, Purged, Renewed, Run, RunMetrics, Schema, Sweep, Swept, VersionCount, Written,
};
pub use error::StoreError;
pub use find::Finder;
pub use runs::renewed_for;
pub use taker::{Claimant, Companion, Places, Taker};
pub use turn::{gather, take_turn};
pub use waiters::{Ended, Waiters, Waiting};
pub use webhooks::{
    Answer, Attempt, ClaimedDelivery, Delivery, DeliveryClaim, DeliveryFilter, Endpoint, EndpointChange, Line,
    NextStep, Others, PageOf, Place, Room, SealedSecret, Sending, Settled, Spare, SweptDeliveries, Unanswered, Webhook,
};

use prediction::{ModelName, Offer, Prediction, PredictionId, StreamKey, Version, WorkerId};
use std::{path::PathBuf, time::Duration};
use time::OffsetDateTime;

/// Where the truth is kept.
#[derive(Clone, Debug)]
pub enum Location {
    /// A Postgres database.
    Postgres {
        /// `postgres://…`
        url: String,
        /// The most connections at once.
        max_connections: u32,
    },
    /// A SQLite file, made when absent; one process at a time (an exclusive lock file beside it says so).
    Sqlite {
        /// The file.
        path: PathBuf,
    },
}

/// A handle on the store; cheap to clone.
#[derive(Clone)]
pub struct Store {
    backend: Backend,
    /// Who is told of ends.
    waiters: Waiters,
}

#[derive(Clone)]
enum Backend {
    Postgres(postgres::Postgres),
    Sqlite(sqlite::Sqlite),
}

/// # Errors
/// Every call fails with [`StoreError::Unavailable`] when the database does not answer in time, and with
/// [`StoreError::Schema`] when its schema is another one.
impl Store {
    /// Connects. Does not touch the schema: see [`Store::schema`] and [`Store::migrate`].
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process uses the SQLite file; [`StoreError::Unavailable`] when there is no answer.
    pub async fn open(location: &Location) -> Result<Self, StoreError> {
        Ok(Self::on(match location {
            Location::Postgres { url, max_connections } => {
                Backend::Postgres(postgres::Postgres::open(url, *max_connections).await?)
            }
            Location::Sqlite { path } => Backend::Sqlite(sqlite::Sqlite::open(path).await?),
        }))
    }

    /// The same beside another process that may be using the SQLite file, for short calls that do not need it alone: those on API
    /// keys. The schema must be current.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when there is no answer, or no file.
    pub async fn open_beside(location: &Location) -> Result<Self, StoreError> {
        match location {
            Location::Postgres { .. } => Self::open(location).await,
            Location::Sqlite { path } => Ok(Self::on(Backend::Sqlite(sqlite::Sqlite::open_beside(path).await?))),
        }
    }

    fn on(backend: Backend) -> Self {
        Self { backend, waiters: Waiters::default() }
    }

    /// Whether other processes can see the same predictions (Postgres).
    pub fn is_shared(&self) -> bool {
        matches!(self.backend, Backend::Postgres(_))
    }

    /// A second handle whose statements run on one connection of its own, for work that must not wait behind others
    /// (lease renewal). With SQLite: the same handle.
    pub async fn dedicated(&self) -> Result<Self, StoreError> {
        let backend = match &self.backend {
            Backend::Postgres(postgres) => Backend::Postgres(postgres.dedicated()),
            Backend::Sqlite(sqlite) => Backend::Sqlite(sqlite.clone()),
        };
        Ok(Self { backend, waiters: self.waiters.clone() })
    }

    /// Compares the schema found with the one this program was built for.
    pub async fn schema(&self) -> Result<Schema, StoreError> {
        on_backend!(self, backend => backend.schema().await)
    }

    /// Brings the schema up to date; safe to run from several nodes at once.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        on_backend!(self, backend => backend.migrate().await)
    }

    /// Answers when the database does.
    pub async fn ping(&self) -> Result<(), StoreError> {
        on_backend!(self, backend => backend.ping().await)
    }

    /// The database's clock.
    pub async fn now(&self) -> Result<OffsetDateTime, StoreError> {
        on_backend!(self, backend => backend.now().await)
    }

    /// Closes its connections (and gives up the SQLite lock).
    pub async fn close(&self) {
        on_backend!(self, backend => backend.close().await)
    }

    // ---- accept
    /// Stores new predictions in one transaction; one answer per item, in order. After it returns they survive anything.
    pub async fn accept(&self, batch: Vec<NewPrediction>) -> Result<Vec<Accepted>, StoreError> {
        self.accept_slice(&batch).await
    }

    /// As [`Store::accept`], for a part of a batch.
    pub(crate) async fn accept_slice(&self, batch: &[NewPrediction]) -> Result<Vec<Accepted>, StoreError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        on_backend!(self, backend => backend.accept(batch).await)
    }

    /// Says that no ticket of these was queued after all, so that [`Store::take_due`] finds them.
    pub async fn mark_unqueued(&self, ids: &[PredictionId]) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        on_backend!(self, backend => backend.mark_unqueued(ids).await)
    }

    /// What [`Store::accept`] would say of a request that it has accepted before; nothing of a new one. Writes nothing.
    pub async fn accepted_before(&self, new: &NewPrediction) -> Result<Option<Accepted>, StoreError> {
        on_backend!(self, backend => backend.accepted_before(new).await)
    }

    /// How many predictions of each version wait, counted up to `bound` of each; versions without any are left out. Costs
    /// what it counts: 0.2 s for a million on Postgres.
    pub async fn waiting(&self, bound: u32) -> Result<Vec<VersionCount>, StoreError> {
        on_backend!(self, backend => backend.waiting(bound).await)
    }

    /// The same, of each tenant by itself, up to `bound` of each version in all. Reads the rows too, where [`Store::waiting`] reads an
    /// index alone.
    pub async fn waiting_by_tenant(&self, bound: u32) -> Result<Vec<(String, VersionCount)>, StoreError> {
        on_backend!(self, backend => backend.waiting_by_tenant(bound).await)
    }

    /// How many predictions of each version runs have ended after `since` and until `until`, by the database's clock. An end is
    /// seen when it is committed, which is a little after its time. Costs what it counts.
    pub async fn finished_between(
        &self,
        since: OffsetDateTime,
        until: OffsetDateTime,
    ) -> Result<Vec<VersionCount>, StoreError> {
        on_backend!(self, backend => backend.finished_between(since, until).await)
    }

    // ---- dispatch
    /// Every stream with waiting predictions that are due and have no ticket queued (or one queued before `due`'s bound),
    /// at most `limit` in all, in fair order: priority first, then age (since it became due); marks them queued.
    /// `stream`: which stream; see [`Due`] for what counts.
    pub async fn take_due(&self, stream: &StreamKey, due: Due, limit: u32) -> Result<Vec<PredictionId>, StoreError> {
        on_backend!(self, backend => backend.take_due(stream, due, limit).await)
    }

    /// The streams that have predictions waiting now.
    pub async fn waiting_streams(&self) -> Result<Vec<StreamKey>, StoreError> {
        on_backend!(self, backend => backend.waiting_streams().await)
    }

    /// Tries to become (or confirms still being) the only holder of a role among all nodes.
    /// Postgres: an advisory lock on a connection of its own, lost with it. SQLite: always [`Lead::Kept`].
    pub async fn lead(&self, role: &'static str) -> Result<Lead, StoreError> {
        match &self.backend {
            Backend::Postgres(postgres) => postgres.lead(role).await,
            Backend::Sqlite(_) => Ok(Lead::Kept),
        }
    }

    /// Gives a role up, for another node to take.
    pub async fn resign(&self, role: &'static str) {
        match &self.backend {
            Backend::Postgres(postgres) => postgres.resign(role).await,
            Backend::Sqlite(_) => {}
        }
    }

    // ---- ask
    /// The predictions among `ids` that exist and are the tenant's, in no particular order.
    pub async fn get(&self, tenant: &str, ids: &[PredictionId]) -> Result<Vec<Prediction>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        on_backend!(self, backend => backend.get(tenant, ids).await)
    }

    /// Whose the prediction is, if it exists.
    pub async fn tenant_of(&self, id: PredictionId) -> Result<Option<String>, StoreError> {
        on_backend!(self, backend => backend.tenant_of(id).await)
    }

    /// The ids among `ids` that are terminal: one batched poll for all who wait.
    pub async fn finished(&self, ids: &[PredictionId]) -> Result<Vec<PredictionId>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        on_backend!(self, backend => backend.finished(ids).await)
    }

    /// How many predictions of the same stream go before this waiting one, counted up to `bound`.
    pub async fn position(&self, id: PredictionId, bound: u32) -> Result<Option<u64>, StoreError> {
        on_backend!(self, backend => backend.position(id, bound).await)
    }

    /// One page, newest first.
    pub async fn list(
        &self,
        tenant: &str,
        filter: &ListFilter,
        cursor: Option<Cursor>,
        limit: u32,
    ) -> Result<Page, StoreError> {
        on_backend!(self, backend => backend.list(tenant, filter, cursor, limit).await)
    }

    /// Cancels it unless it is terminal. Terminal at once: a running worker's lease ends here and its result will be refused.
    pub async fn cancel(&self, tenant: &str, id: PredictionId) -> Result<CancelResult, StoreError> {
        on_backend!(self, backend => backend.cancel(tenant, id).await)
    }

    /// What waits and runs, per version.
    pub async fn queues(&self) -> Result<Vec<ModelQueue>, StoreError> {
        on_backend!(self, backend => backend.queues().await)
    }

    // ---- models
    /// Says that this worker is alive and serves these; `stale` is its count of refused completions so far.
    /// `host` is for people. Specs are stored once per version; each version is offered once.
    pub async fn publish(&self, worker: WorkerId, host: &str, offers: &[Offer], stale: u64) -> Result<(), StoreError> {
        on_backend!(self, backend => backend.publish(worker, host, offers, stale).await)
    }

    /// Says that this worker serves nothing any more.
    pub async fn withdraw(&self, worker: WorkerId) -> Result<(), StoreError> {
        on_backend!(self, backend => backend.withdraw(worker).await)
    }

    /// Which of these versions have predictions that wait or run, anywhere.
    pub async fn unfinished(&self, versions: &[(ModelName, Version)]) -> Result<Vec<(ModelName, Version)>, StoreError> {
        if versions.is_empty() {
            return Ok(Vec::new());
        }
        on_backend!(self, backend => backend.unfinished(versions).await)
    }

    /// Every version ever published, with how many workers seen within `alive` serve it, newest first per model.
    pub async fn models(&self, alive: Duration) -> Result<Vec<PublishedModel>, StoreError> {
        on_backend!(self, backend => backend.models(alive).await)
    }

    /// The sum of refused completions that workers have reported.
    pub async fn stale_completions(&self) -> Result<u64, StoreError> {
        on_backend!(self, backend => backend.stale_completions().await)
    }

    /// A secret of this installation (32 random bytes), made at the first migration; the API signs cursors with it.
    pub async fn secret(&self) -> Result<[u8; 32], StoreError> {
        on_backend!(self, backend => backend.secret().await)
    }
}
