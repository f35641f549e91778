//! `augur keys`, and programs that heed what it did: nothing that is stored or said holds a key.

use std::{fs, path::Path, time::Duration};

use serde_json::{Value, json};
use servers::answered;

use crate::{
    once::{Ran, augur, command, once_stored},
    served::{Served, flag, serve},
};

async fn keys(place: &str, arguments: &[&str]) -> Ran {
    let mut all = vec!["keys"];
    all.extend(arguments);
    all.push(place);
    augur(&all).await
}

/// Makes a key and returns it.
async fn create(place: &str, arguments: &[&str]) -> String {
    shown(place, &[&["create"], arguments].concat()).await
}

/// Does what prints a key, and returns that.
async fn shown(place: &str, arguments: &[&str]) -> String {
    let made = keys(place, arguments).await;
    assert_eq!(made.status, Some(0), "{made:?}");
    let key = made.out.strip_suffix('\n').expect("a line").to_owned();
    assert!(key.starts_with("augur_") && key.len() == 49, "{made:?}");
    assert!(made.err.contains("cannot be shown again") && !made.err.contains(&key), "{made:?}");
    key
}

/// Sends something with this key, or none; returns the answer's status.
async fn submit(served: &Served, key: Option<&str>) -> u16 {
    let url = format!("{}/v1/models/augur/echo/predictions", served.address);
    let call = reqwest::Client::new().post(url).json(&json!({"input": {"value": 1}}));
    let call = if let Some(key) = key { call.bearer_auth(key) } else { call };
    answered(call).await.0
}

/// Waits until that is answered so.
async fn until(served: &Served, key: Option<&str>, status: u16) {
    let asking = async {
        while submit(served, key).await != status {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), asking).await.expect("it takes two seconds");
}

/// What a key must be looked for in: every file of a directory.
fn bytes_in(directory: &Path) -> Vec<u8> {
    let files = fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path());
    files.filter(|path| path.is_file()).flat_map(|path| fs::read(path).expect("a file")).collect()
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

async fn made_listed_and_revoked(place: &str) {
    let web = create(place, &["web", "--share", "0.25"]).await;
    let batch = create(place, &["batch"]).await;
    assert_ne!(web, batch);
    let again = keys(place, &["create", "web"]).await;
    assert_eq!((again.status, again.out.as_str()), (Some(1), ""), "{again:?}");
    assert!(again.err.contains("there is a key web already"), "{}", again.err);
    for bad in
        [["create", "17"].as_slice(), &["create", "a b"], &["create", "x", "--share=0"], &["create", "x", "--share=2"]]
    {
        assert_eq!(keys(place, bad).await.status, Some(2), "{bad:?}");
    }

    let rotated = shown(place, &["rotate", "web"]).await;
    assert!(rotated != web && rotated != batch);
    let overlapping = keys(place, &["rotate", "batch", "--overlap", "1h"]).await;
    assert!(
        overlapping.status == Some(0) && overlapping.err.contains("Its former text is good until 20"),
        "{overlapping:?}"
    );
    assert_eq!(keys(place, &["rotate", "batch", "--overlap", "0s"]).await.status, Some(2));
    let revoked = keys(place, &["revoke", "web"]).await;
    assert_eq!((revoked.status, revoked.err.as_str()), (Some(0), ""), "{revoked:?}");
    assert!(revoked.out.starts_with("revoked the key web (1)"), "{}", revoked.out);
    for gone in ["web", "1", "nobody", "99"] {
        for verb in ["revoke", "rotate"] {
            let none = keys(place, &[verb, gone]).await;
            assert_eq!((none.status, none.out.as_str()), (Some(1), ""), "{none:?}");
            assert!(none.err.contains("there is no valid key"), "{}", none.err);
        }
    }
    let listed = keys(place, &["ls"]).await;
    let lines: Vec<Vec<&str>> = listed.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["ID", "NAME", "SHARE", "CREATED", "FORMER", "UNTIL", "REVOKED"]);
    assert_eq!((&lines[1][..3], lines[1].len()), (["1", "web", "0.25"].as_slice(), 5));
    assert_eq!((&lines[2][..3], lines[2].len(), lines.len()), (["2", "batch", "usual"].as_slice(), 5, 3));
    let listed = keys(place, &["ls", "--json"]).await;
    for key in [&web, &batch, &rotated] {
        assert!(!listed.out.contains(&key[6..]));
    }
    let listed: Value = serde_json::from_str(&listed.out).expect("it prints JSON");
    assert_eq!((&listed[0]["share"], &listed[1]["share"]), (&json!(0.25), &json!(null)));
    let ends = |key: &Value| key["former_expire_at"].as_array().expect("a list").len();
    assert_eq!((ends(&listed[0]), ends(&listed[1])), (0, 1), "{listed}");
    assert!(listed[0]["revoked_at"].is_string() && listed[1]["revoked_at"].is_null(), "{listed}");
    assert_eq!(keys(place, &["revoke", "2"]).await.status, Some(0));
    // Its name is free again.
    create(place, &["web"]).await;
}

#[tokio::test]
async fn on_sqlite_keys_are_made_listed_and_revoked() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("new");
    let absent = keys(&flag("data-dir", &data), &["ls"]).await;
    assert_eq!((absent.status, absent.out.as_str()), (Some(1), ""), "{absent:?}");
    assert!(!data.exists(), "what only looks makes nothing");
    made_listed_and_revoked(&flag("data-dir", &data)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_keys_are_made_listed_and_revoked() {
    let database = format!("--database-url={}", servers::database().await);
    let behind = keys(&database, &["ls"]).await;
    assert!(behind.status == Some(1) && behind.err.contains("run `augur migrate`"), "{behind:?}");
    assert_eq!(augur(&["migrate", &database]).await.status, Some(0));
    made_listed_and_revoked(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_server_heeds_them_and_nothing_holds_a_key() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = flag("data-dir", directory.path());
    let served = serve(&[&data, "AUGUR_LOG=trace"]).await;
    assert_eq!(submit(&served, None).await, 202);
    let key = create(&data, &["web"]).await;
    until(&served, None, 401).await;
    assert_eq!(submit(&served, Some(&key)).await, 202);

    let asking = |variable: Option<&str>| {
        let mut predict = command(&["predict", "--server", &served.address, "echo", r#"{"value": 5}"#]);
        if let Some(key) = variable {
            predict.env("AUGUR_API_KEY", key);
        }
        predict
    };
    let predict = async |variable: Option<&str>| once_stored(|| asking(variable)).await;
    let predicted = predict(Some(&key)).await;
    assert_eq!((predicted.status, predicted.out.as_str()), (Some(0), "5\n"), "{predicted:?}");
    let without = predict(None).await;
    assert_eq!((without.status, without.out.as_str()), (Some(2), ""), "{without:?}");
    assert!(without.err.contains("Invalid API key (401)") && without.err.contains("AUGUR_API_KEY"), "{}", without.err);
    let bad = "augur_\u{7f}secret";
    let unsent = predict(Some(bad)).await;
    assert!(unsent.status == Some(2) && !unsent.err.contains("secret"), "{unsent:?}");

    // However wrongly it is sent.
    let http = reqwest::Client::new();
    let url = |path: &str| format!("{}{path}", served.address);
    for call in [
        http.get(url(&format!("/v1/predictions?api_key={key}"))),
        http.get(url(&format!("/v1/predictions?api_key={key}"))).bearer_auth(&key),
        http.get(url("/v1/predictions")).header("authorization", format!("Basic {key}")),
        http.get(url("/v1/predictions")).header("authorization", &key),
        http.get(url("/v1/predictions")).bearer_auth(format!("{key}x")),
        http.post(url("/v1/predictions")).bearer_auth(&key).body("no JSON"),
        http.get(url("/v1/nothing")).bearer_auth(&key),
    ] {
        let response = call.send().await.expect("the server answers");
        assert!(response.status().is_client_error());
        let answer = response.text().await.expect("a body");
        assert!(!answer.contains(&key), "{answer}");
    }
    // The same key with another text sees what it made before.
    let read = async |path: &str, key: &str| -> Value { answered(http.get(url(path)).bearer_auth(key)).await.1 };
    let made = read("/v1/predictions", &key).await["results"][0].clone();
    // First with an overlap, in which both texts are good; then without one, which ends that too.
    let between = shown(&data, &["rotate", "web", "--overlap", "1h"]).await;
    until(&served, Some(&between), 202).await;
    assert_eq!(submit(&served, Some(&key)).await, 202);
    let short = shown(&data, &["rotate", "web", "--overlap", "2s"]).await;
    until(&served, Some(&key), 401).await;
    until(&served, Some(&between), 401).await;
    assert_eq!(submit(&served, Some(&short)).await, 202);
    let rotated = shown(&data, &["rotate", "web"]).await;
    until(&served, Some(&short), 401).await;
    let id = made["id"].as_str().expect("an id");
    assert_eq!(read(&format!("/v1/predictions/{id}"), &rotated).await["created_at"], made["created_at"]);
    let revoked = keys(&data, &["revoke", "web"]).await;
    assert_eq!(revoked.status, Some(0), "{revoked:?}");
    until(&served, Some(&rotated), 401).await;
    assert_eq!(submit(&served, None).await, 401, "the door stays closed");

    // While it runs, with what is not checkpointed yet, and afterwards.
    let running = bytes_in(directory.path());
    let log = served.process.log();
    assert!(log.contains("answered"), "requests are logged");
    served.stop().await;
    let stored = bytes_in(directory.path());
    assert!(holds(&stored, "web"));
    for key in [key, between, short, rotated] {
        for place in [running.as_slice(), &stored, log.as_bytes()] {
            assert!(!holds(place, &key[6..]));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_keys_it_serves_beyond_this_machine() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = flag("data-dir", directory.path());
    let listen = "--listen=0.0.0.0:0";
    let arguments = ["serve", &data, "--enable-echo", "--models-dir=none", listen];
    let refused = augur(&arguments).await;
    assert_eq!((refused.status, refused.out.as_str()), (Some(1), ""), "{refused:?}");
    assert!(refused.err.contains("augur keys create") && refused.err.contains("--allow-remote"), "{}", refused.err);

    let key = create(&data, &["web"]).await;
    let served = serve(&[&data, listen]).await;
    let served = Served { address: served.address.replace("0.0.0.0", "127.0.0.1"), ..served };
    assert_eq!((submit(&served, None).await, submit(&served, Some(&key)).await), (401, 202));
    served.stop().await;
}
