//! Deliveries as callers see them: lists, sending again, tests.

use std::time::Duration;

use prediction::{DeliveryId, DeliveryStatus, Event, PredictionId, WorkerId};
use store::{
    ClaimedDelivery, Delivery, DeliveryFilter, Location, NewPrediction, NextStep, PageOf, Place, Room, SweptDeliveries,
    Written,
};

use crate::fixture::{Fixture, LEASE, eventually, new, told, webhook};

on_both!(
    pages_go_both_ways,
    filters_narrow_the_list,
    every_status_can_be_sent_again,
    tests_are_deliveries_of_no_prediction,
    a_line_that_cannot_be_claimed_holds_up_no_other,
);

fn ids(page: &PageOf<Delivery, DeliveryId>) -> Vec<DeliveryId> {
    page.entries.iter().map(|delivery| delivery.id).collect()
}

async fn pages_go_both_ways(fixture: Fixture) {
    let other = NewPrediction { tenant: "other".into(), ..told(&[Event::Completed]) };
    fixture.accept([other.clone()]).await;
    fixture.store.cancel("other", other.id).await.unwrap();
    let mut newest_first = Vec::new();
    for _ in 0..6 {
        let id = fixture.accept([told(&[Event::Output, Event::Completed])]).await[0];
        let run = fixture.store.claim(fixture.worker, &[id], LEASE).await.unwrap().claimed[0].run;
        let (output, metrics) = (crate::fixture::json("1"), store::RunMetrics::default());
        fixture.store.complete(fixture.worker, vec![store::Outcome::Succeeded { run, output, metrics }]).await.unwrap();
        // Those of one prediction are equally old: the later event goes first.
        let both = [Event::Completed, Event::Output].map(|event| DeliveryId { prediction: id, event });
        newest_first.splice(0..0, both);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let list = async |place: Option<Place<DeliveryId>>| {
        fixture.store.deliveries("", &DeliveryFilter::default(), place, 5).await.unwrap()
    };
    let first = list(None).await;
    assert_eq!((ids(&first), first.previous), (newest_first[..5].to_vec(), None));
    let second = list(first.next).await;
    assert_eq!(ids(&second), newest_first[5..10]);
    let third = list(second.next).await;
    assert_eq!((ids(&third), third.next), (newest_first[10..].to_vec(), None));
    let back = list(third.previous).await;
    assert_eq!((ids(&back), back.next), (newest_first[5..10].to_vec(), second.next));
    let front = list(back.previous).await;
    assert_eq!((ids(&front), front.previous), (newest_first[..5].to_vec(), None));
    assert_eq!(fixture.deliveries("other").await, [DeliveryId { prediction: other.id, event: Event::Completed }]);
    assert_eq!(fixture.store.delivery("", fixture.deliveries("other").await[0]).await.unwrap(), None);
}

async fn filters_narrow_the_list(fixture: Fixture) {
    let mut predictions = Vec::new();
    for origin in ["https://a:443", "https://b:443"] {
        let to_origin = || NewPrediction { webhook: Some(webhook(origin, &[Event::Completed])), ..new() };
        predictions.extend(fixture.accept([to_origin(), to_origin()]).await);
    }
    for id in &predictions {
        fixture.store.cancel("", *id).await.unwrap();
    }
    let sent = fixture.send(1, LEASE).await.remove(0);
    fixture.settle(&sent, 200, NextStep::Delivered).await;
    let count =
        async |filter: DeliveryFilter| fixture.store.deliveries("", &filter, None, 10).await.unwrap().entries.len();
    let delivered = sent.sending.id.prediction;
    for prediction in predictions {
        let of_prediction = DeliveryFilter { prediction: Some(prediction), ..DeliveryFilter::default() };
        assert_eq!(count(of_prediction.clone()).await, 1);
        let status = Some(DeliveryStatus::Delivered);
        assert_eq!(count(DeliveryFilter { status, ..of_prediction }).await == 1, prediction == delivered);
    }
    let to_b = DeliveryFilter { endpoint: Some("https://b:443/hook".into()), ..DeliveryFilter::default() };
    assert_eq!(count(to_b.clone()).await, 2);
    let page = fixture.store.deliveries("", &to_b, None, 1).await.unwrap();
    let second = fixture.store.deliveries("", &to_b, page.next, 1).await.unwrap();
    assert!(second.entries.len() == 1 && second.next.is_none() && second.entries != page.entries);
    assert_eq!(count(DeliveryFilter { status: Some(DeliveryStatus::Waiting), ..DeliveryFilter::default() }).await, 3);
    assert_eq!(count(DeliveryFilter { endpoint: Some("https://b:443/hook?to=me".into()), ..to_b }).await, 0);
}

async fn every_status_can_be_sent_again(fixture: Fixture) {
    for status in DeliveryStatus::ALL {
        let id = fixture.accept([told(&[Event::Completed])]).await[0];
        fixture.store.cancel("", id).await.unwrap();
        let held = fixture.send(1, LEASE).await.remove(0);
        let next = match status {
            DeliveryStatus::Waiting => NextStep::Retry { wait: LEASE },
            DeliveryStatus::Sending => NextStep::Retry { wait: Duration::ZERO },
            DeliveryStatus::Delivered => NextStep::Delivered,
            DeliveryStatus::Exhausted => NextStep::Exhausted,
            DeliveryStatus::Disabled => NextStep::Gone,
        };
        assert_eq!(fixture.settle(&held, 500, next).await, Written::Applied);
        let again = |held: &ClaimedDelivery| held.sending.id == DeliveryId { prediction: id, event: Event::Completed };
        if status == DeliveryStatus::Sending {
            let resent = eventually(async || fixture.send(1, LEASE).await.pop()).await;
            let found = fixture.store.redeliver("", held.sending.id).await.unwrap().unwrap();
            assert_eq!(found.status, DeliveryStatus::Sending);
            assert!(fixture.send(1, LEASE).await.is_empty());
            assert_eq!(fixture.settle(&resent, 200, NextStep::Delivered).await, Written::Applied, "still its sender's");
            continue;
        }
        assert!(fixture.send(1, LEASE).await.is_empty(), "{status:?}");
        assert_eq!(fixture.store.redeliver("other", held.sending.id).await.unwrap(), None);
        let found = fixture.store.redeliver("", held.sending.id).await.unwrap().unwrap();
        assert_eq!((found.status, found.attempts, found.completed_at), (DeliveryStatus::Waiting, 1, None));
        assert!(found.due_at.unwrap() <= fixture.store.now().await.unwrap());
        // The word of the round before is heard no more.
        assert_eq!(fixture.settle(&held, 500, NextStep::Exhausted).await, Written::Stale);
        let resent = fixture.send(1, LEASE).await.remove(0);
        let goes_on = status == DeliveryStatus::Waiting;
        assert_eq!((again(&resent), resent.round), (true, u32::from(goes_on)), "{status:?}");
        assert_eq!(resent.sending.epoch, if goes_on { 2 } else { 3 });
        assert_eq!(fixture.settle(&resent, 200, NextStep::Delivered).await, Written::Applied);
        let attempts = fixture.store.delivery_attempts("", held.sending.id, None, 10).await.unwrap();
        assert_eq!(attempts.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [2, 1]);
    }
    let unknown = DeliveryId { prediction: PredictionId::generate(), event: Event::Completed };
    assert_eq!(fixture.store.redeliver("", unknown).await.unwrap(), None);

    // A new round has all its time again.
    let given_up = fixture.deliveries("").await[0];
    let long_ago = match fixture.location {
        Location::Postgres { .. } => "begun_at - interval '25 hours'",
        Location::Sqlite { .. } => "begun_at - 90000000000",
    };
    fixture.execute(format!("UPDATE deliveries SET begun_at = {long_ago}")).await.unwrap();
    fixture.store.redeliver("", given_up).await.unwrap();
    let swept = fixture.store.sweep_deliveries(LEASE, 10).await.unwrap();
    assert_eq!(swept, SweptDeliveries::default());
}

async fn tests_are_deliveries_of_no_prediction(fixture: Fixture) {
    let hook = webhook("https://example.com:443", &[]);
    let id = PredictionId::generate();
    let added = fixture.store.add_test("other", id, &hook).await.unwrap();
    assert_eq!(added.id, DeliveryId { prediction: id, event: Event::Test });
    assert_eq!((&added.url, &added.endpoint, added.status), (&hook.url, &hook.endpoint, DeliveryStatus::Waiting));
    assert_eq!(fixture.store.add_test("other", id, &hook).await.unwrap(), added, "asked again, it is the same");
    assert!(fixture.deliveries("").await.is_empty());
    let sent = fixture.send(1, LEASE).await.remove(0);
    assert_eq!((sent.sending.id, sent.payload_bytes, &*sent.tenant), (added.id, 0, "other"));
    fixture.store.purge(Duration::ZERO, 10).await.unwrap();
    assert_eq!(fixture.settle(&sent, 200, NextStep::Delivered).await, Written::Applied);
    assert_eq!(fixture.store.purge(LEASE, 10).await.unwrap().tests, 0);
    eventually(async || (fixture.store.purge(Duration::ZERO, 10).await.unwrap().tests == 1).then_some(())).await;
    for table in ["deliveries", "delivery_attempts"] {
        assert_eq!(fixture.number(format!("SELECT count(*) FROM {table}")).await, 0, "{table}");
    }
}

async fn a_line_that_cannot_be_claimed_holds_up_no_other(fixture: Fixture) {
    let origin = |number: usize| format!("https://{number}:443");
    for number in 0..9 {
        let hook = webhook(&origin(number), &[Event::Completed]);
        let ids = fixture.accept([NewPrediction { webhook: Some(hook), ..new() }]).await;
        fixture.store.cancel("", ids[0]).await.unwrap();
    }
    fixture.refuse("UPDATE", "deliveries", &format!("NEW.origin = '{}'", origin(4))).await;
    let origins = |sent: Vec<ClaimedDelivery>| {
        let mut origins: Vec<_> = sent.into_iter().map(|delivery| delivery.origin).collect();
        origins.sort();
        origins
    };
    let innocent: Vec<_> = (0..9).filter(|number| *number != 4).map(origin).collect();
    assert_eq!(origins(fixture.send(100, LEASE).await), innocent);
    let room = Room::each(16);
    let claim = fixture.store.claim_deliveries(WorkerId::generate(), &room, None, 100, LEASE).await.unwrap();
    assert!(claim.claimed.is_empty(), "the guilty one alone is no error either");
    assert_eq!(claim.refused, [webhook(&origin(4), &[]).endpoint]);
}
