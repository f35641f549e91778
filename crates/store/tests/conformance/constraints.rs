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
    let refused = [
        // Constraints on a row.
        (waiting, "status = 5, completed_at = created_at, expires_at = created_at".to_owned()),
        (waiting, "priority = 2".to_owned()),
        (waiting, "lease_until = created_at".to_owned()),
        (waiting, "solo = NOT solo".to_owned()),
        (waiting, "crashes = 1".to_owned()),
        (waiting, "completed_at = created_at".to_owned()),
        (waiting, "expires_at = created_at".to_owned()),
        (waiting, "attempts = 1".to_owned()),
        (waiting, "status = 1, epoch = 1".to_owned()),
        (waiting, "status = 4, epoch = 1".to_owned()),
        (running, "worker = NULL".to_owned()),
        (running, "lease_until = NULL".to_owned()),
        (running, "solo = NOT solo".to_owned()),
        (running, "suspect = NOT suspect".to_owned()),
        (running, "status = 0".to_owned()),
        (running, format!("status = 2, {no_run}")),
        // Rules about a change.
        (running, "epoch = 0, attempts = 0".to_owned()),
        (running, "epoch = epoch - 1".to_owned()),
        (running, format!("status = 4, {no_run}, completed_at = created_at, expires_at = created_at")),
        (
            waiting,
            "status = 2, epoch = 1, attempts = 1, started_at = created_at, claimed_at = created_at,
                   completed_at = created_at, expires_at = created_at"
                .to_owned(),
        ),
        (running, "retries = -1".to_owned()),
        (succeeded.id, "status = 0, completed_at = NULL, expires_at = NULL".to_owned()),
        (succeeded.id, "status = 3".to_owned()),
        (succeeded.id, "epoch = epoch + 1".to_owned()),
        (succeeded.id, "completed_at = created_at".to_owned()),
        (succeeded.id, "retries = retries + 1".to_owned()),
        (failed.id, "status = 2".to_owned()),
    ];
    for (id, change) in refused {
        let sql = format!("UPDATE predictions SET {change} WHERE id = {}", fixture.id(id));
        assert!(fixture.execute(&sql).await.is_err(), "not refused: {sql}");
    }
    for id in [waiting, running] {
        let sql = format!("DELETE FROM predictions WHERE id = {}", fixture.id(id));
        assert!(fixture.execute(&sql).await.is_err(), "not refused: {sql}");
    }
    let id = fixture.id(succeeded.id);
    for sql in [
        format!("UPDATE outputs SET output = '2' WHERE prediction_id = {id}"),
        format!("INSERT INTO outputs (prediction_id, output) VALUES ({id}, '2')"),
        "INSERT INTO installation (secret) SELECT secret FROM installation".to_owned(),
    ] {
        assert!(fixture.execute(&sql).await.is_err(), "not refused: {sql}");
    }
    // What the refusals left: exactly what was there, and room for what is legal.
    let harmless = format!("UPDATE predictions SET expires_at = created_at WHERE id = {id}");
    assert_eq!(fixture.execute(harmless).await.unwrap(), 1);
    assert_eq!(fixture.number("SELECT sum(status) FROM predictions").await, 1 + 2 + 3);
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
                format!(
                    "UPDATE predictions SET status = {}, epoch = epoch + 1, attempts = 1, started_at = created_at,
                     claimed_at = created_at, worker = {worker}, lease_until = {lease}, completed_at = {end},
                     expires_at = {end} WHERE id = {row}",
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
