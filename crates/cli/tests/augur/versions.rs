//! Several versions of a model beside each other: how commands name them, and which one the name alone means.

use std::{fs, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    once::{Ran, augur},
    served::{Served, flag, serve},
    tiny,
};

const PATIENCE: Duration = Duration::from_secs(120);
const NAME: &str = "org/encoder";

struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn models_dir(&self) -> std::path::PathBuf {
        self.0.path().join("models")
    }

    async fn run(&self, arguments: &[&str]) -> Ran {
        augur(&[&["models"], arguments, &[&flag("models-dir", &self.models_dir())]].concat()).await
    }

    /// Adds a version of the model, each seed another; returns it.
    async fn add(&self, seed: u8, more: &[&str]) -> String {
        let from = self.0.path().join(format!("{seed}")).join(NAME);
        tiny::write(&from, seed);
        let ran = self.run(&[&["add", from.to_str().expect("a path")], more].concat()).await;
        assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""), "{ran:?}");
        self.printed(&["ls", "--json"])
            .await
            .as_array()
            .expect("a list")
            .iter()
            .find(|listed| ran.out.contains(&format!("version {},", &listed["version"].as_str().expect("one")[..12])))
            .map(|listed| listed["version"].as_str().expect("a version").to_owned())
            .expect("it is listed")
    }

    async fn printed(&self, arguments: &[&str]) -> Value {
        let ran = self.run(arguments).await;
        assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""), "{ran:?}");
        serde_json::from_str(&ran.out).expect("JSON")
    }

    async fn fails(&self, arguments: &[&str], status: i32, said: &str) {
        let ran = self.run(arguments).await;
        assert!(ran.status == Some(status) && ran.out.is_empty() && ran.err.contains(said), "{said}: {ran:?}");
    }
}

#[tokio::test]
async fn versions_are_listed_side_by_side_and_named_by_label_or_digits() {
    let home = Home::new();
    let old = home.add(1, &[]).await;
    let new = home.add(2, &["--label", "V2"]).await;
    let ran = home.run(&["ls"]).await;
    let rows: Vec<Vec<&str>> = ran.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((rows[1][0], rows[1][2], rows[1].last()), ("org/encoder", &old[..12], Some(&"yes")), "{}", ran.out);
    assert_eq!((rows[2][0], rows[2][2], rows[2].last()), ("org/encoder@v2", &new[..12], Some(&"kB")), "{}", ran.out);

    for (named, version) in [
        (NAME.to_owned(), &old),
        (format!("{NAME}@v2"), &new),
        (format!("{NAME}:{}", &new[..12]), &new),
        (format!("{NAME}:{}", old.to_uppercase()), &old),
    ] {
        let shown = home.printed(&["inspect", &named, "--json"]).await;
        assert_eq!((&shown["version"], &shown["is_default"]), (&json!(version), &json!(*version == old)), "{named}");
        assert_eq!(shown["label"], if *version == old { Value::Null } else { json!("v2") }, "{named}");
        let measured = home.printed(&["bench", &named, "--each=5ms", "--json"]).await;
        assert_eq!(measured.as_array().map(Vec::len), Some(9));
    }

    let list = "but org/encoder, org/encoder@v2; `augur models ls` shows them";
    for (named, status, said) in [
        ("org/encoder@v3", 1, list),
        ("org/encoder:000000000000", 1, list),
        ("org/other@v2", 1, "there is no model org/other"),
        ("org/encoder@../v2", 2, "a label is 1 to 64 letters"),
        ("org/encoder@default", 2, "no version has the label"),
        ("org/encoder:0123", 2, "12 to 64 hex digits"),
    ] {
        home.fails(&["inspect", named], status, said).await;
        home.fails(&["default", named], status, said).await;
    }
    let taken = home.0.path().join("2").join(NAME);
    home.fails(&["add", taken.to_str().expect("a path"), "--label=v2"], 1, "org/encoder@v2 is there already").await;
}

#[tokio::test]
async fn the_default_is_declared_and_a_wrong_declaration_can_be_mended() {
    let home = Home::new();
    let old = home.add(1, &[]).await;
    let new = home.add(2, &["--label=v2"]).await;
    let means = async |slot: &str, version: &str| {
        let ran = home.run(&["default", NAME]).await;
        let said = format!("org/encoder means {slot}, version {}, in ", &version[..12]);
        assert!(ran.status == Some(0) && ran.out.starts_with(&said), "{said}: {ran:?}");
        assert_eq!(home.printed(&["inspect", NAME, "--json"]).await["version"], version);
    };
    means("org/encoder", &old).await;
    assert_eq!(home.run(&["default", "org/encoder@v2"]).await.status, Some(0));
    means("org/encoder@v2", &new).await;
    assert_eq!(home.run(&["default", &format!("org/encoder:{}", &old[..12])]).await.status, Some(0));
    means("org/encoder", &old).await;
    assert_eq!(fs::read_dir(home.models_dir().join("org")).expect("a list").count(), 2, "nothing is left over");

    let file = home.models_dir().join("org/encoder@default");
    fs::write(&file, "v3").expect("writes");
    home.fails(&["inspect", NAME], 1, "says v3, but there is no directory encoder@v3 beside it").await;
    let ran = home.run(&["ls"]).await;
    assert!(ran.out.contains("broken: says v3, but there is no directory"), "{}", ran.out);
    assert_eq!(home.run(&["inspect", "org/encoder@v2"]).await.status, Some(0), "others can be looked at");
    assert_eq!(home.run(&["default", "org/encoder@v2"]).await.status, Some(0));
    means("org/encoder@v2", &new).await;

    fs::remove_file(file).expect("removes");
    fs::remove_dir_all(home.models_dir().join(NAME)).expect("removes");
    home.fails(&["default", NAME], 1, "org/encoder has no default version in").await;
}

/// Asks until it is answered by this version, or with this status.
async fn until(served: &Served, version: &str, status: u16, expected: &str) -> Value {
    let asked = async {
        loop {
            let body = json!({"version": version, "input": {"text": "w2 w3 w4"}});
            let call = reqwest::Client::new().post(format!("{}/v1/predictions", served.address)).json(&body);
            let response = call.send().await.expect("the server answers");
            let found = response.status().as_u16();
            let answer: Value = response.json().await.expect("JSON");
            if found == status && (status != 202 || answer["version"] == expected) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let log = || served.process.log();
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("no {status} of {expected}:\n{}", log()))
}

async fn output(served: &Served, prediction: &Value) -> Value {
    let finished = served.finished(prediction["id"].as_str().expect("it has an id")).await;
    assert_eq!(finished["status"], "succeeded", "{finished}");
    assert_eq!(finished["version"], prediction["version"]);
    finished["output"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_serves_all_versions_and_follows_the_default() {
    let home = Home::new();
    let old = home.add(1, &[]).await;
    let data = flag("data-dir", &home.0.path().join("data"));
    let served = serve(&[&data, &flag("models-dir", &home.models_dir())]).await;
    let before = output(&served, &until(&served, NAME, 202, &old).await).await;

    // A smaller version comes beside it: the name alone goes on meaning the exact one.
    let ran = home.run(&["quantize", NAME, "--to", "int8", "--yes", "--json"]).await;
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let report: Value = serde_json::from_str(&ran.out).expect("JSON");
    let new = report["result"]["version"].as_str().expect("a version");
    served.process.signal("HUP");
    let pinned = format!("{NAME}:{}", &new[..12]);
    let rounded = output(&served, &until(&served, &pinned, 202, new).await).await;
    assert_ne!(rounded, before, "it answers less exactly");
    assert_eq!(output(&served, &until(&served, NAME, 202, &old).await).await, before);

    let declared = home.run(&["default", "org/encoder@int8"]).await;
    assert_eq!(declared.status, Some(0), "{declared:?}");
    assert_eq!(output(&served, &until(&served, NAME, 202, new).await).await, rounded);
    assert_eq!(output(&served, &until(&served, &old, 202, &old).await).await, before, "pinned, it answers still");
    let ran = augur(&["predict", "--server", &served.address, &pinned, r#"{"text": "w2 w3 w4"}"#]).await;
    assert_eq!((ran.status, serde_json::from_str(&ran.out).ok()), (Some(0), Some(rounded)), "{ran:?}");

    // Its directory goes: pinned it is refused, and the name alone means nothing until another is declared.
    fs::remove_dir_all(home.models_dir().join("org/encoder@int8")).expect("removes");
    served.process.signal("HUP");
    let refused = until(&served, &pinned, 503, "").await;
    let said = refused["detail"].as_str().expect("a detail");
    assert_eq!(said, format!("No worker serves {pinned} now, but {NAME}:{}.", &old[..12]));
    let refused = until(&served, NAME, 503, "").await;
    assert!(refused["detail"].as_str().expect("a detail").contains("the default version of org/encoder"), "{refused}");
    assert_eq!(home.run(&["default", &format!("{NAME}:{}", &old[..12])]).await.status, Some(0));
    assert_eq!(output(&served, &until(&served, NAME, 202, &old).await).await, before);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_without_files_is_warned_of_until_they_come() {
    let home = Home::new();
    let old = home.add(1, &[]).await;
    let declared = home.models_dir().join("org/encoder@v2");
    fs::create_dir(&declared).expect("makes a directory");
    fs::write(home.models_dir().join("org/encoder@default"), "v2\n").expect("writes");
    let listed = home.run(&["ls"]).await.out;
    assert!(listed.contains("org/encoder@v2  broken, and declared to be the default: no model"), "{listed}");
    let data = flag("data-dir", &home.0.path().join("data"));
    let served = serve(&[&data, &flag("models-dir", &home.models_dir())]).await;
    let warned = || served.process.log().matches("no model lies where its default version is declared to be").count();
    assert_eq!(warned(), 1, "{}", served.process.log());
    let refused = until(&served, NAME, 404, "").await;
    assert!(refused["detail"].as_str().expect("a detail").contains("has no default version; name one"), "{refused}");
    until(&served, &old, 202, &old).await;
    assert_eq!(warned(), 1, "it is told once: {}", served.process.log());
    fs::remove_dir(&declared).expect("it is empty");
    let new = home.add(2, &["--label=v2"]).await;
    served.process.signal("HUP");
    until(&served, NAME, 202, &new).await;
    served.stop().await;
}

#[tokio::test]
async fn predict_takes_no_label() {
    let ran = augur(&["predict", "org/encoder@v2", "{}"]).await;
    assert!(ran.status == Some(2) && ran.err.contains("servers know no labels"), "{ran:?}");
}
