//! What is kept until nobody needs it any more: predictions with their deliveries.

use std::time::Duration;

use prediction::{DeliveryId, DeliveryStatus, Event, PredictionId};
use store::{DeliveryFilter, NewPrediction, NextStep};

use crate::fixture::{Fixture, LEASE, eventually, new, told};

on_both!(predictions_are_kept_for_their_deliveries, one_that_begins_again_keeps_its_prediction);

/// Ends predictions that expire at once and whose caller is told.
async fn expired(fixture: &Fixture, number: usize) -> Vec<PredictionId> {
    let passing = || NewPrediction { retention: Duration::ZERO, ..told(&[Event::Completed]) };
    let ids = fixture.accept((0..number).map(|_| passing())).await;
    for id in &ids {
        fixture.store.cancel("", *id).await.unwrap();
    }
    ids
}

async fn predictions_are_kept_for_their_deliveries(fixture: Fixture) {
    let ids = expired(&fixture, 5).await;
    let untold = fixture.accept([NewPrediction { retention: Duration::ZERO, ..new() }]).await[0];
    fixture.store.cancel("", untold).await.unwrap();
    let kept = fixture.accept([told(&[Event::Completed])]).await[0];
    fixture.store.cancel("", kept).await.unwrap();
    // The unfinished ones at the front are not in the way of those behind them.
    eventually(async || (fixture.store.purge(LEASE, 1).await.unwrap().predictions == 1).then_some(())).await;
    assert!(fixture.store.get("", &[untold]).await.unwrap().is_empty());
    assert_eq!(fixture.store.purge(LEASE, 10).await.unwrap().predictions, 0);

    let held = fixture.send(5, LEASE).await;
    for (delivery, next) in
        held.iter().zip([NextStep::Delivered, NextStep::Exhausted, NextStep::Gone, NextStep::Retry { wait: LEASE }])
    {
        fixture.settle(delivery, 500, next).await;
    }
    assert_eq!(fixture.store.purge(LEASE, 2).await.unwrap().predictions, 2);
    assert_eq!(fixture.store.purge(LEASE, 2).await.unwrap().predictions, 1);
    assert_eq!(fixture.store.purge(LEASE, 2).await.unwrap().predictions, 0);
    let mut left = fixture.store.get("", &ids).await.unwrap();
    left.sort_by_key(|found| found.id);
    // One to be tried again, one being sent.
    let unfinished: Vec<PredictionId> = held[3..].iter().map(|delivery| delivery.sending.id.prediction).collect();
    assert_eq!(left.iter().map(|found| found.id).collect::<Vec<_>>(), unfinished);
    for (table, rows) in
        [("predictions", 3), ("inputs", 3), (fixture.outcomes(), 3), ("deliveries", 3), ("delivery_attempts", 1)]
    {
        assert_eq!(fixture.number(format!("SELECT count(*) FROM {table}")).await, rows, "{table}");
    }
}

/// Purges and redeliveries at the same time: whatever was told to begin again has a prediction to be made of.
async fn one_that_begins_again_keeps_its_prediction(fixture: Fixture) {
    const ORPHANS: &str = "
        SELECT count(*) FROM deliveries WHERE prediction_id NOT IN (SELECT id FROM predictions)";
    for _ in 0..20 {
        let ids = expired(&fixture, 8).await;
        for delivery in fixture.send(1000, LEASE).await {
            fixture.settle(&delivery, 200, NextStep::Delivered).await;
        }
        let (mut again, mut gone) = (0, 0);
        let redeliver = async {
            for prediction in &ids {
                let id = DeliveryId { prediction: *prediction, event: Event::Completed };
                match fixture.store.redeliver("", id).await.unwrap() {
                    Some(found) => {
                        assert_eq!(found.status, DeliveryStatus::Waiting);
                        again += 1;
                    }
                    None => gone += 1,
                }
            }
        };
        let purge = async {
            let mut purged = 0;
            for _ in 0..8 {
                purged += fixture.store.purge(LEASE, 3).await.unwrap().predictions;
            }
            purged
        };
        let ((), purged) = tokio::join!(redeliver, purge);
        assert_eq!((purged, again + gone), (gone, 8));
        assert_eq!(fixture.number(ORPHANS).await, 0);
        let waiting = DeliveryFilter { status: Some(DeliveryStatus::Waiting), ..DeliveryFilter::default() };
        assert_eq!(fixture.store.deliveries("", &waiting, None, 100).await.unwrap().entries.len(), again as usize);
        let given_up = "UPDATE deliveries SET status = 3, completed_at = created_at WHERE status = 0";
        fixture.execute(given_up).await.unwrap();
        fixture.store.purge(LEASE, 1000).await.unwrap();
    }
}
