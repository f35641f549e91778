//! The outbox: what callers are told is written with what happened, once.

use std::time::Duration;

use prediction::{DeliveryId, DeliveryStatus, Event, Events, Failure, FailureCode, PredictionId, Status};
use store::{NewPrediction, Outcome, Run, RunMetrics, Written};

use crate::fixture::{Fixture, LEASE, SPENT, SWEEP, eventually, json, new, serves, told, webhook};

on_both!(
    every_way_to_end_is_told,
    the_start_is_told_once,
    only_wanted_events_are_told,
    each_event_is_told_once,
    what_cannot_be_told_does_not_happen,
    a_prediction_shows_its_webhook,
);

/// All that a caller can ask for.
const ALL: [Event; 4] = [Event::Start, Event::Output, Event::Logs, Event::Completed];

fn succeeded(run: Run) -> Outcome {
    Outcome::Succeeded { run, output: json("1"), metrics: RunMetrics::default() }
}

fn failed(run: Run) -> Outcome {
    let failure = Failure::new(FailureCode::ModelError, "it broke");
    Outcome::Failed { run, failure, metrics: RunMetrics::default() }
}

/// Claims this one.
async fn claim(fixture: &Fixture, id: PredictionId, lease: Duration) -> Run {
    let claim = fixture.store.claim(fixture.worker, &[id], lease).await.unwrap();
    claim.claimed.first().expect("it waits").run
}

fn deliveries(prediction: PredictionId, events: &[Event]) -> Vec<DeliveryId> {
    events.iter().map(|event| DeliveryId { prediction, event: *event }).collect()
}

async fn every_way_to_end_is_told(fixture: Fixture) {
    let accept = async |deadline| fixture.accept([NewPrediction { deadline, ..told(&ALL) }]).await[0];
    let mut expected = Vec::new();

    let id = accept(None).await;
    let outcome = succeeded(claim(&fixture, id, LEASE).await);
    assert_eq!(fixture.store.complete(fixture.worker, vec![outcome]).await.unwrap(), [Written::Applied]);
    expected.extend(deliveries(id, &[Event::Start, Event::Output, Event::Completed]));

    let id = accept(None).await;
    let outcome = failed(claim(&fixture, id, LEASE).await);
    assert_eq!(fixture.store.complete(fixture.worker, vec![outcome]).await.unwrap(), [Written::Applied]);
    expected.extend(deliveries(id, &[Event::Start, Event::Completed]));

    let id = accept(None).await;
    fixture.store.cancel("", id).await.unwrap();
    expected.extend(deliveries(id, &[Event::Completed]));

    let id = accept(None).await;
    claim(&fixture, id, LEASE).await;
    fixture.store.cancel("", id).await.unwrap();
    expected.extend(deliveries(id, &[Event::Start, Event::Completed]));

    let waits = accept(Some(SPENT)).await;
    let runs = accept(Some(LEASE)).await;
    claim(&fixture, runs, LEASE).await;
    let over = format!("UPDATE predictions SET deadline_at = created_at WHERE id = {}", fixture.id(runs));
    fixture.execute(over).await.unwrap();
    for id in [waits, runs] {
        let is_over = async || (!fixture.store.finished(&[id]).await.unwrap().is_empty()).then_some(());
        eventually(async || {
            fixture.store.sweep(SWEEP).await.unwrap();
            is_over().await
        })
        .await;
    }
    expected.extend(deliveries(waits, &[Event::Completed]));
    expected.extend(deliveries(runs, &[Event::Start, Event::Completed]));

    let poison = accept(None).await;
    claim(&fixture, poison, SPENT).await;
    eventually(async || {
        fixture.store.sweep(SWEEP).await.unwrap();
        fixture.claim_suspect(SPENT).await;
        (!fixture.store.finished(&[poison]).await.unwrap().is_empty()).then_some(())
    })
    .await;
    expected.extend(deliveries(poison, &[Event::Start, Event::Completed]));

    expected.sort();
    assert_eq!(fixture.deliveries("").await, expected);
    for id in expected {
        let found = fixture.store.delivery("", id).await.unwrap().unwrap();
        let about = fixture.store.get("", &[id.prediction]).await.unwrap().remove(0);
        let happened = if id.event == Event::Start { about.started_at } else { about.completed_at };
        assert_eq!((Some(found.created_at), found.due_at), (happened, happened), "{id}");
        assert_eq!((found.status, found.attempts, found.latest), (DeliveryStatus::Waiting, 0, None));
    }
}

async fn the_start_is_told_once(fixture: Fixture) {
    let id = fixture.accept([told(&ALL)]).await[0];
    let mut first = Vec::new();
    let run = claim(&fixture, id, LEASE).await;
    fixture.store.complete(fixture.worker, vec![Outcome::Released { run }]).await.unwrap();
    for outcome in [|run| Outcome::Retry { run, delay: SPENT }, |run| Outcome::Released { run }] {
        let next = eventually(async || {
            let mut claim = fixture.store.claim_next(fixture.worker, &serves(), &[], 1, LEASE).await.unwrap();
            claim.claimed.pop()
        })
        .await;
        first.push((next.is_first, next.webhook_events));
        assert_eq!(fixture.store.complete(fixture.worker, vec![outcome(next.run)]).await.unwrap(), [Written::Applied]);
    }
    claim(&fixture, id, SPENT).await;
    let alone = eventually(async || {
        fixture.store.sweep(SWEEP).await.unwrap();
        fixture.claim_suspect(LEASE).await
    })
    .await;
    first.push((alone.is_first, alone.webhook_events));
    assert_eq!(first, [(false, ALL.into_iter().collect()); 3]);
    assert_eq!(fixture.deliveries("").await, deliveries(id, &[Event::Start]));

    // Also when it is taken without its id, and said to whoever took it.
    let id = fixture.accept([told(&[Event::Start])]).await[0];
    let claim = fixture.store.claim_next(fixture.worker, &serves(), &[], 1, LEASE).await.unwrap();
    let [claimed] = &claim.claimed[..] else { panic!("{claim:?}") };
    assert_eq!((claimed.run.id, claimed.is_first), (id, true));
    assert_eq!(fixture.store.delivery("", deliveries(id, &ALL)[0]).await.unwrap().unwrap().attempts, 0);
}

async fn only_wanted_events_are_told(fixture: Fixture) {
    let usual: Vec<Event> = Events::USUAL.iter().collect();
    let mut expected = Vec::new();
    for (wanted, told_of) in [
        (&usual[..], &usual[..]),
        (&[Event::Start], &[Event::Start]),
        (&[Event::Output], &[Event::Output]),
        (&[Event::Completed], &[Event::Completed]),
        (&[Event::Logs], &[]),
    ] {
        let id = fixture.accept([told(wanted)]).await[0];
        let run = claim(&fixture, id, LEASE).await;
        fixture.store.complete(fixture.worker, vec![succeeded(run)]).await.unwrap();
        expected.extend(deliveries(id, told_of));
    }
    let run = fixture.claimed(LEASE).await;
    fixture.store.complete(fixture.worker, vec![succeeded(run)]).await.unwrap();
    expected.sort();
    assert_eq!(fixture.deliveries("").await, expected);
}

async fn each_event_is_told_once(fixture: Fixture) {
    let ids = fixture.accept((0..3).map(|_| told(&ALL))).await;
    let run = claim(&fixture, ids[0], LEASE).await;
    let outcomes = vec![succeeded(run), failed(run), succeeded(run)];
    fixture.store.complete(fixture.worker, outcomes.clone()).await.unwrap();
    fixture.store.complete(fixture.worker, outcomes).await.unwrap();
    fixture.store.cancel("", ids[0]).await.unwrap();
    let mut expected = deliveries(ids[0], &[Event::Start, Event::Output, Event::Completed]);

    // A run whose prediction was canceled is told of nothing more.
    let run = claim(&fixture, ids[1], LEASE).await;
    fixture.store.cancel("", ids[1]).await.unwrap();
    assert_eq!(fixture.store.complete(fixture.worker, vec![succeeded(run)]).await.unwrap(), [Written::Stale]);
    expected.extend(deliveries(ids[1], &[Event::Start, Event::Completed]));

    // A row that is there already is in nobody's way.
    let run = claim(&fixture, ids[2], LEASE).await;
    for event in [2, 4] {
        let copy = format!(
            "INSERT INTO deliveries (prediction_id, event, tenant, url, endpoint, origin, created_at, due_at, begun_at)
             SELECT prediction_id, {event}, tenant, 'before', endpoint, origin, created_at, due_at, begun_at
             FROM deliveries WHERE event = 1 AND prediction_id = {}",
            fixture.id(ids[2])
        );
        assert_eq!(fixture.execute(copy).await.unwrap(), 1);
    }
    assert_eq!(fixture.store.complete(fixture.worker, vec![succeeded(run)]).await.unwrap(), [Written::Applied]);
    expected.extend(deliveries(ids[2], &[Event::Start, Event::Output, Event::Completed]));
    assert_eq!(fixture.number("SELECT count(*) FROM deliveries WHERE url = 'before'").await, 2);
    expected.sort();
    assert_eq!(fixture.deliveries("").await, expected);
}

async fn what_cannot_be_told_does_not_happen(fixture: Fixture) {
    let ids = fixture.accept([told(&ALL), told(&ALL), told(&ALL)]).await;
    let run = claim(&fixture, ids[0], LEASE).await;
    let before = fixture.states().await;
    fixture.execute("ALTER TABLE deliveries RENAME TO away").await.unwrap();
    assert!(fixture.store.complete(fixture.worker, vec![succeeded(run)]).await.is_err());
    assert!(fixture.store.cancel("", ids[1]).await.is_err());
    assert!(fixture.store.claim(fixture.worker, &[ids[2]], LEASE).await.is_err());
    fixture.execute("ALTER TABLE away RENAME TO deliveries").await.unwrap();
    assert_eq!(fixture.states().await, before);
    assert_eq!(fixture.store.complete(fixture.worker, vec![succeeded(run)]).await.unwrap(), [Written::Applied]);
    let expected = deliveries(ids[0], &[Event::Start, Event::Output, Event::Completed]);
    assert_eq!(fixture.deliveries("").await, expected);
}

async fn a_prediction_shows_its_webhook(fixture: Fixture) {
    let hook = webhook("http://127.0.0.1:8080", &[Event::Completed]);
    let sent = NewPrediction { tenant: "other".into(), webhook: Some(hook.clone()), ..new() };
    let ids = fixture.accept([sent.clone(), new()]).await;
    let found = fixture.store.get("other", &ids).await.unwrap();
    let [found] = &found[..] else { panic!("{found:?}") };
    assert_eq!((found.webhook.as_deref(), found.webhook_events_filter), (Some(&*hook.url), Some(hook.events)));
    let listed = fixture.store.list("other", &store::ListFilter::default(), None, 1).await.unwrap();
    assert_eq!(listed.predictions[0].webhook, Some(hook.url));
    // Deliveries are made of predictions whosever they are.
    let mut all = fixture.store.predictions(&[ids[1], ids[0], PredictionId::generate()]).await.unwrap();
    all.sort_by_key(|found| found.id);
    assert_eq!(all.iter().map(|found| found.id).collect::<Vec<_>>(), ids);
    assert!(all[0].webhook.is_some() && all[1].webhook.is_none() && all[1].webhook_events_filter.is_none());
    assert_eq!(all[0].status, Status::Starting);
    assert!(fixture.store.predictions(&[]).await.unwrap().is_empty());
}
