//! `augur serve` with nothing but a directory: it starts, stops, dies and comes back.

use std::{path::Path, time::Duration};

use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::timeout,
};

use crate::{
    once::{augur, command},
    served::{flag, serve},
};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_survives_sigkill() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = flag("data-dir", &directory.path().join("data"));
    let settings = [data.as_str(), "--lease=3s", "--slots=8"];
    let served = serve(&settings).await;
    let mut accepted = Vec::new();
    // The last of them lasts until the process dies.
    for value in 0..=100 {
        let sleep_ms = if value < 100 { 10 } else { 10_000 };
        let prediction = served.submit(&json!({ "value": value, "sleep_ms": sleep_ms })).await;
        accepted.push((value, prediction["id"].as_str().expect("it has an id").to_owned()));
    }
    served.finished(&accepted[0].1).await;
    served.begun(&accepted[100].1).await;
    assert_eq!(served.process.end("KILL").await, Some(128 + 9));

    let served = serve(&settings).await;
    let mut again = 0;
    for (value, id) in &accepted {
        let prediction = served.finished(id).await;
        assert_eq!(
            (&prediction["status"], &prediction["output"]),
            (&json!("succeeded"), &json!(value)),
            "{prediction}"
        );
        again += usize::from(prediction["attempt"].as_u64() > Some(1));
    }
    assert!(again > 0, "some ran when the process died");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_hands_back_what_still_runs() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = flag("data-dir", &directory.path().join("data"));
    let served = serve(&[&data, "--grace=100ms"]).await;
    let prediction = served.submit(&json!({ "value": "kept", "sleep_ms": 3000 })).await;
    let id = prediction["id"].as_str().expect("it has an id");
    served.stop().await;

    let served = serve(&[&data]).await;
    let prediction = served.finished(id).await;
    assert_eq!((&prediction["status"], &prediction["output"]), (&json!("succeeded"), &json!("kept")), "{prediction}");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_data_directory_serves_one_process() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = flag("data-dir", directory.path());
    let served = serve(&[&data]).await;
    let second = augur(&["serve", &data, "--enable-echo", "--models-dir=none", "--listen=127.0.0.1:0"]).await;
    assert_eq!((second.status, second.out.as_str()), (Some(1), ""), "{second:?}");
    assert!(second.err.contains("is used by another running augur"), "{}", second.err);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_serves_one_process() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let served = serve(&[]).await;
    let taken = served.address.strip_prefix("http://").expect("it is an address");
    let data = flag("data-dir", directory.path());
    let second = augur(&["serve", &data, "--enable-echo", "--models-dir=none", "--listen", taken]).await;
    assert_eq!(second.status, Some(1), "{second:?}");
    assert!(second.err.contains(&format!("{taken} is used by another program")), "{}", second.err);
    served.stop().await;
}

#[tokio::test]
async fn a_broken_model_ends_it_with_a_clear_word() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = flag("data-dir", directory.path());
    let ran = augur(&["serve", &data, "--listen=127.0.0.1:0", "--models-dir", "/nonexistent/models"]).await;
    assert_eq!(ran.status, Some(1), "{ran:?}");
    let said = ran.err.lines().last().unwrap_or_default();
    assert!(said.starts_with("error: ") && said.contains("/nonexistent/models"), "{}", ran.err);
}

#[tokio::test]
async fn weights_that_are_truncated_corrupt_or_missing_end_it_with_the_files_name() {
    const WEIGHTS: &str = "model.safetensors";
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/augur/digits");
    let whole = std::fs::read(shipped.join(WEIGHTS)).expect("the weights");
    let corrupt: Vec<u8> = [&[0xff; 8], &whole[8..]].concat();
    for weights in [Some(&whole[..whole.len() / 2]), Some(&corrupt), Some(&[]), None] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let model = directory.path().join("digits");
        std::fs::create_dir(&model).expect("it can be made");
        for file in ["model.toml", "input.schema.json", "output.schema.json"] {
            std::fs::copy(shipped.join(file), model.join(file)).expect("it can be copied");
        }
        if let Some(weights) = weights {
            std::fs::write(model.join(WEIGHTS), weights).expect("it can be written");
        }
        let (data, model) = (flag("data-dir", directory.path()), flag("model", &model));
        let ran = augur(&["serve", &data, &model, "--listen=127.0.0.1:0", "--models-dir=none"]).await;
        let said = ran.err.lines().last().unwrap_or_default();
        assert_eq!((ran.status, ran.out.as_str()), (Some(1), ""), "{ran:?}");
        assert!(said.starts_with("error: ") && said.contains(WEIGHTS), "{}", ran.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_well_though_whoever_read_its_log_is_gone() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = flag("data-dir", directory.path());
    let mut server = command(&["serve", &data, "--enable-echo", "--models-dir=none", "--listen=127.0.0.1:0"])
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(server.stdout.take().expect("its output is a pipe")).lines();
    let line = lines.next_line().await.expect("it is read").expect("it says where it listens");
    assert!(line.starts_with("listening on "), "{line}");
    drop(server.stderr.take());

    // It logs that it stops, and what came before.
    let id = server.id().expect("it runs").to_string();
    let told = Command::new("kill").args(["-TERM", &id]).status().await.expect("kill runs");
    assert!(told.success());
    let ended = timeout(Duration::from_secs(60), server.wait()).await.expect("it ends").expect("it is waited for");
    assert_eq!(ended.code(), Some(0));
}
