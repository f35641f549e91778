//! Takes what is due: when told, when an attempt ended where there was more, and each second in any case.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use queue::Notice;
use store::{ClaimedDelivery, NextStep, Spare};
use tokio::{
    sync::{OwnedSemaphorePermit, broadcast::error::RecvError},
    time::sleep,
};

use super::{
    send,
    sender::{Held, LEASE, Sender},
};
use crate::{backoff::Backoff, outage::Trouble};

/// How often the store is asked by somebody who heard of nothing: retries come due, and notices are lost.
const EVERY: Duration = Duration::from_secs(1);

/// What a claim says of what is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// There may be more that could be taken at once.
    More,
    /// There may be more where attempts must end first.
    Blocked,
    /// Nothing that could be taken.
    Nothing,
}

/// Listens until the sender is over or the queue has nothing to tell.
pub(super) async fn hear_due(sender: Arc<Sender>) {
    let mut notices = sender.queue.listen();
    while let Some(notice) = sender.over.run_until_cancelled(notices.recv()).await {
        match notice {
            Ok(Notice::DeliveriesDue) | Err(RecvError::Lagged(_)) => sender.due.notify_one(),
            Ok(Notice::Finished(_) | Notice::Canceled(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

/// Claims until the sender stops.
pub(super) async fn claim_due(sender: Arc<Sender>) {
    let mut backoff = Backoff::for_store();
    while let Some(slots) = sender.stop.run_until_cancelled(free_slots(&sender)).await {
        let wait = match claim(&sender, slots).await {
            Ok(left) => {
                backoff.reset();
                wait(&sender, left).await
            }
            Err(_) => sender.pause(backoff.next()).await,
        };
        if !wait {
            return;
        }
    }
}

/// Waits for a reason to claim; false when the sender stops.
async fn wait(sender: &Sender, left: Left) -> bool {
    tokio::select! {
        biased;
        () = sender.stop.cancelled() => false,
        () = sender.freed.notified(), if left == Left::Blocked => true,
        () = sender.due.notified() => true,
        () = sleep(EVERY), if left != Left::More => true,
        () = std::future::ready(()), if left == Left::More => true,
    }
}

/// Every slot that is free; waits for one.
async fn free_slots(sender: &Sender) -> Vec<OwnedSemaphorePermit> {
    let mut slots: Vec<_> = Arc::clone(&sender.slots).acquire_owned().await.into_iter().collect();
    while let Ok(slot) = Arc::clone(&sender.slots).try_acquire_owned() {
        slots.push(slot);
    }
    slots
}

/// Takes as much as there are slots, and begins to send it.
async fn claim(sender: &Arc<Sender>, slots: Vec<OwnedSemaphorePermit>) -> Result<Left, Trouble> {
    let (spare, limit) = (sender.spare(), slots.len());
    let asked = u32::try_from(limit).unwrap_or(u32::MAX);
    let claimed_at = Instant::now();
    let call = sender.store.claim_deliveries(sender.id, &spare, sender.usual_spare, asked, LEASE);
    let claimed = sender.ask(call).await?;
    let left = left(&claimed, &spare, sender.usual_spare, limit);
    let mut ready = Vec::with_capacity(claimed.len());
    for (delivery, slot) in claimed.into_iter().zip(slots) {
        let held = Held::new(delivery, slot, claimed_at);
        if held.delivery.is_disabled {
            held.settle(sender, None, NextStep::Disabled);
        } else {
            ready.extend(sender.admit(held));
        }
    }
    if !ready.is_empty() {
        sender.spawn(send::send_all(Arc::clone(sender), ready));
    }
    Ok(left)
}

fn left(claimed: &[ClaimedDelivery], spare: &[Spare], usual_spare: u32, limit: usize) -> Left {
    // What is not attempted leaves its origin as much to spare as it had.
    if claimed.len() == limit || claimed.iter().any(|delivery| delivery.is_disabled) {
        return Left::More;
    }
    let spare: HashMap<&str, u32> = spare.iter().map(|spare| (spare.origin.as_str(), spare.attempts)).collect();
    let mut taken: HashMap<&str, u32> = HashMap::new();
    for delivery in claimed {
        *taken.entry(&delivery.origin).or_default() += 1;
    }
    // An origin with nothing to spare was left out, whatever is due there.
    let is_blocked = spare.values().any(|spare| *spare == 0)
        || taken.iter().any(|(origin, taken)| taken >= spare.get(origin).unwrap_or(&usual_spare));
    if is_blocked { Left::Blocked } else { Left::Nothing }
}

#[cfg(test)]
mod tests {
    use prediction::{BodyForm, DeliveryId, Event, PredictionId};
    use store::Sending;
    use time::OffsetDateTime;

    use super::*;

    fn claimed(origin: &str, is_disabled: bool) -> ClaimedDelivery {
        let id = DeliveryId { prediction: PredictionId::generate(), event: Event::Completed };
        ClaimedDelivery {
            sending: Sending { id, epoch: 1 },
            tenant: String::new(),
            url: format!("{origin}/"),
            endpoint: format!("{origin}/"),
            origin: origin.to_owned(),
            round: 0,
            claimed_at: OffsetDateTime::UNIX_EPOCH,
            created_at: OffsetDateTime::UNIX_EPOCH,
            body: BodyForm::Prediction,
            is_disabled,
            payload_bytes: 0,
        }
    }

    #[test]
    fn a_claim_says_whether_there_may_be_more() {
        let of = |origins: &[&str]| -> Vec<_> { origins.iter().map(|origin| claimed(origin, false)).collect() };
        let spare = |attempts| [Spare { origin: "a".to_owned(), attempts }];
        for (origins, spare, expected) in [
            (&[][..], &[][..], Left::Nothing),
            (&["a", "b"], &[], Left::Nothing),
            (&["a", "a"], &[], Left::Blocked),
            (&["a"], &spare(1), Left::Blocked),
            (&["a"], &spare(2), Left::Nothing),
            (&["b"], &spare(0), Left::Blocked),
            (&["a", "b", "c"], &[], Left::More),
        ] {
            assert_eq!(left(&of(origins), spare, 2, 3), expected, "{origins:?} {spare:?}");
        }
        assert_eq!(left(&[claimed("a", true)], &[], 2, 3), Left::More);
    }
}
