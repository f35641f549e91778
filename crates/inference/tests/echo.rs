//! The toy: its values, its failures, and taking it back.

use inference::{Abandon, Config, Model, Models, Output};
use prediction::{Failure, FailureCode};
use serde_json::value::RawValue;
use tokio::time::{Duration, timeout};

/// Far longer than anything here takes, far shorter than the sleeps that are taken back.
const SOON: Duration = Duration::from_secs(60);

fn echo() -> Model {
    let models = Models::load(&Config { enable_echo: true, ..Config::default() }).expect("it loads");
    let [spec] = &models.specs()[..] else { panic!("one model is served") };
    assert_eq!(spec.name.as_str(), "augur/echo");
    models.get(&spec.name, &spec.version).expect("it is served")
}

async fn predict(model: &Model, input: &str, abandon: &Abandon) -> Result<Output, Failure> {
    let input: &RawValue = serde_json::from_str(input).expect("JSON");
    timeout(SOON, model.predict(input, abandon.clone())).await.expect("in time")
}

#[tokio::test]
async fn values_pass_unchanged() {
    let echo = echo();
    let long = format!("\"{}\"", "x".repeat(100_000));
    for value in
        ["null", "1.0000000000000000001e400", "{ \"b\": 1, \"a\": [ ], \"b\": 2 }", "\"\\u0041\\ud83d\\ude00\"", &long]
    {
        let output = predict(&echo, &format!("{{\"value\": {value}}}"), &Abandon::default()).await.expect("no failure");
        assert_eq!(output.value.get(), value);
    }
}

#[tokio::test]
async fn it_fails_when_asked_to() {
    let echo = echo();
    for (kind, retryable) in [("retryable", true), ("permanent", false)] {
        let input = format!("{{\"value\": 1, \"sleep_ms\": 1.0, \"fail\": \"{kind}\"}}");
        let failure = predict(&echo, &input, &Abandon::default()).await.expect_err("it was asked to fail");
        assert_eq!((failure.code, failure.retryable), (FailureCode::ModelError, retryable));
    }
    for input in [
        "{}",
        "{\"value\": 1, \"x\": 2}",
        "{\"value\": 1, \"sleep_ms\": 600001}",
        "{\"value\": 1, \"fail\": \"no\"}",
        "3",
    ] {
        let failure = predict(&echo, input, &Abandon::default()).await.expect_err("it does not fit");
        assert_eq!(failure.code, FailureCode::InvalidInput, "{input}");
        let input = serde_json::from_str(input).expect("JSON");
        assert!(!jsonschema::is_valid(&echo.spec().input_schema, &input), "{input}");
    }
}

#[tokio::test]
async fn who_wants_to_be_alone_is_alone() {
    let echo = echo();
    let abandon = Abandon::default();
    let ask = |rest: &str| {
        let input = format!("{{\"value\": 1, \"sleep_ms\": 20{rest}}}");
        let (echo, abandon) = (&echo, &abandon);
        async move { predict(echo, &input, abandon).await.expect("no failure").batch_size }
    };
    let together = futures::future::join_all((0..8).map(|_| ask(""))).await;
    assert!(together.iter().any(|size| *size > 1), "{together:?}");
    let alone =
        futures::future::join_all((0..8).map(|number| ask(if number % 2 == 0 { ", \"alone\": true" } else { "" })));
    let alone = alone.await;
    assert!(alone.iter().step_by(2).all(|size| *size == 1), "{alone:?}");
}

const SLEEPS: &str = "{\"value\": 1, \"sleep_ms\": 600000}";

/// Nothing tells that the engine has begun; long before this it has, and had it not, all would end the same way.
async fn begun() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

#[tokio::test]
async fn abandoned_ones_end_at_once_and_free_the_engine() {
    let echo = echo();
    let abandon = Abandon::default();
    let (running, ()) = tokio::join!(predict(&echo, SLEEPS, &abandon), async {
        begun().await;
        abandon.abandon();
    });
    assert_eq!(running.expect_err("it was taken back").code, FailureCode::Canceled);
    let before = predict(&echo, "{\"value\": 1}", &abandon).await.expect_err("it was taken back before");
    assert_eq!(before.code, FailureCode::Canceled);
    predict(&echo, "{\"value\": 2}", &Abandon::default()).await.expect("the engine is free");
}

#[tokio::test]
async fn dropped_ones_free_the_engine() {
    let echo = echo();
    let sleeping = tokio::spawn({
        let echo = echo.clone();
        async move { predict(&echo, SLEEPS, &Abandon::default()).await }
    });
    begun().await;
    sleeping.abort();
    assert!(sleeping.await.expect_err("it was dropped").is_cancelled());
    predict(&echo, "{\"value\": 2}", &Abandon::default()).await.expect("the engine is free");
}
