//! Group commit: everybody gets an answer of their own, and tickets follow the commit.

use std::sync::{Arc, Mutex};

use futures::FutureExt;
use prediction::{PredictionId, Ticket};
use store::{Accepted, Accepter, Due, Enqueue, NewPrediction, StoreError};

use crate::fixture::{Fixture, eventually, json, new, stream};

on_both!(
    concurrent_callers_are_answered,
    refused_tickets_are_marked,
    a_refused_prediction_fails_alone,
    a_caller_may_hang_up,
    a_panic_while_queueing_harms_nobody,
);

fn queued() -> NewPrediction {
    NewPrediction { queued: true, ..new() }
}

/// Queues every ticket and remembers it.
pub(crate) fn remembering() -> (Enqueue, Arc<Mutex<Vec<Ticket>>>) {
    let tickets = Arc::new(Mutex::new(Vec::new()));
    let pushed = Arc::clone(&tickets);
    let enqueue: Enqueue = Arc::new(move |tickets| {
        pushed.lock().unwrap().extend(tickets);
        async { Vec::new() }.boxed()
    });
    (enqueue, tickets)
}

async fn concurrent_callers_are_answered(fixture: Fixture) {
    let (enqueue, tickets) = remembering();
    let accepter = Accepter::start(fixture.store.clone(), enqueue, None, 2, 64);
    let news: Vec<NewPrediction> = (0..300).map(|place| NewPrediction { queued: place % 3 != 0, ..new() }).collect();
    let answers = futures::future::join_all(news.iter().map(|new| accepter.accept(new.clone()))).await;
    assert!(answers.iter().all(|answer| matches!(answer, Ok(Accepted::Created { .. }))));
    accepter.drain().await;
    let mut pushed: Vec<PredictionId> = tickets.lock().unwrap().iter().map(|ticket| ticket.id).collect();
    let mut expected: Vec<PredictionId> = news.iter().filter(|new| new.queued).map(|new| new.id).collect();
    pushed.sort();
    expected.sort();
    assert_eq!(pushed, expected);
    assert_eq!(fixture.number("SELECT count(*) FROM predictions WHERE queued_at IS NOT NULL").await, 200);
}

async fn refused_tickets_are_marked(fixture: Fixture) {
    let refusing: Enqueue = Arc::new(|tickets| async { tickets }.boxed());
    let accepter = Accepter::start(fixture.store.clone(), refusing, None, 2, 64);
    let sent = queued();
    accepter.accept(sent.clone()).await.unwrap();
    accepter.drain().await;
    assert_eq!(fixture.store.take_due(&stream(), Due::default(), 10).await.unwrap(), [sent.id]);
}

async fn a_refused_prediction_fails_alone(fixture: Fixture) {
    let (enqueue, tickets) = remembering();
    let accepter = Accepter::start(fixture.store.clone(), enqueue, None, 1, 64);
    // The database insists on an object.
    let poisonous = NewPrediction { metadata: Some(json("[1]")), ..queued() };
    let calls = (0..40).map(|place| accepter.accept(if place == 17 { poisonous.clone() } else { queued() }));
    let answers = futures::future::join_all(calls).await;
    for (place, answer) in answers.iter().enumerate() {
        match answer {
            Ok(Accepted::Created { .. }) => assert_ne!(place, 17),
            Err(error) => assert!(place == 17 && matches!(**error, StoreError::Refused(_)), "{place}: {error}"),
            Ok(other) => panic!("{other:?}"),
        }
    }
    accepter.drain().await;
    assert_eq!(tickets.lock().unwrap().len(), 39);
}

async fn a_caller_may_hang_up(fixture: Fixture) {
    let (enqueue, tickets) = remembering();
    let accepter = Accepter::start(fixture.store.clone(), enqueue, None, 1, 64);
    let sent = queued();
    // Polled once: it is handed in; then dropped.
    assert!(accepter.accept(sent.clone()).now_or_never().is_none());
    accepter.drain().await;
    assert_eq!(fixture.store.get("", &[sent.id]).await.unwrap().len(), 1);
    assert_eq!(tickets.lock().unwrap().len(), 1);
}

async fn a_panic_while_queueing_harms_nobody(fixture: Fixture) {
    let panicking: Enqueue = Arc::new(|_| panic!("provoked by the test"));
    let accepter = Accepter::start(fixture.store.clone(), panicking, None, 1, 64);
    for _ in 0..2 {
        assert!(matches!(accepter.accept(queued()).await, Ok(Accepted::Created { .. })));
    }
    accepter.drain().await;
    let late = Due { queued_for: Some(std::time::Duration::ZERO), ..Due::default() };
    let found = eventually(async || {
        Some(fixture.store.take_due(&stream(), late, 10).await.unwrap()).filter(|found| !found.is_empty())
    });
    assert_eq!(found.await.len(), 2, "the dispatcher finds them by their age");
}
