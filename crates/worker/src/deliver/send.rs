//! From a claim to an attempt: secrets and predictions are read for a whole batch, large predictions one by one as there is
//! memory for them, then each delivery is sent once.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use prediction::{DeliveryId, Event, Prediction, PredictionId};
use store::{Answer, Attempt, ClaimedDelivery, NextStep, Unanswered};
use webhook::{ExtraHeader, Failed, Message, MessageId, Refused, Secrets, Verdict, schedule};

use super::{
    body, secrets,
    sender::{Ready, Sender},
};
use crate::outage::Trouble;

/// Predictions with no more than so many bytes of input and output are read together and without asking for memory:
/// as many as there are slots are few bytes.
const SMALL: u64 = 64 * 1024;
/// How long a delivery waits for memory; the lease has little more to spare.
const PATIENCE: Duration = Duration::from_secs(3);
/// When a delivery is due again that could not be attempted for a reason which will pass.
const SOON: Duration = Duration::from_secs(1);
/// When a delivery is due again whose secrets or prediction cannot be read: somebody has to set the right key, or to start a
/// newer program.
const AFTER_UNREADABLE: Duration = Duration::from_secs(60);

/// The header that names the event, for receivers of the bare prediction.
const HEADER_EVENT: &str = "augur-event";
/// The header with the event's place among its prediction's.
const HEADER_SEQUENCE: &str = "augur-sequence";

/// Sends each of these, or hands it back.
pub(super) async fn send_all(sender: Arc<Sender>, batch: Vec<Ready>) {
    let small: Vec<PredictionId> = batch.iter().map(Ready::delivery).filter(|one| is_small(one)).map(about).collect();
    let keyring = secrets::read(&sender, batch.iter().map(Ready::delivery));
    let (Ok(keyring), Ok(read)) = tokio::join!(keyring, read(&sender, &small)) else {
        batch.into_iter().for_each(|ready| ready.hand_back(&sender, SOON));
        return;
    };
    for ready in batch {
        let delivery = ready.delivery();
        let Ok(secrets) = keyring.secrets(delivery) else {
            sender
                .unreadable
                .say(|| tracing::error!("secrets of webhooks cannot be read: they have another webhook key"));
            ready.hand_back(&sender, AFTER_UNREADABLE);
            continue;
        };
        let prediction = match delivery.sending.id.event {
            Event::Test => Some(body::made_up(delivery)),
            _ => read.predictions.get(&about(delivery)).cloned(),
        };
        match prediction {
            Some(prediction) => {
                let body = body::of(delivery, prediction, sender.public_url.as_deref());
                let own = Arc::clone(&sender);
                sender.spawn(async move { attempt(&own, ready, &secrets, body).await });
            }
            None if read.unreadable.contains(&about(delivery)) => ready.hand_back(&sender, AFTER_UNREADABLE),
            None if is_small(delivery) => give_up(&sender, ready),
            None => sender.spawn(send_large(Arc::clone(&sender), ready, secrets)),
        }
    }
}

/// Predictions read for a batch of deliveries.
#[derive(Default)]
struct Read {
    predictions: HashMap<PredictionId, Prediction>,
    /// Those that are there, and that this program cannot make sense of.
    unreadable: HashSet<PredictionId>,
}

/// Reads these; one by one when the store refuses all of them because of some.
async fn read(sender: &Sender, ids: &[PredictionId]) -> Result<Read, Trouble> {
    let by_id = |predictions: Vec<Prediction>| predictions.into_iter().map(|prediction| (prediction.id, prediction));
    match sender.ask(sender.store.predictions(ids)).await {
        Ok(predictions) => Ok(Read { predictions: by_id(predictions).collect(), ..Read::default() }),
        Err(Trouble::Away) => Err(Trouble::Away),
        Err(Trouble::Refused) => {
            let mut read = Read::default();
            for id in ids {
                match sender.ask(sender.store.predictions(&[*id])).await {
                    Ok(predictions) => read.predictions.extend(by_id(predictions)),
                    Err(Trouble::Away) => return Err(Trouble::Away),
                    Err(Trouble::Refused) => {
                        read.unreadable.insert(*id);
                    }
                }
            }
            Ok(read)
        }
    }
}

fn about(delivery: &ClaimedDelivery) -> PredictionId {
    delivery.sending.id.prediction
}

fn is_small(delivery: &ClaimedDelivery) -> bool {
    delivery.payload_bytes <= SMALL
}

/// There is nothing to tell of: somebody removed the prediction and left its deliveries.
fn give_up(sender: &Sender, ready: Ready) {
    tracing::error!(delivery = %ready.delivery().sending.id, "given up: its prediction is not there");
    ready.give_up(sender, NextStep::Exhausted);
}

async fn send_large(sender: Arc<Sender>, ready: Ready, secrets: Arc<Secrets>) {
    let ClaimedDelivery { origin, payload_bytes, .. } = ready.delivery();
    let place = sender.memory.take(origin, ready.is_other(), *payload_bytes, PATIENCE).await;
    let Some(mut place) = place else { return ready.hand_back(&sender, SOON) };
    let id = about(ready.delivery());
    let Ok(mut read) = read(&sender, &[id]).await else { return ready.hand_back(&sender, SOON) };
    if read.unreadable.contains(&id) {
        return ready.hand_back(&sender, AFTER_UNREADABLE);
    }
    let Some(prediction) = read.predictions.remove(&id) else { return give_up(&sender, ready) };
    let body = body::of(ready.delivery(), prediction, sender.public_url.as_deref());
    place.is_made();
    attempt(&sender, ready, &secrets, body).await;
}

/// Sends it once.
async fn attempt(sender: &Sender, ready: Ready, secrets: &Secrets, body: Bytes) {
    if !ready.has_time() {
        return ready.hand_back(sender, SOON);
    }
    let delivery = ready.delivery();
    let id = message_id(delivery.sending.id);
    let message = Message {
        url: &delivery.url,
        id: &id,
        timestamp: delivery.claimed_at.unix_timestamp(),
        body,
        secrets,
        headers: &headers(delivery.sending.id.event),
    };
    let attempt = tokio::select! {
        biased;
        () = sender.hand_back.cancelled() => return ready.hand_back(sender, Duration::ZERO),
        attempt = sender.deliverer.attempt(&message) => attempt,
    };
    if attempt.outcome.as_ref().is_err_and(Failed::is_ours) {
        return ready.hand_back(sender, SOON);
    }
    let (next, health) = (next_step(delivery, &id, &attempt), attempt.health());
    tracing::debug!(delivery = %id, ?next, "attempted");
    let record = record(delivery, attempt);
    ready.attempted(sender, record, health, next);
}

fn message_id(id: DeliveryId) -> MessageId {
    id.to_string().parse().expect("ids and events are letters, digits, '-' and '_'")
}

fn headers(event: Event) -> [ExtraHeader; 2] {
    let header = |name, value: &str| ExtraHeader::new(name, value).expect("a good header, and not reserved");
    [header(HEADER_EVENT, event.as_str()), header(HEADER_SEQUENCE, &event.code().to_string())]
}

fn next_step(delivery: &ClaimedDelivery, id: &MessageId, attempt: &webhook::Attempt) -> NextStep {
    let ended_at = delivery.claimed_at + attempt.latency;
    match attempt.verdict(ended_at.unix_timestamp()) {
        Verdict::Delivered => NextStep::Delivered,
        Verdict::Gone => NextStep::Gone,
        Verdict::Retry { at_least } => {
            let wait = schedule::next_wait(delivery.round.saturating_add(1), schedule::jitter(id), at_least);
            wait.map_or(NextStep::Exhausted, |wait| NextStep::Retry { wait })
        }
    }
}

fn record(delivery: &ClaimedDelivery, attempt: webhook::Attempt) -> Attempt {
    let result = match attempt.outcome {
        Ok(answer) => Ok(Answer { status: answer.status, body: answer.body }),
        Err(failed) => Err(Unanswered { error: failed.as_str().to_owned(), message: message(&failed) }),
    };
    Attempt { at: delivery.claimed_at, latency: attempt.latency, result }
}

/// For the owner of the delivery. Without the address that a host led to: what our name servers answer, who may know more than
/// the public ones, is not for everybody.
fn message(failed: &Failed) -> String {
    match failed {
        Failed::Refused(Refused::Address { special, .. }) => format!("webhooks may not go to {}", special.as_str()),
        _ => failed.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_has_its_headers_and_an_id() {
        for event in Event::ALL {
            let id = DeliveryId { prediction: PredictionId::generate(), event };
            assert_eq!(message_id(id).as_str(), id.to_string());
            assert_eq!(headers(event).len(), 2);
        }
    }
}
