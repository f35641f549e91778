//! `augur serve` follows its directory of models, at once when it is told to by SIGHUP.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};

use crate::{
    once::augur,
    served::{MODELS, Served, flag, serve},
    tiny,
};

const PATIENCE: Duration = Duration::from_secs(120);

/// Asks a model, again and again, until it is answered so.
async fn until(served: &Served, model: &str, input: &Value, status: u16) -> Value {
    let asked = async {
        loop {
            match served.submit_to(model, input).await {
                (found, answer) if found == status => return answer,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("no {status}:\n{}", served.process.log()))
}

async fn succeeds(served: &Served, prediction: &Value) {
    let prediction = served.finished(prediction["id"].as_str().expect("it has an id")).await;
    assert_eq!(prediction["status"], "succeeded", "{prediction}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_server_serves_what_is_added_and_no_longer_what_is_removed() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let (models_dir, from) = (home.path().join("models"), home.path().join("org/encoder"));
    let (data, models) = (flag("data-dir", &home.path().join("data")), flag("models-dir", &models_dir));
    let served = serve(&[&data, &models]).await;
    let text = json!({"text": "w2 w3 w4"});
    assert_eq!(served.submit_to("org/encoder", &text).await.0, 404);

    tiny::write(&from, 1);
    let added = augur(&["models", "add", from.to_str().expect("a path"), &models]).await;
    assert_eq!((added.status, added.err.as_str()), (Some(0), ""), "{added:?}");
    succeeds(&served, &until(&served, "org/encoder", &text, 202).await).await;

    // Told to look, it need not see it twice.
    let digits = Path::new(MODELS).join("augur/digits");
    let added = augur(&["models", "add", digits.to_str().expect("a path"), &models]).await;
    assert_eq!(added.status, Some(0), "{added:?}");
    served.process.signal("HUP");
    let pixels = json!({"pixels": vec![0; 64]});
    succeeds(&served, &until(&served, "augur/digits", &pixels, 202).await).await;
    let first = until(&served, "org/encoder", &text, 202).await["version"].clone();

    // Another version: those who name the model get it from now on.
    tiny::write(&from, 2);
    let added = augur(&["models", "add", from.to_str().expect("a path"), &models, "--replace"]).await;
    assert_eq!(added.status, Some(0), "{added:?}");
    served.process.signal("HUP");
    let changed = async {
        while until(&served, "org/encoder", &text, 202).await["version"] == first {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, changed).await.unwrap_or_else(|_| panic!("{}", served.process.log()));

    std::fs::remove_dir_all(models_dir.join("org")).expect("removes");
    served.process.signal("HUP");
    until(&served, "org/encoder", &text, 503).await;
    succeeds(&served, &served.submit(&json!({"value": 1})).await).await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_memory_has_no_room_for_is_refused_and_others_go_on() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let models_dir = home.path().join("models");
    let (data, models) = (flag("data-dir", &home.path().join("data")), flag("models-dir", &models_dir));
    let served = serve(&[&data, &models, "--models-memory=10000"]).await;
    let digits = Path::new(MODELS).join("augur/digits");
    let added = augur(&["models", "add", digits.to_str().expect("a path"), &models]).await;
    assert_eq!(added.status, Some(0), "{added:?}");
    served.process.signal("HUP");
    let told = async {
        while !served.process.log().contains("but models may take 10000 in all (--models-memory)") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.unwrap_or_else(|_| panic!("{}", served.process.log()));
    assert_eq!(served.submit_to("augur/digits", &json!({"pixels": vec![0; 64]})).await.0, 404);
    succeeds(&served, &served.submit(&json!({"value": 1})).await).await;
    served.stop().await;
}
