//! Ends what is over, each second: expired leases go back to waiting, and what has waited too long in all is given up.

use std::{sync::Arc, time::Duration};

use store::{StoreError, SweptDeliveries};

use super::sender::Sender;
use crate::backoff::Backoff;

const EVERY: Duration = Duration::from_secs(1);
/// The pause after the store was away: whatever ended meanwhile is written first.
const AFTER_TROUBLE: Duration = Duration::from_secs(5);
/// The most deliveries of each kind in one statement.
const LIMIT: u32 = 500;
/// A round of attempts is given up after so long, however many were made: an endpoint whose breaker never closes uses up
/// none. The schedule takes 76 hours by itself, and nine times the longest `Retry-After` 9 days; the rest is for the time in
/// which there was no sender.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Sweeps for the first time, however long the store is away; false when the sender is stopped before.
pub(super) async fn first(sender: &Sender) -> Result<bool, StoreError> {
    let mut backoff = Backoff::for_store();
    loop {
        match sender.stop.run_until_cancelled(sender.store.sweep_deliveries(LONGEST, LIMIT)).await {
            None => return Ok(false),
            Some(Ok(_)) => return Ok(true),
            Some(Err(error @ StoreError::Unavailable(_))) => sender.saw(&error),
            Some(Err(error)) => return Err(error),
        }
        if !sender.pause(backoff.next()).await {
            return Ok(false);
        }
    }
}

/// Sweeps until the sender stops.
pub(super) async fn sweep(sender: Arc<Sender>) {
    let mut pause = EVERY;
    while sender.pause(pause).await {
        pause = match sender.ask(sender.store.sweep_deliveries(LONGEST, LIMIT)).await {
            Ok(swept) => {
                note(&sender, swept);
                let more = swept.requeued.max(swept.exhausted) >= u64::from(LIMIT);
                if more { Duration::ZERO } else { EVERY }
            }
            Err(_) => AFTER_TROUBLE,
        };
    }
}

fn note(sender: &Sender, swept: SweptDeliveries) {
    if swept.requeued > 0 {
        tracing::warn!(deliveries = swept.requeued, "leases ended: to be sent again");
        sender.due.notify_one();
    }
    if swept.exhausted > 0 {
        tracing::warn!(deliveries = swept.exhausted, "given up: they have waited too long");
    }
}
