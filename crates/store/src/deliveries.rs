//! The calls on deliveries, endpoints and their secrets.

use std::time::Duration;

use prediction::{BodyForm, DeliveryId, Prediction, PredictionId, WorkerId};
use uuid::Uuid;

use crate::{
    Backend, Delivery, DeliveryClaim, DeliveryFilter, Endpoint, EndpointChange, Line, PageOf, Place, Room,
    SealedSecret, Settled, Store, StoreError, SweptDeliveries, Webhook, Written, apart::among, webhooks::Attempt,
};

/// # Errors
/// As with every call on the store.
impl Store {
    // ---- deliveries
    /// Takes deliveries that are due under a lease: at each origin and each endpoint at most what `room` has for it, and at
    /// most `limit` in all, evenly from the origins, from the endpoints of each in turn, and to each the longest due. It looks
    /// at some hundreds of lines, those behind `after`; without that, the first ones.
    pub async fn claim_deliveries(
        &self,
        sender: WorkerId,
        room: &Room,
        after: Option<&Line>,
        limit: u32,
        lease: Duration,
    ) -> Result<DeliveryClaim, StoreError> {
        on_backend!(self, backend => backend.claim_deliveries(sender, room, after, limit, lease).await)
    }

    /// Writes what became of deliveries, each with its attempt; one answer per item, in order: [`Written::Stale`] when the
    /// fence refused it, and then nothing of it was written.
    pub async fn settle_deliveries(&self, settled: &[Settled]) -> Result<Vec<Written>, StoreError> {
        if settled.is_empty() {
            return Ok(Vec::new());
        }
        on_backend!(self, backend => backend.settle_deliveries(settled).await)
    }

    /// Makes deliveries wait again whose sender's lease ended, and gives up those that wait since longer than `longest` in
    /// the present round; at most `limit` of each. What the database refuses to change stays as it is, and with it all deliveries of its
    /// prediction.
    pub async fn sweep_deliveries(&self, longest: Duration, limit: u32) -> Result<SweptDeliveries, StoreError> {
        let call = async |ids: Option<Vec<PredictionId>>| on_backend!(self, backend => backend.sweep_deliveries(longest, limit, ids.as_deref()).await);
        let over = async { on_backend!(self, backend => backend.over_deliveries(longest, limit).await) };
        let (swept, _) = among(call, over, "deliveries of it are over, but cannot be swept").await?;
        Ok(SweptDeliveries {
            requeued: swept.iter().map(|swept| swept.requeued).sum(),
            exhausted: swept.iter().map(|swept| swept.exhausted).sum(),
        })
    }

    /// The predictions among `ids` that exist, whosever they are, in no particular order: what deliveries are made of.
    pub async fn predictions(&self, ids: &[PredictionId]) -> Result<Vec<Prediction>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        on_backend!(self, backend => backend.predictions(ids).await)
    }

    /// One page of the tenant's deliveries, newest first.
    pub async fn deliveries(
        &self,
        tenant: &str,
        filter: &DeliveryFilter,
        place: Option<Place<DeliveryId>>,
        limit: u32,
    ) -> Result<PageOf<Delivery, DeliveryId>, StoreError> {
        on_backend!(self, backend => backend.deliveries(tenant, filter, place, limit).await)
    }

    /// One of the tenant's deliveries.
    pub async fn delivery(&self, tenant: &str, id: DeliveryId) -> Result<Option<Delivery>, StoreError> {
        on_backend!(self, backend => backend.delivery(tenant, id).await)
    }

    /// Attempts of one of the tenant's deliveries, with their numbers, the latest first; only those before number `before`, at
    /// most `limit`.
    pub async fn delivery_attempts(
        &self,
        tenant: &str,
        id: DeliveryId,
        before: Option<u32>,
        limit: u32,
    ) -> Result<Vec<(u32, Attempt)>, StoreError> {
        on_backend!(self, backend => backend.delivery_attempts(tenant, id, before, limit).await)
    }

    /// Sends a delivery again: one that is over begins another round of attempts, one that waits is due now, one that is
    /// being sent stays as it is. An event that was not asked for, but has happened, is not delivered.
    pub async fn redeliver(&self, tenant: &str, id: DeliveryId) -> Result<Option<Delivery>, StoreError> {
        on_backend!(self, backend => backend.redeliver(tenant, id).await)
    }

    /// Adds a delivery of [`Event::Test`](prediction::Event::Test), under an id that no prediction has.
    pub async fn add_test(&self, tenant: &str, id: PredictionId, webhook: &Webhook) -> Result<Delivery, StoreError> {
        on_backend!(self, backend => backend.add_test(tenant, id, webhook).await)
    }

    // ---- endpoints and their secrets
    /// One page of what is remembered of the tenant's endpoints, newest first.
    pub async fn endpoints(
        &self,
        tenant: &str,
        place: Option<Place<Uuid>>,
        limit: u32,
    ) -> Result<PageOf<Endpoint, Uuid>, StoreError> {
        on_backend!(self, backend => backend.endpoints(tenant, place, limit).await)
    }

    /// What is remembered of one of the tenant's endpoints.
    pub async fn endpoint(&self, tenant: &str, id: Uuid) -> Result<Option<Endpoint>, StoreError> {
        on_backend!(self, backend => backend.endpoint(tenant, id).await)
    }

    /// Remembers an endpoint by this URL (without a query), unless it is remembered already; says whether it is new.
    pub async fn add_endpoint(&self, tenant: &str, url: &str, body: BodyForm) -> Result<(Endpoint, bool), StoreError> {
        on_backend!(self, backend => backend.add_endpoint(tenant, url, body).await)
    }

    /// Changes what is remembered of an endpoint. Deliveries that were given up stay so.
    pub async fn change_endpoint(
        &self,
        tenant: &str,
        id: Uuid,
        change: EndpointChange,
    ) -> Result<Option<Endpoint>, StoreError> {
        on_backend!(self, backend => backend.change_endpoint(tenant, id, change).await)
    }

    /// Forgets an endpoint and its own secrets; says whether it was remembered.
    pub async fn forget_endpoint(&self, tenant: &str, id: Uuid) -> Result<bool, StoreError> {
        on_backend!(self, backend => backend.forget_endpoint(tenant, id).await)
    }

    /// The secrets that sign for these endpoints of these tenants now, the current one of each first. An endpoint without one
    /// of its own is absent from the answer; the empty endpoint names a tenant's default.
    pub async fn secrets(&self, of: &[(&str, &str)]) -> Result<Vec<SealedSecret>, StoreError> {
        if of.is_empty() {
            return Ok(Vec::new());
        }
        on_backend!(self, backend => backend.secrets(of).await)
    }

    /// Stores an endpoint's first secret; false when it has one already.
    pub async fn add_secret(&self, tenant: &str, endpoint: &str, sealed: &[u8]) -> Result<bool, StoreError> {
        on_backend!(self, backend => backend.add_secret(tenant, endpoint, sealed).await)
    }

    /// Puts a new secret in the place of the endpoint's current one, which goes on signing beside it for `grace`, as do
    /// those replaced earlier, unless their own grace ends sooner. An endpoint that had none of its own gets `instead` as
    /// the one that goes on signing.
    pub async fn rotate_secret(
        &self,
        tenant: &str,
        endpoint: &str,
        sealed: &[u8],
        instead: Option<&[u8]>,
        grace: Duration,
    ) -> Result<(), StoreError> {
        on_backend!(self, backend => backend.rotate_secret(tenant, endpoint, sealed, instead, grace).await)
    }
}
