//! `augur` on a real Postgres, with and without a real Redis.

use serde_json::json;

use crate::{
    once::{augur, well},
    served::{MODELS, serve},
};

#[tokio::test(flavor = "multi_thread")]
async fn an_old_schema_is_refused_until_it_is_migrated() {
    let database = format!("--database-url={}", servers::database().await);
    let arguments = ["serve", &database, "--enable-echo", "--models-dir=none", "--listen=127.0.0.1:0"];
    let refused = augur(&arguments).await;
    assert_eq!((refused.status, refused.out.as_str()), (Some(1), ""), "{refused:?}");
    assert!(refused.err.contains("run `augur migrate` (or start with --migrate)"), "{}", refused.err);

    for said in ["the database schema is up to date now\n", "the database schema was up to date already\n"] {
        let migrated = augur(&["migrate", &database]).await;
        assert_eq!((migrated.status, migrated.out.as_str()), (Some(0), said), "{migrated:?}");
    }
    let served = serve(&[&database]).await;
    let prediction = served.submit(&json!({ "value": "kept" })).await;
    let prediction = served.finished(prediction["id"].as_str().expect("it has an id")).await;
    assert_eq!(prediction["output"], "kept", "{prediction}");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_redis_it_serves_too() {
    let database = format!("--database-url={}", servers::database().await);
    let (url, namespace) = servers::redis().await;
    let (redis, namespace) = (format!("--redis-url={url}"), format!("--queue-namespace={namespace}"));
    let served = serve(&[&database, &redis, &namespace, "--migrate"]).await;
    let prediction = served.submit(&json!({ "value": "kept" })).await;
    let prediction = served.finished(prediction["id"].as_str().expect("it has an id")).await;
    assert_eq!(prediction["output"], "kept", "{prediction}");

    let doctor = well(&["doctor", &database, &redis, "--models-dir", MODELS, "--listen=127.0.0.1:0"]).await;
    assert_eq!((doctor.status, doctor.err.as_str()), (Some(0), ""), "{doctor:?}");
    assert_eq!(doctor.out.lines().filter(|line| line.starts_with("ok ")).count(), 6, "{}", doctor.out);
    served.stop().await;
}
