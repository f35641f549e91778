//! The database itself refuses what deliveries may not become, whoever asks.

use prediction::{DeliveryId, DeliveryStatus, Event, PredictionId};
use store::{NextStep, Written};

use crate::fixture::{Fixture, LEASE, told};

on_both!(illegal_changes_are_refused, every_pair_of_statuses_is_an_edge_or_refused, illegal_rows_are_refused);

/// One delivery, waiting.
async fn waiting(fixture: &Fixture) -> PredictionId {
    let id = fixture.accept([told(&[Event::Completed])]).await[0];
    fixture.store.cancel("", id).await.unwrap();
    id
}

/// One delivery that is being sent.
async fn sending(fixture: &Fixture) -> PredictionId {
    let id = waiting(fixture).await;
    let sent = fixture.send(1, LEASE).await.remove(0);
    assert_eq!(sent.sending.id, DeliveryId { prediction: id, event: Event::Completed });
    id
}

async fn illegal_changes_are_refused(fixture: Fixture) {
    let delivered = waiting(&fixture).await;
    let sent = fixture.send(1, LEASE).await.remove(0);
    assert_eq!(fixture.settle(&sent, 200, NextStep::Delivered).await, Written::Applied);
    let held = sending(&fixture).await;
    let waits = waiting(&fixture).await;
    let refused = [
        // Constraints on a row.
        (waits, "status = 5, completed_at = created_at"),
        (waits, "event = 5"),
        (waits, "sender = prediction_id"),
        (waits, "lease_until = created_at"),
        (waits, "completed_at = created_at"),
        (waits, "round = 1"),
        (waits, "attempts = -1"),
        (waits, "status = 3"),
        (waits, "status = 1, epoch = epoch + 1"),
        (held, "sender = NULL"),
        (held, "lease_until = NULL"),
        (held, "status = 0"),
        (held, "status = 2, sender = NULL, lease_until = NULL, completed_at = created_at"),
        // Rules about a change.
        (waits, "status = 2, completed_at = created_at, attempts = 1, round = 1"),
        (waits, "status = 4, completed_at = created_at"),
        (waits, "status = 1, sender = prediction_id, lease_until = created_at"),
        (held, "epoch = epoch - 1"),
        (delivered, "status = 0, completed_at = NULL"),
        (delivered, "status = 3, epoch = epoch + 1"),
        (delivered, "epoch = epoch + 1"),
        (delivered, "attempts = attempts + 1"),
        (delivered, "completed_at = created_at"),
        (delivered, "status = 0, completed_at = NULL, epoch = epoch + 1, attempts = 0, round = 0"),
    ];
    for (id, change) in refused {
        let sql = format!("UPDATE deliveries SET {change} WHERE prediction_id = {}", fixture.id(id));
        assert!(fixture.execute(&sql).await.is_err(), "not refused: {sql}");
    }
    for id in [waits, held] {
        let sql = format!("DELETE FROM deliveries WHERE prediction_id = {}", fixture.id(id));
        assert!(fixture.execute(&sql).await.is_err(), "not refused: {sql}");
    }
    assert!(fixture.execute("UPDATE delivery_attempts SET latency = 0").await.is_err());
    // What the refusals left: exactly what was there, and room for what is legal.
    let again = "UPDATE deliveries SET status = 0, completed_at = NULL, epoch = epoch + 1, round = 0 WHERE status = 2";
    assert_eq!(fixture.execute(again).await.unwrap(), 1);
    assert_eq!(fixture.number("SELECT sum(status) FROM deliveries").await, 1);
}

async fn every_pair_of_statuses_is_an_edge_or_refused(fixture: Fixture) {
    use DeliveryStatus::{Delivered, Disabled, Exhausted, Sending, Waiting};
    let edges = [
        (Waiting, Sending),
        (Waiting, Exhausted),
        (Sending, Waiting),
        (Sending, Delivered),
        (Sending, Exhausted),
        (Sending, Disabled),
        (Delivered, Waiting),
        (Exhausted, Waiting),
        (Disabled, Waiting),
    ];
    for from in DeliveryStatus::ALL {
        for to in DeliveryStatus::ALL {
            let id = waiting(&fixture).await;
            let row = fixture.id(id);
            let change_to = |status: DeliveryStatus| {
                let held = if status == Sending { "prediction_id, created_at" } else { "NULL, NULL" };
                let (sender, lease) = held.split_once(", ").unwrap();
                let end = if status.is_over() { "created_at" } else { "NULL" };
                format!(
                    "UPDATE deliveries SET status = {}, epoch = epoch + 1, attempts = 1, round = 1, sender = {sender},
                     lease_until = {lease}, completed_at = {end} WHERE prediction_id = {row}",
                    status.code()
                )
            };
            if from != Waiting {
                fixture.execute(change_to(Sending)).await.unwrap();
            }
            if from.is_over() {
                fixture.execute(change_to(from)).await.unwrap();
            }
            if from != to {
                let is_edge = edges.contains(&(from, to));
                assert_eq!(fixture.execute(change_to(to)).await.is_ok(), is_edge, "{from:?} to {to:?}");
            }
        }
    }
}

async fn illegal_rows_are_refused(fixture: Fixture) {
    let id = sending(&fixture).await;
    let row = fixture.id(id);
    let other = fixture.id(PredictionId::generate());
    let copy = |changed: &str| {
        format!(
            "INSERT INTO deliveries (prediction_id, event, tenant, url, endpoint, origin, created_at, due_at, begun_at,
                                     status, epoch, attempts, sender, lease_until)
             SELECT {changed} FROM deliveries WHERE prediction_id = {row}"
        )
    };
    let rest = "tenant, url, endpoint, origin, created_at, due_at, begun_at";
    let attempt = |attempt: i32, status: &str, answer: &str, error: &str, message: &str| {
        format!(
            "INSERT INTO delivery_attempts (prediction_id, event, attempt, at, latency, status, answer, error, message)
             SELECT prediction_id, event, {attempt}, created_at, 1, {status}, {answer}, {error}, {message}
             FROM deliveries WHERE prediction_id = {row}"
        )
    };
    let prediction = format!("WHERE id = {row}");
    let refused = [
        copy(&format!("prediction_id, 4, {rest}, 0, 0, 0, NULL, NULL")),
        copy(&format!("{other}, 5, {rest}, 0, 0, 0, NULL, NULL")),
        copy(&format!("{other}, 4, {rest}, 1, 0, 0, sender, lease_until")),
        copy(&format!("{other}, 4, {rest}, 0, 1, 0, NULL, NULL")),
        copy(&format!("{other}, 4, {rest}, 0, 0, 1, NULL, NULL")),
        attempt(0, "200", "NULL", "NULL", "NULL"),
        attempt(1, "NULL", "NULL", "NULL", "NULL"),
        attempt(1, "200", "NULL", "'timeout'", "'none'"),
        attempt(1, "NULL", "NULL", "'timeout'", "NULL"),
        attempt(1, "NULL", "prediction_id", "'timeout'", "'none'"),
        format!("UPDATE predictions SET webhook_events = 1 {prediction}"),
        format!("UPDATE predictions SET webhook_events = 32 {prediction}"),
        "UPDATE inputs SET webhook_url = NULL".to_owned(),
        "UPDATE inputs SET webhook_origin = NULL".to_owned(),
        format!(
            "INSERT INTO endpoints (id, tenant, url, created_at) SELECT {other}, '', '', created_at FROM deliveries"
        ),
        format!(
            "INSERT INTO endpoints (id, tenant, url, body, created_at) SELECT {other}, '', 'x', 2, created_at FROM deliveries"
        ),
    ];
    for sql in refused {
        assert!(fixture.execute(&sql).await.is_err(), "not refused: {sql}");
    }
    for legal in [
        copy(&format!("{other}, 4, {rest}, 0, 0, 0, NULL, NULL")),
        attempt(1, "200", "NULL", "NULL", "NULL"),
        attempt(2, "NULL", "NULL", "'timeout'", "'none'"),
    ] {
        assert_eq!(fixture.execute(&legal).await.unwrap(), 1, "{legal}");
    }
    let secret = "INSERT INTO webhook_secrets (tenant, endpoint, sealed, created_at)
                  SELECT '', '', prediction_id, created_at FROM deliveries WHERE event = 4 AND status = 1";
    let secret = if matches!(fixture.location, store::Location::Postgres { .. }) {
        secret.replace("prediction_id", "uuid_send(prediction_id)")
    } else {
        secret.to_owned()
    };
    assert_eq!(fixture.execute(&secret).await.unwrap(), 1);
    assert!(fixture.execute(&secret).await.is_err(), "a second current secret");
}
