//! Waiting for predictions to finish.

use std::time::Duration;

use prediction::PredictionId;

use crate::{
    harness::{Server, header, id_of, json_of, problem, until},
    postgres,
};
use serde_json::json;

#[tokio::test]
async fn a_create_that_waits_is_answered_with_the_result() {
    let server = Server::start().await;
    let body = json!({"model": "augur/echo", "input": {"value": 1}});
    let creating = server.post("/v1/predictions", &body).header("prefer", "wait").send();
    let finishing = async {
        let id = server.newest().await;
        server.finish(id).await;
        id
    };
    let (response, id) = tokio::join!(creating, finishing);
    let response = response.unwrap();
    assert_eq!(header(&response, "preference-applied"), "wait=60");
    assert_eq!(header(&response, "location"), server.url(&format!("/v1/predictions/{id}")));
    assert!(!response.headers().contains_key("retry-after"));
    let finished = json_of(response, 201).await;
    assert_eq!(finished["status"], "succeeded");
    assert_eq!(finished["output"], id.to_string());
    assert_eq!((&finished["metrics"]["batch_size"], &finished["metrics"]["tokens"]), (&json!(3), &json!(7)));
    assert_eq!(finished["metrics"]["predict_time"], 0.25);
    assert!(finished["metrics"]["total_time"].as_f64().unwrap() >= 0.0);
    assert!(finished["completed_at"].is_string() && finished["started_at"].is_string());
}

#[tokio::test]
async fn an_expired_wait_says_starting_even_when_it_runs() {
    let server = Server::start().await;
    let body = json!({"model": "augur/echo", "input": {"value": 1}});
    let creating = server.post("/v1/predictions", &body).header("prefer", "wait=2").send();
    let (response, run) = tokio::join!(creating, async { server.claim(server.newest().await).await });
    let response = response.unwrap();
    assert_eq!(header(&response, "preference-applied"), "wait=2");
    let expired = json_of(response, 202).await;
    assert_eq!(expired["status"], "starting");
    assert_eq!(id_of(&expired), run.id);
    // A reader is told the truth.
    assert_eq!(server.read(&format!("/v1/predictions/{}?wait=1", run.id)).await["status"], "processing");
}

#[tokio::test]
async fn preferences_that_are_malformed_or_contrary_do_not_wait() {
    let server = Server::start().await;
    let body = json!({"model": "augur/echo", "input": {"value": 1}});
    for (preference, applied) in
        [("respond-async", Some("respond-async")), ("wait=0", None), ("wait=soon", None), ("handling=lenient", None)]
    {
        let response = server.post("/v1/predictions", &body).header("prefer", preference).send().await.unwrap();
        let found = response.headers().get("preference-applied").map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(found.as_deref(), applied, "{preference}");
        json_of(response, 202).await;
    }
}

#[tokio::test]
async fn readers_are_woken_by_a_notice_and_without_one() {
    let server = Server::start().await;
    for is_told in [true, false] {
        let id = server.create(1).await;
        let path = format!("/v1/predictions/{id}?wait=60");
        let waiters = futures::future::join_all((0..20).map(|_| server.read(&path)));
        let finishing = async {
            let run = server.claim(id).await;
            server.complete_silently(run).await;
            if is_told {
                server.queue.tell(queue::Notice::Finished(std::sync::Arc::new([id]))).await;
            }
        };
        let (answers, ()) = tokio::join!(waiters, finishing);
        assert!(answers.iter().all(|answer| answer["status"] == "succeeded" && answer.get("queue").is_none()));
    }
}

/// Ends it in another server's store, and tells those who wait in this server's process: they cannot have it from its store.
async fn end_elsewhere(server: &Server, id: PredictionId) {
    let elsewhere = Server::start().await;
    let body = json!({"model": "augur/echo", "input": {"value": 1}});
    json_of(elsewhere.put(&format!("/v1/predictions/{id}"), &body).send().await.unwrap(), 202).await;
    until(async || server.waiters.ids().contains(&id).then_some(())).await;
    elsewhere.complete_for(server, elsewhere.claim(id).await).await;
    assert_eq!(server.read(&format!("/v1/predictions/{id}")).await["status"], "starting");
}

#[tokio::test]
async fn whoever_is_told_how_it_ended_is_answered_without_a_look() {
    let server = Server::start().await;
    let body = json!({"model": "augur/echo", "input": {"value": 1}});
    let creating = server.post("/v1/predictions", &body).header("prefer", "wait").send();
    let ending = async {
        let id = server.newest().await;
        end_elsewhere(&server, id).await;
        id
    };
    let (created, id) = tokio::join!(creating, ending);
    let created = json_of(created.unwrap(), 201).await;
    assert_eq!((&created["status"], &created["output"]), (&json!("succeeded"), &json!(id.to_string())));

    let id = server.create(1).await;
    let path = format!("/v1/predictions/{id}?wait=60");
    let ((), read) = tokio::join!(end_elsewhere(&server, id), server.read(&path));
    assert_eq!((&read["status"], &read["output"]), (&json!("succeeded"), &json!(id.to_string())));
    assert!(read.get("queue").is_none() && read["completed_at"].is_string());

    let id = server.create(1).await;
    let following = async {
        let path = format!("/v1/predictions/{id}/stream");
        server.get(&path).header("accept", "text/event-stream").send().await.unwrap().text().await.unwrap()
    };
    let ((), told) = tokio::join!(end_elsewhere(&server, id), following);
    assert!(told.contains(&id.to_string()) && told.contains("event: done"), "{told}");
}

#[tokio::test]
async fn what_a_waiting_caller_is_told_is_what_a_reader_finds() {
    let server = postgres::over(servers::database().await).await;
    // Postgres writes metadata in its own words.
    for metadata in [None, Some(r#"{"zz": 1e2, "a": 1}"#)] {
        for value in [json!(1.0e2), json!("x".repeat(3000))] {
            let input = json!({ "value": value });
            let metadata = metadata.map(|metadata| format!(r#", "metadata": {metadata}"#)).unwrap_or_default();
            let body = format!(r#"{{"model": "augur/echo", "input": {input}{metadata}}}"#);
            let request = server.client.post(server.url("/v1/predictions")).header("prefer", "wait");
            let creating = request.header("content-type", "application/json").body(body).send();
            let ending = async {
                let id = until(|| async { server.waiters.ids().pop() }).await;
                let run = until(|| async {
                    let claim = server.store.claim(server.worker, &[id], Duration::from_secs(60)).await.unwrap();
                    claim.claimed.first().map(|claimed| claimed.run)
                });
                server.complete_for(&server, run.await).await;
                id
            };
            let (created, id) = tokio::join!(creating, ending);
            let created = created.unwrap();
            assert_eq!(created.status(), 201);
            let read = server.get(&format!("/v1/predictions/{id}")).send().await.unwrap();
            assert_eq!(created.text().await.unwrap(), read.text().await.unwrap());
        }
    }
}

#[tokio::test]
async fn a_finished_prediction_is_not_waited_for() {
    let server = Server::start().await;
    let id = server.create(1).await;
    server.finish(id).await;
    let path = format!("/v1/predictions/{id}");
    let response = server.get(&path).header("prefer", "wait=60").send().await.unwrap();
    assert_eq!(header(&response, "preference-applied"), "wait=60");
    assert_eq!(json_of(response, 200).await["status"], "succeeded");
    problem(
        server.get("/v1/predictions/00000000-0000-0000-0000-000000000000?wait=60").send().await.unwrap(),
        404,
        "not_found",
    )
    .await;
}

#[tokio::test]
async fn waits_out_of_bounds_are_refused() {
    let server = Server::start().await;
    let id = server.create(1).await;
    for query in ["wait=0", "wait=61", "wait=x", "wait=", "wait=1.5", "wait=1&wait=2", "weight=1"] {
        let response = server.get(&format!("/v1/predictions/{id}?{query}")).send().await.unwrap();
        problem(response, 400, "malformed_request").await;
    }
}

#[tokio::test]
async fn a_caller_who_hangs_up_leaves_nothing_undone() {
    let server = Server::start().await;
    let body = json!({"model": "augur/echo", "input": {"value": 1}}).to_string();
    let head = "POST /v1/predictions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nprefer: wait\r\n";
    let stream = server.connect(&format!("{head}content-length: {}\r\n\r\n{body}", body.len())).await;
    let id = server.newest().await;
    drop(stream);
    server.finish(id).await;
    assert_eq!(server.read(&format!("/v1/predictions/{id}")).await["status"], "succeeded");
}
