//! The database itself refuses what the state machine does not have, whoever asks.

use prediction::{Failure, FailureCode, PredictionId};
use store::{Outcome, RunMetrics};

use crate::fixture::{Fixture, LEASE, json, new};

on_both!(illegal_changes_are_refused, illegal_beginnings_are_refused, every_pair_of_statuses_is_an_edge_or_refused);

async fn illegal_changes_are_refused(fixture: Fixture) {
    let waiting = fixture.accept([new()]).await[0];
    let running = fixture.claimed(LEASE).await.id;
    let succeeded = fixture.claimed(LEASE).await;
    let metrics = RunMetrics::default();
    let outcome = Outcome::Succeeded { run: succeeded, output: json("1"), metrics };
    fixture.store.complete(fixture.worker, vec![outcome]).await.unwrap();
    let failed = fixture.claimed(LEASE).await;
    let failure = Failure::new(FailureCode::ModelError, "it broke");
    fixture.store.complete(fixture.worker, vec![Outcome::Failed { run: failed, failure, metrics }]).await.unwrap();

    let no_run = "worker = NULL, lease_until = NULL";
    let over = "completed_at = created_at, expires_at = created_at";
    let (output, error) = fixture.outcome_columns();
    let claimed = "epoch = 1, attempts = 1, started_at = created_at, claimed_at = created_at";
    let (whole, terminal) = ("predictions_whole_status", "predictions_terminal");
    let refused = [
        // Constraints on a row.
        (running, whole, format!("status = 5, {no_run}, {over} {error}")),
        (waiting, "predictions_asked_once", "priority = 2".to_owned()),
        (waiting, whole, "lease_until = created_at".to_owned()),
        (waiting, whole, "solo = NOT solo".to_owned()),
        (waiting, "predictions_whole_runs", "crashes = 1".to_owned()),
        (waiting, whole, "completed_at = created_at".to_owned()),
        (waiting, whole, "expires_at = created_at".to_owned()),
        (waiting, "predictions_attempts", "attempts = 1".to_owned()),
        (waiting, whole, format!("status = 1, {claimed}")),
        (waiting, whole, format!("status = 4, epoch = 1 {error}")),
        (running, whole, "worker = NULL".to_owned()),
        (running, whole, "lease_until = NULL".to_owned()),
        (running, whole, "solo = NOT solo".to_owned()),
        (running, whole, "suspect = NOT suspect".to_owned()),
        (running, whole, "status = 0".to_owned()),
        (running, whole, format!("status = 2, {no_run} {output}")),
        // Rules about a change.
        (running, "predictions_attempts", "epoch = 0, attempts = 0".to_owned()),
        (running, "predictions_fence", "epoch = epoch - 1".to_owned()),
        (running, "predictions_fence", format!("status = 4, {no_run}, {over} {error}")),
        (waiting, "predictions_edge", format!("status = 2, {claimed}, {over} {output}")),
        (running, "predictions_counts", "retries = -1".to_owned()),
        (succeeded.id, terminal, "status = 0, completed_at = NULL, expires_at = NULL".to_owned()),
        (succeeded.id, terminal, "status = 3".to_owned()),
        (succeeded.id, terminal, "epoch = epoch + 1".to_owned()),
        (succeeded.id, terminal, "completed_at = created_at".to_owned()),
        (succeeded.id, terminal, "retries = retries + 1".to_owned()),
        (failed.id, terminal, "status = 2".to_owned()),
    ];
    for (id, rule, change) in refused {
        if let Some(refusal) = fixture.refusal(&update(&fixture, id, &change)).await {
            assert_eq!(refusal, rule, "{change}");
        }
    }
    for id in [waiting, running] {
        fixture.refusal(&format!("DELETE FROM predictions WHERE id = {}", fixture.id(id))).await;
    }
    fixture.refusal("INSERT INTO installation (secret) SELECT secret FROM installation").await;
    // What the refusals left: exactly what was there, and room for what is legal.
    let harmless = update(&fixture, succeeded.id, "expires_at = created_at");
    assert_eq!(fixture.execute(harmless).await.unwrap(), 1);
    assert_eq!(fixture.number("SELECT sum(status) FROM predictions").await, 1 + 2 + 3);
}

fn update(fixture: &Fixture, id: PredictionId, change: &str) -> String {
    format!("UPDATE predictions SET {change} WHERE id = {}", fixture.id(id))
}

/// Postgres has outcomes in the rows of their predictions: one that is whole, once it is over, and never another.
#[tokio::test]
async fn a_row_has_one_outcome_once_it_is_over() {
    let fixture = Fixture::postgres().await;
    let waiting = fixture.accept([new()]).await[0];
    let running = fixture.claimed(LEASE).await.id;
    let [succeeded, failed] = [fixture.claimed(LEASE).await, fixture.claimed(LEASE).await];
    let metrics = RunMetrics::default();
    let outcomes = vec![
        Outcome::Succeeded { run: succeeded, output: json("1"), metrics },
        Outcome::Failed { run: failed, failure: Failure::new(FailureCode::ModelError, "it broke"), metrics },
    ];
    fixture.store.complete(fixture.worker, outcomes).await.unwrap();

    let columns = [
        "output = '2'",
        "code = 'model_error'",
        "message = 'it broke again'",
        "retryable = true",
        "logs = 'a line'",
        "predict_seconds = 2.5",
        "batch_size = 2",
        "tokens = 2",
    ];
    for change in columns {
        for id in [waiting, running] {
            let refusal = fixture.refusal(&update(&fixture, id, change)).await;
            assert_eq!(refusal.as_deref(), Some("predictions_whole_status"), "{change}");
        }
        for id in [succeeded.id, failed.id] {
            let refusal = fixture.refusal(&update(&fixture, id, change)).await;
            assert_eq!(refusal.as_deref(), Some("predictions_terminal"), "{change}");
        }
    }
    let over = "worker = NULL, lease_until = NULL, completed_at = created_at, expires_at = created_at";
    for (status, outcome) in [
        (2, ""),
        (2, ", code = 'model_error', message = 'it broke', retryable = false"),
        (2, ", output = '1', code = 'model_error', message = 'it broke', retryable = false"),
        (2, ", output = '1', code = 'model_error'"),
        (2, ", output = '1', message = 'it broke'"),
        (2, ", output = '1', retryable = false"),
        (3, ""),
        (3, ", output = '1'"),
        (3, ", output = '1', code = 'model_error', message = 'it broke', retryable = false"),
        (3, ", code = 'model_error', message = 'it broke'"),
        (3, ", code = 'model_error', retryable = false"),
        (4, ", message = 'it was canceled', retryable = false"),
        (4, ""),
    ] {
        let change = format!("status = {status}, epoch = epoch + 1, {over}{outcome}");
        let refusal = fixture.refusal(&update(&fixture, running, &change)).await;
        assert_eq!(refusal.as_deref(), Some("predictions_whole_status"), "{change}");
    }
}

/// SQLite has them in a table of their own.
#[tokio::test]
async fn a_prediction_has_one_row_of_outcome() {
    let fixture = Fixture::sqlite().await;
    let run = fixture.claimed(LEASE).await;
    let outcome = Outcome::Succeeded { run, output: json("1"), metrics: RunMetrics::default() };
    fixture.store.complete(fixture.worker, vec![outcome]).await.unwrap();
    let id = fixture.id(run.id);
    for sql in [
        format!("UPDATE outputs SET output = '2' WHERE prediction_id = {id}"),
        format!("INSERT INTO outputs (prediction_id, output) VALUES ({id}, '2')"),
        "INSERT INTO outputs (prediction_id, output, code) VALUES (x'01', '2', 'model_error')".to_owned(),
        "INSERT INTO outputs (prediction_id) VALUES (x'01')".to_owned(),
    ] {
        fixture.refusal(&sql).await;
    }
}

async fn illegal_beginnings_are_refused(fixture: Fixture) {
    let (waiting, running) = (fixture.accept([new()]).await[0], fixture.claimed(LEASE).await.id);
    // Like this one but in these columns.
    let begin = async |like: PredictionId, changed: &str, value: &str| {
        let columns = [
            "created_at",
            "not_before",
            "retention",
            "version_id",
            "max_retries",
            "priority",
            "tenant",
            "claimed_at",
            "started_at",
            "lease_until",
            "completed_at",
            "expires_at",
            "worker",
            "epoch",
            "attempts",
            "retries",
            "crashes",
            "releases",
            "status",
            "suspect",
            "solo",
        ];
        let values: Vec<&str> = columns
            .iter()
            .map(|name| if changed.split(' ').any(|changed| changed == *name) { value } else { *name })
            .collect();
        let (new, like) = (fixture.id(PredictionId::generate()), fixture.id(like));
        let (columns, values) = (columns.join(", "), values.join(", "));
        let sql = format!(
            "INSERT INTO predictions (id, {columns}) SELECT {new}, {values} FROM predictions WHERE id = {like}"
        );
        fixture.execute(sql).await
    };
    for (like, changed, value) in [
        (waiting, "status", "1"),
        (waiting, "status", "4"),
        (waiting, "epoch", "1"),
        (waiting, "attempts", "1"),
        (waiting, "retries", "1"),
        (waiting, "releases", "1"),
        (waiting, "suspect", "NOT suspect"),
        (running, "epoch", "2"),
        (running, "epoch", "0"),
        (running, "attempts", "0"),
        (running, "retries", "1"),
        (running, "worker", "NULL"),
        (running, "lease_until", "NULL"),
        (running, "started_at", "NULL"),
        (running, "status", "2"),
        (running, "solo", "NOT solo"),
        (running, "suspect solo", "NOT solo"),
    ] {
        assert!(begin(like, changed, value).await.is_err(), "not refused: {changed} = {value}");
    }
    for like in [waiting, running] {
        assert_eq!(begin(like, "", "").await.unwrap(), 1, "what is legal is not refused");
    }
}

async fn every_pair_of_statuses_is_an_edge_or_refused(fixture: Fixture) {
    use prediction::Status;
    for from in Status::ALL {
        for to in Status::ALL {
            let id = fixture.accept([new()]).await[0];
            let row = fixture.id(id);
            let change_to = |status: Status| {
                let held = if status == Status::Processing { "id, created_at" } else { "NULL, NULL" };
                let (worker, lease) = held.split_once(", ").unwrap();
                let end = if status.is_terminal() { "created_at" } else { "NULL" };
                let (output, error) = fixture.outcome_columns();
                let outcome = match status {
                    Status::Starting | Status::Processing => "",
                    Status::Succeeded => output,
                    Status::Failed | Status::Canceled => error,
                };
                format!(
                    "UPDATE predictions SET status = {}, epoch = epoch + 1, attempts = 1, started_at = created_at,
                     claimed_at = created_at, worker = {worker}, lease_until = {lease}, completed_at = {end},
                     expires_at = {end} {outcome} WHERE id = {row}",
                    status.code()
                )
            };
            if from != Status::Starting {
                fixture.execute(change_to(Status::Processing)).await.unwrap();
            }
            if from.is_terminal() {
                fixture.execute(change_to(from)).await.unwrap();
            }
            if from != to {
                assert_eq!(fixture.execute(change_to(to)).await.is_ok(), from.may_become(to), "{from} to {to}");
            }
        }
    }
}
