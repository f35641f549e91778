//! Creating predictions.

use crate::harness::{Server, config, digits, echo, header, id_of, json_of, name, offer, problem, until, version};
use prediction::{Priority, StreamKey};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

fn moment(value: &Value) -> OffsetDateTime {
    OffsetDateTime::parse(value.as_str().unwrap(), &Rfc3339).unwrap()
}

#[tokio::test]
async fn an_accepted_prediction_is_answered_stored_and_queued() {
    let server = Server::start().await;
    let body = json!({
        "version": version('a').as_str(), "input": {"value": [1, {"x": null}]},
        "priority": "high", "metadata": {"order": 17}, "stream": false, "webhook": null
    });
    let response = server.post("/v1/predictions", &body).send().await.unwrap();
    assert_eq!(header(&response, "retry-after"), "1");
    assert_eq!(header(&response, "cache-control"), "no-store");
    let location = header(&response, "location").to_owned();
    let created = json_of(response, 202).await;
    let id = id_of(&created);
    assert_eq!(location, server.url(&format!("/v1/predictions/{id}")));
    let stream = created["urls"]["stream"].as_str().unwrap();
    assert!(stream.starts_with(&format!("{location}/stream?sig=")), "{stream}");
    assert_eq!(created["urls"], json!({"get": location, "cancel": format!("{location}/cancel"), "stream": stream}));
    assert_eq!(id.0.get_version_num(), 7);

    let mut read = server.read(&format!("/v1/predictions/{id}")).await;
    assert_eq!(read["queue"], json!({"position": 0, "eta_seconds": null}));
    read.as_object_mut().unwrap().remove("queue");
    assert_eq!(moment(&read["created_at"]), moment(&created["created_at"]));
    read["created_at"] = created["created_at"].clone();
    assert_eq!(read, created);
    let expected = json!({
        "model": "augur/echo", "version": version('a').as_str(), "status": "starting",
        "input": {"value": [1, {"x": null}]}, "output": null, "error": null, "failure": null, "logs": "",
        "metrics": {}, "started_at": null, "completed_at": null, "deadline_at": null, "expires_at": null,
        "data_removed": false, "source": "api", "attempt": 0, "priority": "high", "metadata": {"order": 17},
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(created[field], *value, "{field}");
    }
    let stream = StreamKey { model: name("augur/echo"), version: version('a'), priority: Priority::High };
    until(|| async { (server.queue.depth(&stream).await.unwrap().undelivered == 1).then_some(()) }).await;
}

#[tokio::test]
async fn the_input_passes_through_as_written() {
    let server = Server::start().await;
    let body = r#"{"model":"augur/echo","input":{"value": 1.50, "sleep_ms":10 }}"#;
    let request = server.client.post(server.url("/v1/predictions")).header("content-type", "application/json");
    let id = id_of(&json_of(request.body(body).send().await.unwrap(), 202).await);
    assert_eq!(
        server.store.claim(server.worker, &[id], std::time::Duration::from_secs(9)).await.unwrap().claimed[0]
            .input
            .as_ref()
            .unwrap()
            .get(),
        r#"{"value": 1.50, "sleep_ms":10 }"#
    );
}

#[tokio::test]
async fn a_model_can_be_named_in_every_way() {
    let server = Server::start().await;
    let input = json!({"value": 1});
    for naming in [
        json!({"version": version('a').short()}),
        json!({"version": "A".repeat(20)}),
        json!({"version": "augur/echo"}),
        json!({"version": format!("augur/echo:{}", version('a'))}),
        json!({"model": "Augur/Echo", "version": null}),
        json!({"model": "augur/echo:aaaaaaaaaaaa"}),
    ] {
        let mut body = naming.clone();
        body["input"] = input.clone();
        let created = json_of(server.post("/v1/predictions", &body).send().await.unwrap(), 202).await;
        assert_eq!((&created["model"], &created["version"]), (&json!("augur/echo"), &json!(version('a'))), "{naming}");
    }
    let body = json!({"input": input});
    let created = json_of(server.post("/v1/models/augur/echo/predictions", &body).send().await.unwrap(), 202).await;
    assert_eq!(created["model"], "augur/echo");
    let both = json!({"input": input, "model": "augur/echo"});
    let refused = server.post("/v1/models/augur/echo/predictions", &both).send().await.unwrap();
    assert_eq!(problem(refused, 422, "invalid_request").await["errors"][0]["pointer"], "/model");
}

#[tokio::test]
async fn a_name_means_the_newest_of_what_workers_call_its_default() {
    let server = Server::bare(config()).await;
    server.publish(&[echo('a')]).await;
    let other = prediction::WorkerId::generate();
    server.store.publish(other, "other", &[offer(&echo('b'), true)], 0).await.unwrap();
    let body = json!({"model": "augur/echo", "input": {"value": 1}});
    let runs_on = async |digit: char| {
        until(|| async {
            let created = json_of(server.post("/v1/predictions", &body).send().await.unwrap(), 202).await;
            (created["version"] == version(digit).as_str()).then_some(())
        })
        .await;
    };
    runs_on('b').await;
    server.store.withdraw(other).await.unwrap();
    runs_on('a').await;
}

#[tokio::test]
async fn what_nobody_serves_is_refused_or_queued_as_configured() {
    let body = json!({"model": "augur/digits", "input": {"pixels": vec![1; 64]}});
    for queue_unserved in [false, true] {
        let server = Server::bare(api::Config { queue_unserved, ..config() }).await;
        server.publish(&[digits()]).await;
        server.store.withdraw(server.worker).await.unwrap();
        // Until the catalog is read again the worker counts as there.
        let unserved = until(|| async {
            let response = server.post("/v1/predictions", &body).send().await.unwrap();
            let workers = &server.read("/v1/models/augur/digits").await["latest_version"]["workers"];
            (*workers == 0 && (queue_unserved || response.status() != 202)).then_some(response)
        });
        let response = unserved.await;
        if queue_unserved {
            json_of(response, 202).await;
        } else {
            assert_eq!(header(&response, "retry-after"), "5");
            problem(response, 503, "model_unavailable").await;
        }
        let unknown = json!({"model": "augur/unheard-of", "input": {}});
        problem(server.post("/v1/predictions", &unknown).send().await.unwrap(), 404, "model_not_found").await;
    }
}

#[tokio::test]
async fn deadlines_come_from_header_or_body() {
    let server = Server::start().await;
    let body = |deadline: Option<&str>| json!({"model": "augur/echo", "input": {"value": 1}, "deadline": deadline});
    for (header, field) in [(Some("30s"), None), (None, Some("30s")), (Some("30s"), Some("30000ms"))] {
        let mut request = server.post("/v1/predictions", &body(field));
        if let Some(header) = header {
            request = request.header("cancel-after", header);
        }
        let created = json_of(request.send().await.unwrap(), 202).await;
        assert_eq!(moment(&created["deadline_at"]) - moment(&created["created_at"]), time::Duration::seconds(30));
    }
    let request = server.post("/v1/predictions", &body(Some("31s"))).header("cancel-after", "30s");
    problem(request.send().await.unwrap(), 400, "malformed_request").await;
    for bad in ["", "30", "0s", "-1s", "1w", "soon", "9999999d"] {
        let request = server.post("/v1/predictions", &body(None)).header("cancel-after", bad);
        problem(request.send().await.unwrap(), 400, "malformed_request").await;
        let refused = server.post("/v1/predictions", &body(Some(bad))).send().await.unwrap();
        assert_eq!(problem(refused, 422, "invalid_request").await["error"]["param"], "/deadline", "{bad}");
    }
}

#[tokio::test]
async fn a_public_address_is_used_in_answers() {
    let server =
        Server::start_with(api::Config { public_url: Some("https://augur.test/x/".to_owned()), ..config() }).await;
    let body = json!({"model": "augur/echo", "input": {"value": 1}});
    let created = json_of(server.post("/v1/predictions", &body).send().await.unwrap(), 202).await;
    let address = format!("https://augur.test/x/v1/predictions/{}", id_of(&created));
    assert_eq!(created["urls"]["get"], address);
}
