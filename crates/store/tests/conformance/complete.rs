//! Ending runs: one outcome each, behind the fence; cancels.

use std::time::Duration;

use prediction::{Event, Failure, FailureCode, PredictionId, Status, WorkerId};
use store::{Accepted, CancelResult, NewPrediction, Outcome, Run, RunMetrics, Written};

use crate::fixture::{Fixture, LEASE, SPENT, SWEEP, eventually, json, new, serves, told};

on_both!(
    a_success_is_kept_whole,
    a_failure_is_kept_whole,
    a_retry_waits_and_is_counted,
    a_release_costs_nothing,
    only_the_first_outcome_counts,
    a_result_after_the_sweep_is_stale,
    what_another_worker_says_of_a_run_is_stale,
    mixed_batches_are_answered_in_order,
    large_batches_are_many_small_ones,
    cancel_ends_what_waits_and_what_runs,
);

fn succeeded(run: Run) -> Outcome {
    let metrics = RunMetrics { predict_seconds: 0.25, batch_size: 4, tokens: Some(12) };
    Outcome::Succeeded { run, output: json(r#"{"label":  3}"#), metrics }
}

async fn a_success_is_kept_whole(fixture: Fixture) {
    let run = fixture.claimed(LEASE).await;
    assert_eq!(fixture.store.complete(fixture.worker, vec![succeeded(run)]).await.unwrap(), [Written::Applied]);
    let found = fixture.store.get("", &[run.id]).await.unwrap().remove(0);
    assert_eq!((found.status, found.attempt), (Status::Succeeded, 1));
    assert_eq!(found.output.as_ref().unwrap().get(), r#"{"label":  3}"#);
    assert_eq!((found.error, found.failure), (None, None));
    assert_eq!(found.metrics.predict_time, Some(0.25));
    assert_eq!((found.metrics.batch_size, found.metrics.tokens), (Some(4), Some(12)));
    let completed_at = found.completed_at.unwrap();
    assert!((found.metrics.total_time.unwrap() - (completed_at - found.created_at).as_seconds_f64()).abs() < 1e-6);
    assert!(found.metrics.queue_time.unwrap() <= found.metrics.total_time.unwrap());
    assert_eq!(found.expires_at.unwrap() - completed_at, Duration::from_secs(3600));
    assert_eq!(fixture.store.finished(&[run.id, PredictionId::generate()]).await.unwrap(), [run.id]);
}

async fn a_failure_is_kept_whole(fixture: Fixture) {
    let run = fixture.claimed(LEASE).await;
    let failure = Failure::new(FailureCode::ModelError, "it broke").with_retryable(true);
    let outcome = Outcome::Failed { run, failure: failure.clone(), metrics: RunMetrics::default() };
    assert_eq!(fixture.store.complete(fixture.worker, vec![outcome]).await.unwrap(), [Written::Applied]);
    let found = fixture.store.get("", &[run.id]).await.unwrap().remove(0);
    assert_eq!((found.status, found.failure), (Status::Failed, Some(failure)));
    assert_eq!(found.error.as_deref(), Some("it broke"));
    assert!(found.output.is_none());
}

async fn a_retry_waits_and_is_counted(fixture: Fixture) {
    let run = fixture.claimed(LEASE).await;
    let paused = fixture.claimed(LEASE).await;
    let outcomes = vec![Outcome::Retry { run, delay: Duration::ZERO }, Outcome::Retry { run: paused, delay: LEASE }];
    assert_eq!(fixture.store.complete(fixture.worker, outcomes).await.unwrap(), [Written::Applied; 2]);
    let found = fixture.store.get("", &[run.id]).await.unwrap().remove(0);
    assert_eq!((found.status, found.metrics), (Status::Starting, prediction::Metrics::default()));
    assert!(found.started_at.is_some() && found.completed_at.is_none());
    let claim = fixture.store.claim_next(fixture.worker, &serves(), &[], 10, LEASE).await.unwrap();
    let [claimed] = &claim.claimed[..] else { panic!("{claim:?}") };
    assert_eq!((claimed.run, claimed.retries), (Run { id: run.id, epoch: 2 }, 1));
    assert_eq!(fixture.number("SELECT count(*) FROM predictions WHERE queued_at IS NOT NULL").await, 0);
}

async fn a_release_costs_nothing(fixture: Fixture) {
    let run = fixture.claimed(LEASE).await;
    assert_eq!(
        fixture.store.complete(fixture.worker, vec![Outcome::Released { run }]).await.unwrap(),
        [Written::Applied]
    );
    let claim = fixture.store.claim(fixture.worker, &[run.id], LEASE).await.unwrap();
    assert_eq!(claim.claimed[0].retries, 0);
    let counts = "SELECT count(*) FROM predictions WHERE retries = 0 AND crashes = 0 AND releases = 1 AND epoch = 2";
    assert_eq!(fixture.number(counts).await, 1);
}

async fn only_the_first_outcome_counts(fixture: Fixture) {
    let run = fixture.claimed(LEASE).await;
    let failed = Outcome::Failed {
        run,
        failure: Failure::new(FailureCode::ModelError, "too late"),
        metrics: RunMetrics::default(),
    };
    let outcomes = vec![succeeded(run), failed.clone(), succeeded(run)];
    assert_eq!(
        fixture.store.complete(fixture.worker, outcomes).await.unwrap(),
        [Written::Applied, Written::Stale, Written::Stale]
    );
    let again = vec![failed, Outcome::Released { run }, Outcome::Retry { run, delay: SPENT }];
    assert_eq!(fixture.store.complete(fixture.worker, again).await.unwrap(), [Written::Stale; 3]);
    let found = fixture.store.get("", &[run.id]).await.unwrap().remove(0);
    assert_eq!((found.status, found.failure), (Status::Succeeded, None));
    assert_eq!(fixture.number(format!("SELECT count(*) FROM {}", fixture.outcomes())).await, 1);
    assert!(fixture.store.complete(fixture.worker, Vec::new()).await.unwrap().is_empty());
}

async fn large_batches_are_many_small_ones(fixture: Fixture) {
    let keyed = |place: usize| NewPrediction {
        input: json(&place.to_string()),
        idempotency_key: place.is_multiple_of(2).then(|| format!("key {place}")),
        ..told(&[Event::Completed])
    };
    let news: Vec<NewPrediction> = (0..300).map(keyed).collect();
    let accepted = fixture.store.accept(news.clone()).await.unwrap();
    assert!(accepted.iter().all(|answer| matches!(answer, Accepted::Created { .. })), "{accepted:?}");
    // One that is known makes the rest no less new.
    let others = news[..1].iter().cloned().chain((300..450).map(keyed)).collect::<Vec<_>>();
    let accepted = fixture.store.accept(others).await.unwrap();
    assert!(matches!(accepted[0], Accepted::Replayed { id } if id == news[0].id), "{:?}", accepted[0]);
    assert!(accepted[1..].iter().all(|answer| matches!(answer, Accepted::Created { .. })), "{accepted:?}");

    let ids: Vec<_> = news.iter().map(|new| new.id).collect();
    let claim = fixture.store.claim(fixture.worker, &ids, LEASE).await.unwrap();
    assert_eq!(claim.claimed.len(), 300);
    let metrics = |place: usize| RunMetrics {
        predict_seconds: place as f64,
        batch_size: place as u32,
        tokens: place.is_multiple_of(3).then_some(place as u32),
    };
    let outcomes = claim.claimed.iter().enumerate().map(|(place, claimed)| match place % 4 {
        0 => Outcome::Released { run: claimed.run },
        1 => Outcome::Failed {
            run: claimed.run,
            failure: Failure::new(FailureCode::ModelError, claimed.input.as_ref().unwrap().get()),
            metrics: metrics(place),
        },
        2 => succeeded(Run { epoch: claimed.run.epoch + 1, ..claimed.run }),
        _ => Outcome::Succeeded { run: claimed.run, output: claimed.input.clone().unwrap(), metrics: metrics(place) },
    });
    // In no order that ids have.
    let mut order: Vec<usize> = (0..claim.claimed.len()).collect();
    order.sort_by_key(|place| place * 7919 % 300);
    let outcomes: Vec<Outcome> = outcomes.collect();
    let shuffled: Vec<Outcome> = order.iter().map(|place| outcomes[*place].clone()).collect();
    let written = fixture.store.complete(fixture.worker, shuffled).await.unwrap();
    for (place, written) in order.into_iter().zip(written) {
        assert_eq!(written, if place % 4 == 2 { Written::Stale } else { Written::Applied }, "{place}");
    }
    for (place, claimed) in claim.claimed.iter().enumerate() {
        let found = fixture.store.get("", &[claimed.run.id]).await.unwrap().remove(0);
        let input = claimed.input.as_ref().unwrap().get();
        let (status, output, error) = match place % 4 {
            0 => (Status::Starting, None, None),
            1 => (Status::Failed, None, Some(input)),
            2 => (Status::Processing, None, None),
            _ => (Status::Succeeded, Some(input), None),
        };
        assert_eq!(found.status, status);
        assert_eq!((found.output.as_ref().map(|output| output.get()), found.error.as_deref()), (output, error));
        let written = status.is_terminal().then(|| metrics(place));
        let found = found.metrics;
        assert_eq!(found.predict_time, written.map(|metrics| metrics.predict_seconds));
        assert_eq!(found.batch_size, written.map(|metrics| metrics.batch_size));
        assert_eq!(found.tokens, written.and_then(|metrics| metrics.tokens));
    }
    assert_eq!(fixture.number("SELECT count(*) FROM deliveries").await, 150);
}

async fn a_result_after_the_sweep_is_stale(fixture: Fixture) {
    let run = fixture.claimed(SPENT).await;
    eventually(async || (fixture.store.sweep(SWEEP).await.unwrap().requeued == [run.id]).then_some(())).await;
    assert_eq!(fixture.store.complete(fixture.worker, vec![succeeded(run)]).await.unwrap(), [Written::Stale]);
    let second = fixture.claim_suspect(LEASE).await.unwrap().run;
    assert_eq!(
        fixture.store.complete(fixture.worker, vec![succeeded(run), succeeded(second)]).await.unwrap(),
        [Written::Stale, Written::Applied]
    );

    let run = fixture.claimed(SPENT).await;
    eventually(async || (fixture.store.sweep(SWEEP).await.unwrap().requeued == [run.id]).then_some(())).await;
    let second = fixture.claim_suspect(LEASE).await.unwrap().run;
    let outcomes = vec![Outcome::Released { run: second }, succeeded(run)];
    assert_eq!(fixture.store.complete(fixture.worker, outcomes).await.unwrap(), [Written::Applied, Written::Stale]);
}

/// A claim that a crash of the database took back leaves its run under an epoch that the next claim uses, too.
async fn what_another_worker_says_of_a_run_is_stale(fixture: Fixture) {
    let run = fixture.claimed(LEASE).await;
    let failure = Failure::new(FailureCode::ModelError, "it broke");
    let outcomes = [
        succeeded(run),
        Outcome::Failed { run, failure, metrics: RunMetrics::default() },
        Outcome::Retry { run, delay: SPENT },
        Outcome::Released { run },
    ];
    let other = WorkerId::generate();
    for outcome in outcomes {
        assert_eq!(fixture.store.complete(other, vec![outcome]).await.unwrap(), [Written::Stale]);
    }
    assert_eq!(fixture.store.complete(fixture.worker, vec![succeeded(run)]).await.unwrap(), [Written::Applied]);
}

async fn mixed_batches_are_answered_in_order(fixture: Fixture) {
    let mut runs = Vec::new();
    for _ in 0..40 {
        runs.push(fixture.claimed(LEASE).await);
    }
    let unknown = Run { id: PredictionId::generate(), epoch: 1 };
    let outcomes: Vec<Outcome> = runs
        .iter()
        .enumerate()
        .map(|(place, run)| match place % 5 {
            0 => succeeded(*run),
            1 => Outcome::Released { run: *run },
            2 => Outcome::Retry { run: *run, delay: LEASE },
            3 => succeeded(Run { epoch: 9, ..*run }),
            _ => succeeded(unknown),
        })
        .collect();
    let written = fixture.store.complete(fixture.worker, outcomes).await.unwrap();
    for (place, written) in written.into_iter().enumerate() {
        assert_eq!(written == Written::Applied, place % 5 < 3, "{place}");
    }
    assert_eq!(fixture.number(format!("SELECT count(*) FROM {}", fixture.outcomes())).await, 8);
}

async fn cancel_ends_what_waits_and_what_runs(fixture: Fixture) {
    let waiting = fixture.accept([new()]).await[0];
    let run = fixture.claimed(LEASE).await;
    for id in [waiting, run.id] {
        assert!(matches!(fixture.store.cancel("other", id).await.unwrap(), CancelResult::NotFound));
        let CancelResult::Canceled(found) = fixture.store.cancel("", id).await.unwrap() else { panic!("not canceled") };
        assert_eq!(found.status, Status::Canceled);
        assert_eq!(found.failure.unwrap().code, FailureCode::Canceled);
        assert!(found.completed_at.is_some() && found.expires_at.is_some());
        assert!(matches!(fixture.store.cancel("", id).await.unwrap(), CancelResult::AlreadyTerminal(_)));
    }
    assert_eq!(fixture.store.complete(fixture.worker, vec![succeeded(run)]).await.unwrap(), [Written::Stale]);
    let unknown = PredictionId::generate();
    assert!(matches!(fixture.store.cancel("", unknown).await.unwrap(), CancelResult::NotFound));
}
