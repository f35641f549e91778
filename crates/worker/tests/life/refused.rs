//! What the database refuses harms nothing else, and is done once it is refused no more.

use std::time::Duration;

use prediction::{DeliveryStatus, PredictionId, Priority, Status};
use queue::Location;
use serde_json::json;

use crate::{
    receiver::Receiver,
    stage::{Stage, digits, new, set, spec_of_digits},
    tickets::seen_by_a_consumer,
};

/// From now on the database refuses to change this column of these predictions.
async fn refuse_to_change(database: &str, column: &str, ids: &[PredictionId]) {
    let ids = ids.iter().map(|id| format!("'{}'", id.0)).collect::<Vec<_>>().join(", ");
    let trigger = format!(
        "CREATE TRIGGER guilty BEFORE UPDATE OF {column} ON predictions FOR EACH ROW WHEN (NEW.id IN ({ids}))
         EXECUTE FUNCTION refuse_change('as the test wants it')"
    );
    servers::execute(database, &trigger).await;
}

/// From now on nobody can take these predictions.
async fn refuse_to_give(database: &str, ids: &[PredictionId]) {
    refuse_to_change(database, "worker", ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prediction_that_cannot_be_claimed_keeps_neither_others_nor_a_slot() {
    let database = servers::database().await;
    let stage = Stage::on_postgres(database.clone(), Location::InProcess).await;
    let ids = stage.send((0..40).map(|n| json!({"value": n})).collect(), |_| {}).await;
    let (guilty, innocent): (Vec<_>, Vec<_>) = ids.iter().partition(|id| **id == ids[17]);
    refuse_to_give(&database, &guilty).await;
    let worker = stage.worker(|config| config.slots = 8).await;
    stage.wait_for(&innocent, Status::Succeeded).await;
    // More than there are slots, one after the other.
    for n in 0..10 {
        let after = stage.send(vec![json!({"value": n})], |_| {}).await;
        stage.wait_for(&after, Status::Succeeded).await;
    }
    assert_eq!(stage.get(&guilty).await[0].status, Status::Starting);
    servers::execute(&database, "DROP TRIGGER guilty ON predictions").await;
    assert_eq!(stage.wait_for(&guilty, Status::Succeeded).await[0].attempt, 1);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_queue_predictions_that_cannot_be_claimed_keep_nobody_behind_them_waiting() {
    let database = servers::database().await;
    let stage = Stage::on_postgres(database.clone(), Location::Absent).await;
    let ids = stage.send((0..60).map(|n| json!({"value": n})).collect(), |_| {}).await;
    let digit = new(&spec_of_digits().await, &json!({"pixels": vec![0; 64]}), |new| new.queued = false);
    let (guilty, innocent) = (&ids[..40], [&ids[40..], &[digit.id]].concat());
    stage.store.accept(vec![digit]).await.unwrap();
    refuse_to_give(&database, guilty).await;
    // The first in line would have the only slot of their version, one after the other.
    let models = inference::Config { enable_echo: true, ..digits() };
    let worker = stage.worker_of(models, |config| config.slots = 1).await;
    stage.wait_for(&innocent, Status::Succeeded).await;
    assert_eq!(stage.get(guilty).await[0].status, Status::Starting);
    servers::execute(&database, "DROP TRIGGER guilty ON predictions").await;
    assert_eq!(stage.wait_for(guilty, Status::Succeeded).await[0].attempt, 1);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prediction_that_cannot_have_a_ticket_keeps_no_other_stream_waiting() {
    let database = servers::database().await;
    let stage = Stage::on_postgres(database.clone(), Location::InProcess).await;
    let of_priority = async |priority| {
        let sent = stage.send(vec![json!({"value": 1})], |new| (new.queued, new.priority) = (false, priority)).await;
        sent[0]
    };
    let guilty = of_priority(Priority::Normal).await;
    let innocent = [of_priority(Priority::Low).await, of_priority(Priority::High).await];
    refuse_to_change(&database, "queued_at", &[guilty]).await;
    // It does not serve echo: it is the dispatcher alone.
    let dispatcher = stage.worker_of(digits(), |_| {}).await;
    seen_by_a_consumer(&stage, &set(&innocent)).await;
    servers::execute(&database, "DROP TRIGGER guilty ON predictions").await;
    seen_by_a_consumer(&stage, &set(&[guilty])).await;
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspect_that_cannot_be_claimed_keeps_no_other_version_waiting() {
    let database = servers::database().await;
    let stage = Stage::on_postgres(database.clone(), Location::InProcess).await;
    let guilty = stage.send(vec![json!({"value": 1})], |_| {}).await;
    let digit = new(&spec_of_digits().await, &json!({"pixels": vec![0; 64]}), |new| new.queued = false);
    let innocent = [digit.id];
    stage.store.accept(vec![digit]).await.unwrap();
    servers::execute(&database, "UPDATE predictions SET suspect = true").await;
    refuse_to_give(&database, &guilty).await;
    let worker = stage.worker_of(inference::Config { enable_echo: true, ..digits() }, |_| {}).await;
    stage.wait_for(&innocent, Status::Succeeded).await;
    assert_eq!(stage.get(&guilty).await[0].status, Status::Starting);
    servers::execute(&database, "DROP TRIGGER guilty ON predictions").await;
    stage.wait_for(&guilty, Status::Succeeded).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_cannot_be_renewed_ends_without_those_of_others() {
    let database = servers::database().await;
    let stage = Stage::on_postgres(database.clone(), Location::InProcess).await;
    let worker = stage.worker(|config| config.lease = Duration::from_secs(3)).await;
    // Half as long again as the lease.
    let ids = stage.send((0..8).map(|_| json!({"value": 1, "sleep_ms": 4500})).collect(), |_| {}).await;
    stage.wait_for(&ids, Status::Processing).await;
    refuse_to_change(&database, "lease_until", &[ids[3]]).await;
    let innocent = [&ids[..3], &ids[4..]].concat();
    let found = stage.wait_for(&innocent, Status::Succeeded).await;
    assert!(found.iter().all(|found| found.attempt == 1), "{found:?}");
    servers::execute(&database, "DROP TRIGGER guilty ON predictions").await;
    stage.wait_for(&ids[3..4], Status::Succeeded).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_that_cannot_be_claimed_takes_nobodys_turn() {
    let database = servers::database().await;
    let stage = Stage::on_postgres(database.clone(), Location::InProcess).await;
    let (receiver, other) = (Receiver::start("200 OK").await, Receiver::start("200 OK").await);
    let guilty = stage.test(&receiver.webhook_at("/guilty")).await;
    let trigger = format!(
        "CREATE TRIGGER guilty BEFORE UPDATE OF sender ON deliveries FOR EACH ROW WHEN (NEW.prediction_id = '{}')
         EXECUTE FUNCTION refuse_change('as the test wants it')",
        guilty.prediction.0
    );
    servers::execute(&database, &trigger).await;
    // One slot, so that the longest due has the only turn; then four, of which an origin has one.
    for (in_flight, webhook) in [(1, other.webhook_at("/")), (4, receiver.webhook_at("/innocent"))] {
        let innocent = stage.test(&webhook).await;
        let sender = stage.sender(|config| config.in_flight = in_flight);
        stage.wait_for_delivery(innocent, DeliveryStatus::Delivered, 1).await;
        sender.stop().await;
    }
    servers::execute(&database, "DROP TRIGGER guilty ON deliveries").await;
    let sender = stage.sender(|_| {});
    stage.wait_for_delivery(guilty, DeliveryStatus::Delivered, 1).await;
    sender.stop().await;
}
