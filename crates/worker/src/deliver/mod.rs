//! Deliveries: those that are due are claimed, sent to their webhooks, and what became of them is written.
//!
//! One [`deliver`] is one sender. A delivery passes from hand to hand: claimed with a slot of this sender's (`Held`), let
//! through by fairness between origins and between endpoints (`Ready`), signed and sent once its body is made, settled
//! together with others. The slot comes back when the store has said that it is settled, so that a sender holds no more than
//! it has slots, whatever is due and whatever is away. No lease is renewed: an attempt that outlives its own is made again,
//! with the same id.

mod body;
mod claim;
mod memory;
mod secrets;
mod send;
mod sender;
mod settle;
mod sweep;

use std::{sync::Arc, time::Duration};

use futures::FutureExt as _;
use queue::Queue;
use settings::run_beside;
use store::{Store, StoreError};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use webhook::{Guard, Sealer};

use crate::stop::propagate_panic;
use sender::{LEASE, Sender};

/// How a sender delivers.
#[derive(Clone, Debug)]
pub struct DeliveryConfig {
    /// Where webhooks may go.
    pub guard: Guard,
    /// What secrets are encrypted with.
    pub sealer: Sealer,
    /// The most deliveries held at once; at least one.
    pub in_flight: usize,
    /// How long a stopping sender lets attempts finish before it hands their deliveries back.
    pub grace: Duration,
    /// The API's address, without a slash at its end: for the addresses in bodies, which have none without it.
    pub public_url: Option<String>,
}

/// Delivers until `stop`, then drains.
///
/// Dropping the future is like the death of the process: nothing more is written, and what was held waits for its lease to end.
///
/// # Errors
/// When the store refuses this sender at the start (its schema, its lock). A store that is away is waited for, then and later.
///
/// # Panics
/// When a part of the sender panicked.
pub async fn deliver(
    store: Store,
    queue: Queue,
    config: DeliveryConfig,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    let (settled, settled_in) = settle::channel();
    let grace = config.grace;
    let sender = Arc::new(Sender::new(store, queue, config, settled, stop));
    let _over = sender.over.clone().drop_guard();

    if !sweep::first(&sender).await? {
        return Ok(());
    }
    let mut parts = JoinSet::new();
    parts.spawn(settle::settle(Arc::clone(&sender), settled_in));
    parts.spawn(sweep::sweep(Arc::clone(&sender)));
    parts.spawn(claim::hear_due(Arc::clone(&sender)));
    parts.spawn(claim::claim_due(Arc::clone(&sender)));
    parts.spawn(sender.over.clone().run_until_cancelled_owned(sender.queue.clone().watch()).map(drop));
    run_beside(&mut parts, &sender.stop, sender.stop.cancelled()).await;
    drain(&sender, grace).await;
    sender.over.cancel();
    while let Some(ended) = parts.join_next().await {
        propagate_panic(ended);
    }
    Ok(())
}

/// Waits until everything is settled: within the grace what is being attempted, then the rest, handed back.
async fn drain(sender: &Sender, grace: Duration) {
    if timeout(grace, sender.is_idle()).await.is_err() {
        tracing::info!("the grace is over: handing back the deliveries that are still being attempted");
        sender.hand_back.cancel();
        // A store that is away for longer finds the leases ended, and whatever was not written is sent again.
        if timeout(LEASE, sender.is_idle()).await.is_err() {
            tracing::warn!("the store is away: deliveries are left to their leases");
        }
    }
}
