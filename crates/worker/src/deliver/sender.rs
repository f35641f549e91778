//! What all parts of one sender share, and what it holds.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use prediction::WorkerId;
use queue::Queue;
use store::{Attempt, ClaimedDelivery, NextStep, Others, Room, Settled, Spare, Store, StoreError};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc::UnboundedSender};
use tokio_util::sync::CancellationToken;
use webhook::{Deliverer, EndpointLimits, Fairness, Health, Limits, Permit, Sealer, Tls};

use super::{DeliveryConfig, memory::Memory, settle::Item};
use crate::{
    outage::{Outage, Trouble},
    sparingly::Sparingly,
};

/// How long a delivery is held: an attempt ends within 15 s, and the rest is for what goes before and after it.
pub(super) const LEASE: Duration = Duration::from_secs(20);

/// How much of a lease must be left for an attempt to be worth it: its whole time, and some to write what became of it.
const NEEDED: Duration = Duration::from_secs(16);

/// The most attempts in flight at one origin, whatever its paths: room for several endpoints, and not for all slots when a
/// dead one has a path for each job.
const AT_ORIGIN: usize = 64;

/// Of so many slots, one is for origins not found well of late: the rest is room for those that were, whatever many unheard-of
/// hosts do that never answer.
const OTHERS: usize = 2;

/// Secrets that cannot be read are logged this often.
const UNREADABLE_EVERY: Duration = Duration::from_secs(60);

/// One sender.
pub(super) struct Sender {
    pub(super) id: WorkerId,
    pub(super) store: Store,
    pub(super) queue: Queue,
    pub(super) deliverer: Deliverer,
    pub(super) sealer: Sealer,
    pub(super) public_url: Option<String>,
    /// Between origins, which are ill when they do not answer at all.
    origins: Bounds,
    /// Between endpoints, which are ill too when their answers say so.
    endpoints: Bounds,
    /// One permit for each delivery held.
    pub(super) slots: Arc<Semaphore>,
    all_slots: u32,
    pub(super) memory: Memory,
    settled: UnboundedSender<Item>,
    outage: Outage,
    pub(super) unreadable: Sparingly,
    /// Something may be due.
    pub(super) due: Notify,
    /// A receiver may have one more attempt.
    pub(super) freed: Notify,
    /// Nothing new is taken.
    pub(super) stop: CancellationToken,
    /// The grace is over: what is still being attempted goes back.
    pub(super) hand_back: CancellationToken,
    /// Nothing more is done at all.
    pub(super) over: CancellationToken,
}

/// Who may be tried now, by name, and what one of whom nothing is known may have in flight.
struct Bounds {
    fairness: Fairness<String>,
    usual: usize,
}

/// A delivery that this sender holds, and the slot that it takes.
pub(super) struct Held {
    pub(super) delivery: ClaimedDelivery,
    slot: OwnedSemaphorePermit,
    /// Before the claim was sent.
    claimed_at: Instant,
}

/// A delivery that may be attempted now.
pub(super) struct Ready {
    held: Held,
    of_origin: Permit<String>,
    of_endpoint: Permit<String>,
}

impl Bounds {
    fn new(in_flight: usize, others: usize) -> Self {
        let limits = EndpointLimits { in_flight, others, ..EndpointLimits::default() };
        Self { fairness: Fairness::new(limits), usual: in_flight }
    }

    fn spare(&self, now: Instant) -> Spare {
        let known = self.fairness.spare(now).into_iter().map(|(name, attempts)| (name, number(attempts))).collect();
        Spare { known, usual: number(self.usual) }
    }

    fn others(&self, now: Instant) -> Others {
        let webhook::Others { spare, well } = self.fairness.others(now);
        Others { spare: number(spare), well }
    }
}

fn number(attempts: usize) -> u32 {
    u32::try_from(attempts).unwrap_or(u32::MAX)
}

impl Sender {
    pub(super) fn new(
        store: Store,
        queue: Queue,
        config: DeliveryConfig,
        settled: UnboundedSender<Item>,
        stop: CancellationToken,
    ) -> Self {
        let in_flight = u32::try_from(config.in_flight).unwrap_or(u32::MAX).clamp(1, 1 << 16);
        // However few they are, one dead origin does not take all of them.
        let at_origin = AT_ORIGIN.min(in_flight as usize / 4).max(1);
        Self {
            id: WorkerId::generate(),
            store,
            queue,
            deliverer: Deliverer::new(config.guard, Tls::default(), Limits::default()),
            sealer: config.sealer,
            public_url: config.public_url,
            origins: Bounds::new(at_origin, (in_flight as usize / OTHERS).max(1)),
            endpoints: Bounds::new(EndpointLimits::default().in_flight.min(at_origin), usize::MAX),
            slots: Arc::new(Semaphore::new(in_flight as usize)),
            all_slots: in_flight,
            memory: Memory::default(),
            settled,
            outage: Outage::default(),
            unreadable: Sparingly::new(UNREADABLE_EVERY),
            due: Notify::new(),
            freed: Notify::new(),
            stop,
            hand_back: CancellationToken::new(),
            over: CancellationToken::new(),
        }
    }

    /// Waits for the store's answer, one lease at most: a later one would be of no use.
    pub(super) async fn ask<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, Trouble> {
        self.outage.ask(LEASE, call).await
    }

    /// Notes that a call on the store failed.
    pub(super) fn saw(&self, error: &StoreError) {
        self.outage.saw(error);
    }

    /// Waits; false as soon as the sender stops.
    pub(super) async fn pause(&self, time: Duration) -> bool {
        self.stop.run_until_cancelled(tokio::time::sleep(time)).await.is_some()
    }

    /// Runs a task until everything is over.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let over = self.over.clone();
        tokio::spawn(async move {
            over.run_until_cancelled(task).await;
        });
    }

    /// Returns when nothing is held.
    pub(super) async fn is_idle(&self) {
        // It is never closed.
        let _ = self.slots.acquire_many(self.all_slots).await;
    }

    /// How many more attempts origins and endpoints may have now.
    pub(super) fn room(&self) -> Room {
        let now = Instant::now();
        let others = Some(self.origins.others(now));
        Room { origins: self.origins.spare(now), endpoints: self.endpoints.spare(now), others }
    }

    /// Lets a delivery through to be attempted; it goes back when its receiver has become ill since it was claimed.
    pub(super) fn admit(&self, held: Held) -> Option<Ready> {
        let now = Instant::now();
        let ClaimedDelivery { origin, endpoint, .. } = &held.delivery;
        let permits = self.origins.fairness.try_acquire(origin.clone(), now).and_then(|of_origin| {
            let of_endpoint = self.endpoints.fairness.try_acquire(endpoint.clone(), now)?;
            Ok((of_origin, of_endpoint))
        });
        match permits {
            Ok((of_origin, of_endpoint)) => Some(Ready { held, of_origin, of_endpoint }),
            Err(not_now) => {
                held.hand_back(self, not_now.due.saturating_duration_since(now));
                None
            }
        }
    }
}

impl Held {
    /// `claimed_at`: before the claim was sent.
    pub(super) fn new(delivery: ClaimedDelivery, slot: OwnedSemaphorePermit, claimed_at: Instant) -> Self {
        Self { delivery, slot, claimed_at }
    }

    /// It was not attempted, and is due again after `wait`.
    pub(super) fn hand_back(self, sender: &Sender, wait: Duration) {
        self.settle(sender, None, NextStep::Retry { wait });
    }

    /// Has written what became of it.
    pub(super) fn settle(self, sender: &Sender, attempt: Option<Attempt>, next: NextStep) {
        let settled = Settled { sending: self.delivery.sending, attempt, next };
        // Nothing is written after the end; its lease ends then.
        let _ = sender.settled.send(Item { settled, _slot: self.slot });
    }
}

impl Ready {
    pub(super) fn delivery(&self) -> &ClaimedDelivery {
        &self.held.delivery
    }

    /// Whether its origin had not been found well of late.
    pub(super) fn is_other(&self) -> bool {
        self.of_origin.is_other()
    }

    /// Whether its lease lasts long enough for an attempt: one that outlived it would be made again beside it, and count for
    /// nothing.
    pub(super) fn has_time(&self) -> bool {
        self.held.claimed_at.elapsed() + NEEDED <= LEASE
    }

    /// It was not attempted, and is due again after `wait`.
    pub(super) fn hand_back(self, sender: &Sender, wait: Duration) {
        self.give_up(sender, NextStep::Retry { wait });
    }

    /// It was not attempted; `next` says what follows.
    pub(super) fn give_up(self, sender: &Sender, next: NextStep) {
        drop((self.of_origin, self.of_endpoint));
        sender.freed.notify_one();
        self.held.settle(sender, None, next);
    }

    /// It was attempted, which says how its endpoint is. Its origin is well as long as there is any answer: one path that is
    /// broken says nothing of the others.
    pub(super) fn attempted(self, sender: &Sender, attempt: Attempt, health: Health, next: NextStep) {
        let now = Instant::now();
        let of_origin = if attempt.result.is_ok() { Health::Well } else { Health::Ill };
        self.of_origin.settle(of_origin, now);
        self.of_endpoint.settle(health, now);
        sender.freed.notify_one();
        self.held.settle(sender, Some(attempt), next);
    }
}
