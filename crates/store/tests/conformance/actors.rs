//! Actors that really run at the same time, with leases of milliseconds, under the eyes of an observer: whatever they do to each
//! other, nothing is lost, nothing terminal changes, and no number that may only grow shrinks.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use prediction::{Event, Failure, FailureCode, PredictionId, Status, WorkerId};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use store::{ClaimedDelivery, NextStep, Outcome, Room, Run, RunMetrics, Settled, Store, Written};
use tokio::task::JoinSet;

use crate::fixture::{Fixture, LEASE, SWEEP, State, attempted, eventually, json, serves, told};

on_both!(concurrent_actors_keep_the_invariants);

const BATCHES: usize = 60;
const BATCH: usize = 5;

#[derive(Default)]
struct Tally {
    over: AtomicBool,
    succeeded: AtomicI64,
    failed: AtomicI64,
    stale: AtomicI64,
    /// Words of senders that were taken, and that came too late.
    attempts: AtomicI64,
    unheard: AtomicI64,
}

async fn concurrent_actors_keep_the_invariants(fixture: Fixture) {
    let fixture = Arc::new(fixture);
    let tally = Arc::new(Tally::default());
    let mut actors = JoinSet::new();
    for seed in 0..4 {
        actors.spawn(work(fixture.store.clone(), Arc::clone(&tally), seed));
    }
    actors.spawn(sweep(fixture.store.clone(), Arc::clone(&tally)));
    actors.spawn(cancel(fixture.store.clone(), Arc::clone(&tally)));
    for seed in 0..2 {
        actors.spawn(send(fixture.store.clone(), Arc::clone(&tally), seed));
    }
    let observer = tokio::spawn(observe(Arc::clone(&fixture), Arc::clone(&tally)));

    for _ in 0..BATCHES {
        fixture.accept((0..BATCH).map(|_| told(&[Event::Start, Event::Completed]))).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tally.over.store(true, Ordering::SeqCst);
    while let Some(actor) = actors.join_next().await {
        actor.unwrap();
    }
    observer.await.unwrap();

    // What is left is finished in peace: nothing was lost on the way.
    loop {
        while let Some(claimed) = fixture.claim_suspect(LEASE).await {
            finish(&fixture.store, &tally, fixture.worker, vec![success(claimed.run)]).await;
        }
        let claim = fixture.store.claim_next(fixture.worker, &serves(), &[], 100, LEASE).await.unwrap();
        finish(
            &fixture.store,
            &tally,
            fixture.worker,
            claim.claimed.iter().map(|claimed| success(claimed.run)).collect(),
        )
        .await;
        fixture.store.sweep(SWEEP).await.unwrap();
        if fixture.states().await.values().all(is_terminal) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    eventually(async || {
        settle_all(&fixture.store, &tally, WorkerId::generate(), LEASE, |_| NextStep::Delivered).await;
        fixture.store.sweep_deliveries(LEASE, 1000).await.unwrap();
        (fixture.number("SELECT count(*) FROM deliveries WHERE status <> 2").await == 0).then_some(())
    })
    .await;
    // One word of a sender that was taken, one attempt; whatever the others said left nothing.
    let attempts = tally.attempts.load(Ordering::SeqCst);
    assert_eq!(fixture.number("SELECT count(*) FROM delivery_attempts").await, attempts);
    assert_eq!(fixture.number("SELECT CAST(sum(attempts) AS bigint) FROM deliveries").await, attempts);
    assert!(tally.unheard.load(Ordering::SeqCst) > 0, "no sender ever came too late: the test shows nothing");

    let states = fixture.states().await;
    assert_eq!(states.len(), BATCHES * BATCH);
    let count = |status: Status| -> i64 {
        states.values().filter(|state| state.status == status.code() && state.outcomes == 1).count() as i64
    };
    assert_eq!(count(Status::Succeeded), tally.succeeded.load(Ordering::SeqCst));
    let poison = fixture.number(format!("SELECT count(*) FROM {} WHERE code = 'poison'", fixture.outcomes())).await;
    assert_eq!(count(Status::Failed), tally.failed.load(Ordering::SeqCst) + poison);
    assert!(tally.stale.load(Ordering::SeqCst) > 0, "the actors never met: the test shows nothing");
}

fn is_terminal(state: &State) -> bool {
    state.status >= Status::Succeeded.code()
}

fn success(run: Run) -> Outcome {
    Outcome::Succeeded { run, output: json("1"), metrics: RunMetrics::default() }
}

async fn finish(store: &Store, tally: &Tally, worker: WorkerId, outcomes: Vec<Outcome>) {
    let written = store.complete(worker, outcomes.clone()).await.unwrap();
    for (outcome, written) in outcomes.iter().zip(written) {
        let count = match (written, outcome) {
            (Written::Stale, _) => &tally.stale,
            (Written::Applied, Outcome::Succeeded { .. }) => &tally.succeeded,
            (Written::Applied, Outcome::Failed { .. }) => &tally.failed,
            (Written::Applied, _) => continue,
        };
        count.fetch_add(1, Ordering::SeqCst);
    }
}

/// Claims with leases that often run out before it is done, and brings in everything it ever ran, early or late.
async fn work(store: Store, tally: Arc<Tally>, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let worker = WorkerId::generate();
    let mut runs: Vec<Run> = Vec::new();
    while !tally.over.load(Ordering::SeqCst) {
        let lease = Duration::from_millis(random.random_range(0..15));
        let claim = store.claim_next(worker, &serves(), &[], 4, lease).await.unwrap();
        runs.extend(claim.claimed.iter().map(|claimed| claimed.run));
        let suspect = store.claim_suspect(worker, &serves(), lease * 2).await.unwrap();
        runs.extend(suspect.map(|claimed| claimed.run));
        if random.random_bool(0.3) {
            store.renew(worker, &runs, lease).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..10))).await;
        let outcomes = runs.iter().rev().take(12).map(|run| match random.random_range(0..6) {
            0 => Outcome::Failed {
                run: *run,
                failure: Failure::new(FailureCode::ModelError, "it broke"),
                metrics: RunMetrics::default(),
            },
            1 => Outcome::Retry { run: *run, delay: Duration::from_millis(5) },
            2 => Outcome::Released { run: *run },
            _ => success(*run),
        });
        let outcomes = outcomes.collect();
        finish(&store, &tally, worker, outcomes).await;
    }
}

async fn sweep(store: Store, tally: Arc<Tally>) {
    while !tally.over.load(Ordering::SeqCst) {
        store.sweep(SWEEP).await.unwrap();
        store.sweep_deliveries(LEASE, 1000).await.unwrap();
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// Sends with leases that often run out before it is done.
async fn send(store: Store, tally: Arc<Tally>, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let sender = WorkerId::generate();
    while !tally.over.load(Ordering::SeqCst) {
        let lease = Duration::from_millis(random.random_range(0..15));
        settle_all(&store, &tally, sender, lease, |_| match random.random_range(0..3) {
            0 => NextStep::Retry { wait: Duration::ZERO },
            _ => NextStep::Delivered,
        })
        .await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn settle_all(
    store: &Store,
    tally: &Tally,
    sender: WorkerId,
    lease: Duration,
    mut next: impl FnMut(&ClaimedDelivery) -> NextStep,
) {
    let claimed = store.claim_deliveries(sender, &Room::each(1000), None, 1000, lease).await.unwrap().claimed;
    tokio::time::sleep(Duration::from_millis(10)).await;
    let settled: Vec<Settled> = claimed.iter().map(|delivery| attempted(delivery, 200, next(delivery))).collect();
    for written in store.settle_deliveries(&settled).await.unwrap() {
        let count = if written == Written::Applied { &tally.attempts } else { &tally.unheard };
        count.fetch_add(1, Ordering::SeqCst);
    }
}

async fn cancel(store: Store, tally: Arc<Tally>) {
    let mut random = StdRng::seed_from_u64(99);
    while !tally.over.load(Ordering::SeqCst) {
        let page = store.list("", &store::ListFilter::default(), None, 20).await.unwrap();
        if !page.predictions.is_empty() {
            let place = random.random_range(0..page.predictions.len());
            store.cancel("", page.predictions[place].id).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
}

/// Predictions that have more or fewer deliveries than they should: of their end one when they are over, of their start one
/// when they were ever claimed.
const MISTOLD: &str = "
    SELECT count(*) FROM predictions
    WHERE (SELECT count(*) FROM deliveries WHERE prediction_id = id AND event = 4)
              <> CASE WHEN status >= 2 THEN 1 ELSE 0 END
       OR (SELECT count(*) FROM deliveries WHERE prediction_id = id AND event = 1)
              <> CASE WHEN predictions.attempts > 0 THEN 1 ELSE 0 END";

async fn observe(fixture: Arc<Fixture>, tally: Arc<Tally>) {
    let mut before: BTreeMap<PredictionId, State> = BTreeMap::new();
    while !tally.over.load(Ordering::SeqCst) {
        assert_eq!(fixture.number(MISTOLD).await, 0);
        let now = fixture.states().await;
        for state in now.values() {
            assert_eq!((state.inputs, state.outcomes), (1, i64::from(is_terminal(state))), "{state:?}");
        }
        for (id, old) in before {
            let new = now.get(&id).expect("nothing is lost");
            if is_terminal(&old) {
                assert_eq!(*new, old, "terminal states do not change");
            }
            let counts = |state: &State| [state.epoch, state.attempts, state.retries, state.crashes, state.releases];
            assert!(counts(&old).iter().zip(counts(new)).all(|(old, new)| *old <= new), "{old:?} became {new:?}");
        }
        before = now;
    }
}
