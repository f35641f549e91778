//! Accepting: what is stored reads back, and repetitions are told from conflicts.

use std::time::{Duration, Instant};

use prediction::{PredictionId, Priority, Status};
use store::{Accepted, NewPrediction, Store, StoreError};

use crate::fixture::{Fixture, json, new};

on_both!(
    everything_reads_back,
    an_id_is_used_once,
    a_key_is_used_once,
    repetitions_within_a_batch,
    a_key_is_free_again_after_an_id_conflict,
    concurrent_repetitions_make_one,
    batches_of_any_size,
    concurrent_overlapping_batches,
);

fn keyed(key: &str) -> NewPrediction {
    NewPrediction { idempotency_key: Some(key.to_owned()), ..new() }
}

async fn one(fixture: &Fixture, new: NewPrediction) -> Accepted {
    fixture.store.accept(vec![new]).await.unwrap().remove(0)
}

/// Stores these when it is their turn: a store that many call at once keeps nobody waiting for long.
async fn patiently(store: &Store, batch: Vec<NewPrediction>) -> Vec<Accepted> {
    let asked = Instant::now();
    loop {
        match store.accept(batch.clone()).await {
            Err(StoreError::Unavailable(_)) if asked.elapsed() < Duration::from_secs(30) => {}
            answered => return answered.unwrap(),
        }
    }
}

async fn everything_reads_back(fixture: Fixture) {
    let sent = NewPrediction {
        tenant: "tenant".to_owned(),
        priority: Priority::High,
        deadline: Some(Duration::from_millis(90_500)),
        metadata: Some(json(r#"{"a":"b","n":1.5}"#)),
        ..new()
    };
    let before = fixture.store.now().await.unwrap();
    let answer = one(&fixture, sent.clone()).await;
    let Accepted::Created { created_at, deadline_at: Some(deadline_at) } = answer else { panic!("{answer:?}") };
    assert!(before <= created_at && created_at <= fixture.store.now().await.unwrap());
    assert_eq!(deadline_at - created_at, Duration::from_millis(90_500));

    assert!(fixture.store.get("", &[sent.id]).await.unwrap().is_empty(), "it is another tenant's");
    let found = fixture.store.get("tenant", &[sent.id, PredictionId::generate()]).await.unwrap();
    let [found] = &found[..] else { panic!("{found:?}") };
    assert_eq!((&found.model, &found.version), (&sent.model, &sent.version));
    assert_eq!((found.id, found.status, found.priority), (sent.id, Status::Starting, Priority::High));
    assert_eq!(found.input.as_ref().unwrap().get(), sent.input.get());
    assert_eq!((found.created_at, found.deadline_at), (created_at, Some(deadline_at)));
    let metadata: serde_json::Value = serde_json::from_str(found.metadata.as_ref().unwrap().get()).unwrap();
    assert_eq!(metadata, serde_json::json!({"a": "b", "n": 1.5}));
    assert!(found.started_at.is_none() && found.completed_at.is_none() && found.expires_at.is_none());
    assert!(found.failure.is_none() && found.output.is_none() && found.logs.is_empty() && !found.data_removed);
    assert_eq!((found.attempt, found.metrics), (0, prediction::Metrics::default()));
}

async fn an_id_is_used_once(fixture: Fixture) {
    let sent = new();
    assert!(matches!(one(&fixture, sent.clone()).await, Accepted::Created { .. }));
    assert_eq!(one(&fixture, sent.clone()).await, Accepted::Replayed { id: sent.id });
    assert_eq!(one(&fixture, NewPrediction { fingerprint: [8; 32], ..sent.clone() }).await, Accepted::IdConflict);
    assert_eq!(one(&fixture, NewPrediction { tenant: "other".into(), ..sent.clone() }).await, Accepted::IdConflict);
    assert_eq!(fixture.number("SELECT count(*) FROM predictions").await, 1);
}

async fn a_key_is_used_once(fixture: Fixture) {
    let sent = keyed("key");
    assert!(matches!(one(&fixture, sent.clone()).await, Accepted::Created { .. }));
    assert_eq!(one(&fixture, keyed("key")).await, Accepted::Replayed { id: sent.id });
    assert_eq!(one(&fixture, NewPrediction { fingerprint: [8; 32], ..keyed("key") }).await, Accepted::KeyConflict);
    let others = NewPrediction { tenant: "other".into(), ..keyed("key") };
    assert!(matches!(one(&fixture, others).await, Accepted::Created { .. }));
    assert_eq!(fixture.number("SELECT count(*) FROM predictions").await, 2);
}

async fn repetitions_within_a_batch(fixture: Fixture) {
    let (first, by_id) = (keyed("a"), new());
    let batch = vec![
        first.clone(),
        keyed("a"),
        NewPrediction { fingerprint: [8; 32], ..keyed("a") },
        by_id.clone(),
        by_id.clone(),
        NewPrediction { fingerprint: [8; 32], ..by_id.clone() },
        first.clone(),
    ];
    let answers = fixture.store.accept(batch).await.unwrap();
    assert!(matches!(answers[0], Accepted::Created { .. }) && matches!(answers[3], Accepted::Created { .. }));
    assert_eq!(answers[1], Accepted::Replayed { id: first.id });
    assert_eq!(answers[2], Accepted::KeyConflict);
    assert_eq!(answers[4], Accepted::Replayed { id: by_id.id });
    assert_eq!(answers[5], Accepted::IdConflict);
    assert_eq!(answers[6], Accepted::Replayed { id: first.id });
    assert_eq!(fixture.number("SELECT count(*) FROM predictions").await, 2);
    assert_eq!(fixture.number("SELECT count(*) FROM inputs").await, 2);
}

async fn a_key_is_free_again_after_an_id_conflict(fixture: Fixture) {
    let taken = new();
    one(&fixture, taken.clone()).await;
    let conflicting = NewPrediction { id: taken.id, fingerprint: [8; 32], ..keyed("key") };
    let follower = keyed("key");
    let answers = fixture.store.accept(vec![conflicting, follower.clone()]).await.unwrap();
    assert_eq!(answers[0], Accepted::IdConflict);
    assert!(matches!(answers[1], Accepted::Created { .. }), "{answers:?}");
    assert_eq!(one(&fixture, keyed("key")).await, Accepted::Replayed { id: follower.id });
}

async fn concurrent_repetitions_make_one(fixture: Fixture) {
    let calls = (0..64).map(|_| {
        let store = fixture.store.clone();
        tokio::spawn(async move { patiently(&store, vec![keyed("same")]).await.remove(0) })
    });
    let answers: Vec<Accepted> =
        futures::future::join_all(calls).await.into_iter().map(|answer| answer.unwrap()).collect();
    let created = answers.iter().filter(|answer| matches!(answer, Accepted::Created { .. })).count();
    let replayed = answers.iter().filter(|answer| matches!(answer, Accepted::Replayed { .. })).count();
    assert_eq!((created, replayed), (1, 63));
    assert_eq!(fixture.number("SELECT count(*) FROM predictions").await, 1);
}

async fn batches_of_any_size(fixture: Fixture) {
    assert!(fixture.store.accept(Vec::new()).await.unwrap().is_empty());
    for size in [1, 2, 17, 145, 1000] {
        fixture.accept((0..size).map(|_| new())).await;
    }
    assert_eq!(fixture.number("SELECT count(*) FROM inputs").await, 1165);
}

/// The same ids and keys, taken in opposite orders at once: nobody waits in a circle, and each is stored once.
async fn concurrent_overlapping_batches(fixture: Fixture) {
    let batch: Vec<NewPrediction> = (0..50).map(|place| keyed(&format!("key {place}"))).collect();
    let calls = (0..8).map(|call| {
        let (store, mut batch) = (fixture.store.clone(), batch.clone());
        if call % 2 == 0 {
            batch.reverse();
        }
        tokio::spawn(async move { patiently(&store, batch).await })
    });
    let answers: Vec<Accepted> =
        futures::future::join_all(calls).await.into_iter().flat_map(|answers| answers.unwrap()).collect();
    assert_eq!(answers.iter().filter(|answer| matches!(answer, Accepted::Created { .. })).count(), 50);
    assert_eq!(answers.iter().filter(|answer| matches!(answer, Accepted::Replayed { .. })).count(), 350);
}
