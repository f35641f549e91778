//! Group reading: everybody finds what is theirs, whoever asks at the same moment.

use std::time::Duration;

use futures::{FutureExt, future::join_all};
use prediction::{PredictionId, Status};
use store::{Finder, NewPrediction, StoreError};

use crate::fixture::{Fixture, LEASE, json, new};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

on_both!(
    everybody_finds_what_is_theirs,
    what_was_written_before_is_found,
    what_cannot_be_read_is_missed_by_its_caller_alone,
    large_ones_are_found_too,
    a_caller_may_hang_up,
);

async fn everybody_finds_what_is_theirs(fixture: Fixture) {
    let of = |tenant: &str, value: usize| {
        let input = json(&format!(r#"{{"value": {value}}}"#));
        NewPrediction { tenant: tenant.to_owned(), input, ..new() }
    };
    let tenants = ["one", "other", "third"];
    let ids = fixture.accept((0..150).map(|value| of(tenants[value % 3], value))).await;
    let finder = Finder::start(&fixture.store, 2, PATIENCE);
    // Each is asked for by its owner, twice, and by somebody else; and one that there is not.
    let calls = ids
        .iter()
        .enumerate()
        .flat_map(|(place, id)| [0, 0, 1].map(|further| finder.find(tenants[(place + further) % 3], *id)));
    let nothing = [
        finder.find("one", PredictionId::generate()).left_future(),
        finder.find_any(PredictionId::generate()).right_future(),
    ];
    let (found, all, nothing) =
        tokio::join!(join_all(calls), join_all(ids.iter().map(|id| finder.find_any(*id))), join_all(nothing));
    assert!(nothing.iter().all(|nothing| matches!(nothing, Ok(None))));
    let all: Vec<_> = all.into_iter().map(|found| found.unwrap().expect("it exists").id).collect();
    assert_eq!(all, ids);
    assert_eq!(found.len(), 450);
    for (place, found) in found.chunks(3).enumerate() {
        for own in &found[..2] {
            let own = own.as_ref().unwrap().as_ref().expect("it is the caller's");
            assert_eq!(own.id, ids[place]);
            assert_eq!(own.input.as_ref().unwrap().get(), format!(r#"{{"value": {place}}}"#));
        }
        assert!(found[2].as_ref().unwrap().is_none(), "it is another tenant's");
    }
}

async fn what_was_written_before_is_found(fixture: Fixture) {
    let finder = Finder::start(&fixture.store, 4, PATIENCE);
    let ids = fixture.accept((0..60).map(|_| new())).await;
    let read_and_cancel = async |id: PredictionId| {
        let status = async || finder.find("", id).await.unwrap().expect("it is stored").status;
        let before = status().await;
        fixture.store.cancel("", id).await.unwrap();
        (before, status().await)
    };
    let found = join_all(ids.iter().map(|id| read_and_cancel(*id))).await;
    assert_eq!(found, [(Status::Starting, Status::Canceled); 60]);
}

async fn what_cannot_be_read_is_missed_by_its_caller_alone(fixture: Fixture) {
    let ids = fixture.accept((0..40).map(|_| new())).await;
    fixture.store.claim(fixture.worker, &ids[17..18], LEASE).await.unwrap();
    fixture.break_output(ids[17]).await;
    let finder = Finder::start(&fixture.store, 1, PATIENCE);
    let found = join_all(ids.iter().map(|id| finder.find("", *id))).await;
    for (place, found) in found.iter().enumerate() {
        match found {
            Ok(found) => assert_eq!(found.as_ref().map(|found| found.id), Some(ids[place])),
            Err(error) => assert!(place == 17 && matches!(**error, StoreError::Corrupt(_)), "{place}: {error}"),
        }
    }
    assert!(found[17].is_err());
}

async fn large_ones_are_found_too(fixture: Fixture) {
    let large = json(&format!("{:?}", "x".repeat(300_000)));
    let ids = fixture.accept((0..40).map(|_| NewPrediction { input: large.clone(), ..new() })).await;
    let finder = Finder::start(&fixture.store, 2, PATIENCE);
    for _ in 0..2 {
        for (found, id) in join_all(ids.iter().map(|id| finder.find("", *id))).await.into_iter().zip(&ids) {
            let found = found.unwrap().expect("it is stored");
            assert_eq!((found.id, found.input.unwrap().get()), (*id, large.get()));
        }
    }
}

async fn a_caller_may_hang_up(fixture: Fixture) {
    let ids = fixture.accept((0..2).map(|_| new())).await;
    let finder = Finder::start(&fixture.store, 1, PATIENCE);
    // Polled once: it is handed in; then dropped.
    assert!(finder.find("", ids[0]).now_or_never().is_none());
    assert!(finder.find("", ids[1]).await.unwrap().is_some());
}
