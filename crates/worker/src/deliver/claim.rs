//! Takes what is due: when told, when an attempt ended where there was more, and each second in any case.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use queue::Notice;
use store::{ClaimedDelivery, DeliveryClaim, Line, NextStep, Room, Spare};
use tokio::{
    sync::{OwnedSemaphorePermit, broadcast::error::RecvError},
    time::sleep,
};

use super::{
    send,
    sender::{Held, LEASE, Sender},
};
use crate::{backoff::Backoff, outage::Trouble, refused::Refused};

/// How often the store is asked by somebody who heard of nothing: retries come due, and notices are lost.
const EVERY: Duration = Duration::from_secs(1);

/// How soon a claim that found nothing goes on with the lines that it did not look at.
const UNSEEN_AFTER: Duration = Duration::from_millis(50);

/// What a claim says of what is left, by how soon that matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    /// Nothing that could be taken.
    #[default]
    Nothing,
    /// There may be more where attempts must end first.
    Blocked,
    /// There are lines that were not looked at.
    Unseen,
    /// There may be more that could be taken at once.
    More,
}

/// A look at all lines, in as many claims as that takes.
#[derive(Debug, Default)]
struct Tour {
    /// The last line that was looked at.
    after: Option<Line>,
    /// What the claims so far say.
    left: Left,
}

impl Tour {
    /// Notes what one claim says; answers what is left in all.
    fn note(&mut self, left: Left, looked_to: Option<Line>) -> Left {
        self.after = looked_to;
        self.left = self.left.max(left);
        match self.after {
            Some(_) => left.max(Left::Unseen),
            None => std::mem::take(&mut self.left),
        }
    }

    /// Notes that something fell due: perhaps in a line that this tour has passed, so that the next must not wait.
    fn told(&mut self) {
        if self.after.is_some() {
            self.left = Left::More;
        }
    }
}

/// Listens until the sender is over or the queue has nothing to tell.
pub(super) async fn hear_due(sender: Arc<Sender>) {
    let mut notices = sender.queue.listen();
    while let Some(notice) = sender.over.run_until_cancelled(notices.recv()).await {
        match notice {
            Ok(Notice::DeliveriesDue) | Err(RecvError::Lagged(_)) => sender.due.notify_one(),
            Ok(Notice::Finished(_) | Notice::Canceled(_) | Notice::Asked(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

/// Claims until the sender stops.
pub(super) async fn claim_due(sender: Arc<Sender>) {
    let (mut backoff, mut tour, mut refused) = (Backoff::for_store(), Tour::default(), Refused::default());
    while let Some(slots) = sender.stop.run_until_cancelled(free_slots(&sender)).await {
        let wait = match claim(&sender, slots, &mut tour, &mut refused).await {
            Ok(left) => {
                backoff.reset();
                wait(&sender, left, &mut tour).await
            }
            Err(_) => sender.pause(backoff.next()).await,
        };
        if !wait {
            return;
        }
    }
}

/// Waits for a reason to claim; false when the sender stops.
async fn wait(sender: &Sender, left: Left, tour: &mut Tour) -> bool {
    tokio::select! {
        biased;
        () = sender.stop.cancelled() => false,
        () = sender.freed.notified(), if left == Left::Blocked => true,
        () = sender.due.notified() => {
            tour.told();
            true
        }
        () = sleep(UNSEEN_AFTER), if left == Left::Unseen => true,
        () = sleep(EVERY), if left < Left::Unseen => true,
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

/// Takes as much as there are slots, and begins to send it. `refused`: endpoints.
async fn claim(
    sender: &Arc<Sender>,
    slots: Vec<OwnedSemaphorePermit>,
    tour: &mut Tour,
    refused: &mut Refused<String>,
) -> Result<Left, Trouble> {
    let (mut room, limit) = (sender.room(), slots.len());
    let asked = u32::try_from(limit).unwrap_or(u32::MAX);
    let claimed_at = Instant::now();
    room.endpoints.known.extend(refused.recent(claimed_at).into_iter().map(|endpoint| (endpoint, 0)));
    let call = sender.store.claim_deliveries(sender.id, &room, tour.after.as_ref(), asked, LEASE);
    let DeliveryClaim { claimed, refused: refused_now, looked_to } = sender.ask(call).await?;
    // Others have the turns of those that were refused, at once.
    let left = if refused_now.is_empty() { left(&claimed, &room, limit) } else { Left::More };
    refused.note(refused_now, Instant::now());
    let left = tour.note(left, looked_to);
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

fn left(claimed: &[ClaimedDelivery], room: &Room, limit: usize) -> Left {
    // What is not attempted leaves its receiver as much to spare as it had.
    if claimed.len() == limit || claimed.iter().any(|delivery| delivery.is_disabled) {
        return Left::More;
    }
    let origins = claimed.iter().map(|delivery| delivery.origin.as_str());
    let endpoints = claimed.iter().map(|delivery| delivery.endpoint.as_str());
    let is_blocked =
        is_used_up(&room.origins, origins) || is_used_up(&room.endpoints, endpoints) || is_shared_up(room, claimed);
    if is_blocked { Left::Blocked } else { Left::Nothing }
}

/// Whether one of these has nothing to spare once so many were taken.
fn is_used_up<'a>(spare: &Spare, taken: impl Iterator<Item = &'a str>) -> bool {
    let mut numbers: HashMap<&str, u32> = HashMap::new();
    for name in taken {
        *numbers.entry(name).or_default() += 1;
    }
    // One with nothing to spare was left out, whatever is due there.
    spare.known.values().any(|spare| *spare == 0) || numbers.iter().any(|(name, taken)| *taken >= spare.of(name))
}

/// Whether origins that share their room have used it up.
fn is_shared_up(room: &Room, taken: &[ClaimedDelivery]) -> bool {
    let number = taken.iter().filter(|delivery| room.shared(&delivery.origin).is_some()).count();
    room.others.as_ref().is_some_and(|others| number >= others.spare as usize)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use prediction::{BodyForm, DeliveryId, Event, PredictionId};
    use store::{Others, Sending};
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
        let room = |usual, known: &[(&str, u32)]| {
            let known = known.iter().map(|(name, attempts)| ((*name).to_owned(), *attempts)).collect();
            Spare { known, usual }
        };
        for (origins, known, expected) in [
            (&[][..], &[][..], Left::Nothing),
            (&["a", "b"], &[], Left::Nothing),
            (&["a", "a"], &[], Left::Blocked),
            (&["a"], &[("a", 1)], Left::Blocked),
            (&["a"], &[("a", 2)], Left::Nothing),
            (&["b"], &[("a", 0)], Left::Blocked),
            (&["a", "b", "c"], &[], Left::More),
        ] {
            let by_origin = Room { origins: room(2, known), ..Room::each(9) };
            assert_eq!(left(&of(origins), &by_origin, 3), expected, "{origins:?} {known:?}");
            let known: Vec<_> = known.iter().map(|(name, attempts)| (format!("{name}/"), *attempts)).collect();
            let known: Vec<_> = known.iter().map(|(name, attempts)| (name.as_str(), *attempts)).collect();
            let by_endpoint = Room { endpoints: room(2, &known), ..Room::each(9) };
            assert_eq!(left(&of(origins), &by_endpoint, 3), expected, "{origins:?} {known:?}");
        }
        assert_eq!(left(&[claimed("a", true)], &Room::each(2), 3), Left::More);

        let shared = |spare| {
            let others = Some(Others { spare, well: HashSet::from(["well".to_owned()]) });
            Room { others, ..Room::each(9) }
        };
        for (origins, spare, expected) in [
            (&[][..], 0, Left::Blocked),
            (&["well"], 0, Left::Blocked),
            (&["well"], 1, Left::Nothing),
            (&["well", "well"], 1, Left::Nothing),
            (&["a", "well"], 1, Left::Blocked),
            (&["a", "well"], 2, Left::Nothing),
        ] {
            assert_eq!(left(&of(origins), &shared(spare), 3), expected, "{origins:?} {spare}");
        }
    }

    #[test]
    fn a_tour_goes_on_to_the_last_line_and_remembers_what_it_saw() {
        let line = || Some(Line { origin: "a".to_owned(), endpoint: "a/".to_owned() });
        let mut tour = Tour::default();
        assert_eq!(tour.note(Left::Nothing, None), Left::Nothing);
        assert_eq!(tour.note(Left::Blocked, line()), Left::Unseen);
        assert_eq!(tour.note(Left::Nothing, line()), Left::Unseen);
        assert_eq!((tour.note(Left::Nothing, None), &tour.after), (Left::Blocked, &None));
        assert_eq!(tour.note(Left::More, line()), Left::More);
        assert_eq!(tour.note(Left::Nothing, line()), Left::Unseen);
        assert_eq!(tour.note(Left::Nothing, None), Left::More);
        assert_eq!(tour.note(Left::Nothing, None), Left::Nothing);
        tour.told();
        assert_eq!(tour.note(Left::Nothing, None), Left::Nothing, "a tour begins with it");
        assert_eq!(tour.note(Left::Nothing, line()), Left::Unseen);
        tour.told();
        assert_eq!(tour.note(Left::Nothing, None), Left::More, "it may be behind this tour");
        assert_eq!(tour.note(Left::Nothing, None), Left::Nothing);
    }
}
