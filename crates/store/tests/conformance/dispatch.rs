//! Dispatching: which waiting predictions lack a ticket, and one leader.

use std::time::Duration;

use prediction::{Priority, StreamKey};
use store::{Due, Lead, NewPrediction, Outcome, Store};

use crate::fixture::{Fixture, LEASE, eventually, new, open, stream};

on_both!(
    what_has_no_ticket_is_taken_once_in_order,
    lost_tickets_are_found,
    retries_are_queued_when_due,
    streams_that_wait_are_named,
    one_leader_at_a_time,
);

async fn what_has_no_ticket_is_taken_once_in_order(fixture: Fixture) {
    let ids = fixture.accept((0..10).map(|_| new())).await;
    let queued = fixture.accept([NewPrediction { queued: true, ..new() }]).await;
    let high = fixture.accept([NewPrediction { priority: Priority::High, ..new() }]).await;
    let line = stream();
    let take = |limit| fixture.store.take_due(&line, Due::default(), limit);
    assert_eq!(take(6).await.unwrap(), ids[..6]);
    assert_eq!(take(100).await.unwrap(), ids[6..]);
    assert!(take(100).await.unwrap().is_empty());
    fixture.store.mark_unqueued(&[ids[3], queued[0]]).await.unwrap();
    assert_eq!(take(100).await.unwrap(), [ids[3], queued[0]]);
    let stream = StreamKey { priority: Priority::High, ..stream() };
    assert_eq!(fixture.store.take_due(&stream, Due::default(), 10).await.unwrap(), high);
    let unknown = StreamKey { model: "no/model".parse().unwrap(), ..stream };
    assert!(fixture.store.take_due(&unknown, Due::default(), 10).await.unwrap().is_empty());
    fixture.store.mark_unqueued(&[]).await.unwrap();
}

async fn lost_tickets_are_found(fixture: Fixture) {
    let ids = fixture.accept([NewPrediction { queued: true, ..new() }]).await;
    let line = stream();
    let take = |due| fixture.store.take_due(&line, due, 10);
    assert!(take(Due { queued_for: Some(LEASE), queued_before: None }).await.unwrap().is_empty());
    let found = eventually(async || {
        let now = fixture.store.now().await.unwrap();
        let due = Due { queued_before: Some(now), queued_for: None };
        Some(take(due).await.unwrap()).filter(|found| !found.is_empty())
    });
    assert_eq!(found.await, ids);
    let past = fixture.store.now().await.unwrap() - LEASE;
    assert!(take(Due { queued_before: Some(past), queued_for: Some(LEASE) }).await.unwrap().is_empty());
    let found = eventually(async || {
        let due = Due { queued_before: None, queued_for: Some(Duration::from_millis(10)) };
        Some(take(due).await.unwrap()).filter(|found| !found.is_empty())
    });
    assert_eq!(found.await, ids);
}

async fn retries_are_queued_when_due(fixture: Fixture) {
    let run = fixture.claimed(LEASE).await;
    let delay = Duration::from_millis(200);
    let begun = fixture.store.now().await.unwrap();
    fixture.store.complete(fixture.worker, vec![Outcome::Retry { run, delay }]).await.unwrap();
    let found = eventually(async || {
        Some(fixture.store.take_due(&stream(), Due::default(), 10).await.unwrap()).filter(|found| !found.is_empty())
    });
    assert_eq!(found.await, [run.id]);
    assert!(fixture.store.now().await.unwrap() >= begun + delay);
}

async fn streams_that_wait_are_named(fixture: Fixture) {
    assert!(fixture.store.waiting_streams().await.unwrap().is_empty());
    fixture.claimed(LEASE).await;
    assert!(fixture.store.waiting_streams().await.unwrap().is_empty());
    fixture.accept([new(), new(), NewPrediction { priority: Priority::Low, ..new() }]).await;
    let mut streams = fixture.store.waiting_streams().await.unwrap();
    streams.sort();
    assert_eq!(streams, [StreamKey { priority: Priority::Low, ..stream() }, stream()]);
}

/// Asks for the role until there is an answer.
async fn lead(store: &Store, role: &'static str) -> Lead {
    eventually(async || store.lead(role).await.ok()).await
}

async fn one_leader_at_a_time(fixture: Fixture) {
    let store = &fixture.store;
    let first = lead(store, "dispatcher").await;
    assert_eq!(first, if store.is_shared() { Lead::Begun } else { Lead::Kept });
    assert_eq!(lead(store, "dispatcher").await, Lead::Kept);
    if store.is_shared() {
        let other = open(&fixture.location).await;
        assert_eq!(lead(&other, "dispatcher").await, Lead::Another);
        assert_eq!(lead(&other, "another role").await, Lead::Begun);
        // The leader's session ends: another may lead, and the first one learns that it does not.
        fixture
            .execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND database =
                      (SELECT oid FROM pg_database WHERE datname = current_database())",
            )
            .await
            .unwrap();
        eventually(async || (lead(&other, "dispatcher").await == Lead::Begun).then_some(())).await;
        assert_eq!(lead(store, "dispatcher").await, Lead::Another);
        other.resign("dispatcher").await;
        eventually(async || (lead(store, "dispatcher").await == Lead::Begun).then_some(())).await;
        store.resign("dispatcher").await;
        eventually(async || (lead(&other, "dispatcher").await == Lead::Begun).then_some(())).await;
        other.close().await;
        eventually(async || (lead(store, "dispatcher").await == Lead::Begun).then_some(())).await;
    }
}
