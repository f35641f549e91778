//! `augur demo`.

use std::time::Duration;

use servers::{Process, answered};

use crate::once::augur;

#[tokio::test]
async fn the_demo_shows_real_predictions_and_ends_well() {
    let ran = augur(&["demo"]).await;
    assert_eq!(ran.status, Some(0), "{ran:?}");
    for shown in [
        "██",
        "✓ it is a 3 (",
        "✓ first prediction after ",
        "✓ it is an iris virginica",
        "✓ 200 of 200 succeeded",
        "✓ refused, and nothing was accepted: Invalid input (422)",
        "/input/pixels/10",
        "   webhook-signature: v1,",
        "   augur-event: completed",
        "✓ the signature fits this server's secret: an iris virginica, after ",
        "✓ with another body it does not",
        "\"webhook\":\"https://receiver.example/finished\",\"webhook_events_filter\":[\"completed\"]",
        "curl http://127.0.0.1:8000/v1/models/augur/digits/predictions",
    ] {
        assert!(ran.out.contains(shown), "{shown:?} is missing:\n{}", ran.out);
    }
    assert_eq!(ran.err, "");
}

#[tokio::test]
async fn kept_it_serves_on_and_its_curl_lines_work() {
    let process = Process::new("augur-demo", vec![env!("CARGO_BIN_EXE_augur").into(), "demo".into(), "--keep".into()]);
    process.start().await;
    let patience = Duration::from_secs(120);
    let address = process.line_that_begins("listening on ", patience).await;
    let curl = format!("curl {address}/v1/models/augur/digits/predictions ");
    let line = process.line_that_begins(&format!("  {curl}"), patience).await;
    let body =
        line.split_once("-d '").and_then(|(_, body)| body.strip_suffix('\'')).expect("it sends a body").to_owned();
    let url = format!("{address}/v1/models/augur/digits/predictions");
    let call = reqwest::Client::new().post(url).header("Content-Type", "application/json").body(body);
    assert_eq!(answered(call).await.0, 202);
    assert_eq!(process.end("INT").await, Some(0), "{}", process.log());
}

#[tokio::test]
async fn without_its_models_it_fails_and_says_so() {
    let ran = augur(&["demo", "--models-dir", "/nonexistent/models"]).await;
    assert_eq!(ran.status, Some(1), "{ran:?}");
    assert!(ran.err.starts_with("error: ") && ran.err.contains("/nonexistent/models"), "{}", ran.err);
}
