//! Several versions of a model at once: which one its name alone means, and that each can be pinned.

use prediction::WorkerId;
use serde_json::{Value, json};

use crate::harness::{Server, config, echo, header, json_of, offer, problem, until, version};

fn asking(target: &str) -> Value {
    json!({"version": target, "input": {"value": 1}})
}

/// Asks until the answer is of this status, as it will be when the catalog has been read again, and passes.
async fn answered(server: &Server, target: &str, status: u16, is_so: impl Fn(&Value) -> bool) -> Value {
    until(|| async {
        let response = server.post("/v1/predictions", &asking(target)).send().await.unwrap();
        let found = response.status().as_u16();
        let answer: Value = response.json().await.unwrap();
        (found == status && is_so(&answer)).then_some(answer)
    })
    .await
}

#[tokio::test]
async fn a_name_alone_means_the_default_version_and_every_other_can_be_pinned() {
    let server = Server::bare(config()).await;
    let publish = async |old: bool, new: bool| {
        let offers = [offer(&echo('a'), old), offer(&echo('b'), new)];
        server.store.publish(server.worker, "test", &offers, 0).await.unwrap();
    };
    publish(true, false).await;
    let is = |digit: char| move |answer: &Value| answer["version"] == version(digit).as_str();
    answered(&server, "augur/echo", 202, is('a')).await;
    for digit in ['a', 'b'] {
        for target in [version(digit).short(), version(digit).as_str()] {
            answered(&server, target, 202, is(digit)).await;
            answered(&server, &format!("augur/echo:{target}"), 202, is(digit)).await;
        }
    }
    let model = server.read("/v1/models/augur/echo").await;
    let latest = &model["latest_version"];
    assert_eq!((&latest["id"], &latest["is_default"]), (&json!(version('a').as_str()), &json!(true)), "{model}");
    let page = server.read("/v1/models/augur/echo/versions").await;
    let of = |version: &Value| (version["id"].clone(), version["workers"].clone(), version["is_default"].clone());
    let mut listed: Vec<_> = page["results"].as_array().unwrap().iter().map(of).collect();
    listed.sort_by_key(|(id, ..)| id.to_string());
    assert_eq!(
        listed,
        [(json!(version('a').as_str()), json!(1), json!(true)), (json!(version('b').as_str()), json!(1), json!(false))]
    );
    let one = server.read(&format!("/v1/models/augur/echo/versions/{}", version('b').short())).await;
    assert_eq!(one["is_default"], false, "{one}");

    publish(false, true).await;
    answered(&server, "augur/echo", 202, is('b')).await;
    answered(&server, version('a').as_str(), 202, is('a')).await;
    publish(true, false).await;
    answered(&server, "augur/echo", 202, is('a')).await;

    // A version that is not the default does not become it because it is all that is left, or because it is newer.
    let gone = WorkerId::generate();
    server.store.publish(gone, "other", &[offer(&echo('c'), false)], 0).await.unwrap();
    server.store.publish(server.worker, "test", &[offer(&echo('b'), false)], 0).await.unwrap();
    let refused = answered(&server, "augur/echo", 503, |_| true).await;
    let said = refused["detail"].as_str().unwrap();
    let names = ['b', 'c'].map(|digit| format!("augur/echo:{}", version(digit).short()));
    assert!(said.starts_with("No worker serves the default version of augur/echo now, but augur/echo:"), "{said}");
    assert!(names.iter().all(|name| said.contains(name)), "{said}");
    let pinned = format!("augur/echo:{}", version('a').short());
    let refused = answered(&server, &pinned, 503, |_| true).await;
    assert!(
        refused["detail"].as_str().unwrap().starts_with(&format!("No worker serves {pinned} now, but")),
        "{refused}"
    );
    answered(&server, version('c').as_str(), 202, is('c')).await;
}

#[tokio::test]
async fn what_is_declared_holds_though_a_worker_that_was_killed_said_otherwise() {
    let server = Server::bare(config()).await;
    let publish = async |worker, old: bool| {
        let offers = [offer(&echo('a'), old), offer(&echo('b'), !old)];
        server.store.publish(worker, "test", &offers, 0).await.unwrap();
    };
    server.store.publish(server.worker, "test", &[offer(&echo('a'), true)], 0).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    publish(server.worker, false).await;
    publish(WorkerId::generate(), false).await;
    answered(&server, "augur/echo", 202, |answer| answer["version"] == version('b').as_str()).await;
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    publish(server.worker, true).await;
    let means = |name| move |answer: &Value| answer["version"] == version(name).as_str();
    answered(&server, "augur/echo", 202, means('a')).await;
    // So it is with a worker that is started after one was killed.
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    publish(WorkerId::generate(), false).await;
    answered(&server, "augur/echo", 202, means('b')).await;
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    publish(WorkerId::generate(), true).await;
    answered(&server, "augur/echo", 202, means('a')).await;
    let page = server.read("/v1/models/augur/echo/versions").await;
    let of = |version: &Value| (version["id"].clone(), version["workers"].clone(), version["is_default"].clone());
    let listed: Vec<_> = page["results"].as_array().unwrap().iter().map(of).collect();
    let (new, old) = (json!(version('b').as_str()), json!(version('a').as_str()));
    assert_eq!(listed, [(new, json!(4), json!(false)), (old, json!(4), json!(true))], "newest first");
}

#[tokio::test]
async fn a_model_without_a_default_version_is_asked_by_version_alone() {
    let server = Server::bare(config()).await;
    let offers = [offer(&echo('a'), false), offer(&echo('b'), false)];
    server.store.publish(server.worker, "test", &offers, 0).await.unwrap();
    let response = server.post("/v1/predictions", &asking("augur/echo")).send().await.unwrap();
    let refused = problem(response, 404, "version_not_found").await;
    let said = refused["detail"].as_str().unwrap();
    assert!(said.contains("has no default version; name one, as in augur/echo:"), "{said}");
    let model = server.read("/v1/models/augur/echo").await;
    assert_eq!((&model["latest_version"], &model["task"]), (&Value::Null, &json!("echo")), "{model}");
    let pinned = server.post("/v1/predictions", &asking(version('b').short())).send().await.unwrap();
    assert_eq!(json_of(pinned, 202).await["version"], version('b').as_str());
}

#[tokio::test]
async fn what_waits_for_a_worker_waits_for_the_version_that_was_the_default_last() {
    let server = Server::bare(api::Config { queue_unserved: true, ..config() }).await;
    let publish = async |old: bool, new: bool| {
        let offers = [offer(&echo('a'), old), offer(&echo('b'), new)];
        server.store.publish(server.worker, "test", &offers, 0).await.unwrap();
    };
    publish(true, false).await;
    answered(&server, "augur/echo", 202, |answer| answer["version"] == version('a').as_str()).await;
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    publish(false, true).await;
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    publish(true, false).await;
    server.store.withdraw(server.worker).await.unwrap();
    until(|| async { (server.read("/v1/models/augur/echo").await["latest_version"]["workers"] == 0).then_some(()) })
        .await;
    let response = server.post("/v1/predictions", &asking("augur/echo")).send().await.unwrap();
    assert!(header(&response, "location").contains("/v1/predictions/"));
    assert_eq!(json_of(response, 202).await["version"], version('a').as_str(), "though the other was published later");
}
