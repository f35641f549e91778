//! The steps of the demonstration: each sends something over HTTP and shows what came back.

use std::time::Duration;

use prediction::{ModelName, Status};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json, value::RawValue};
use settings::{Fatal, say};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    client::{Answer, Client, ClientError},
    demo::{
        digits::{DIGITS, Digit},
        webhooks,
    },
    screen::{milliseconds, thousands},
};

/// Between two looks at a prediction.
const POLL: Duration = Duration::from_millis(2);
/// The longest any one prediction may take here.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How many predictions are sent at once.
const BURST: usize = 200;
/// Stands for a receiver on the internet; nobody has this name (RFC 2606).
const RECEIVER: &str = "https://receiver.example/finished";

#[derive(Deserialize)]
struct DigitOutput {
    label: u8,
    probabilities: Vec<f64>,
}

#[derive(Deserialize)]
pub(crate) struct FlowerOutput {
    pub(crate) label: String,
}

/// A digit: submitted, then asked for until it is finished.
pub(crate) async fn submit_and_poll(client: &Client, begun: Instant) -> Result<(), Fatal> {
    say("1. Send a handwritten digit, get a receipt at once, ask until the answer is there");
    let digit = &DIGITS[3];
    for line in digit.picture() {
        say(format_args!("      {line}"));
    }
    let sent = Instant::now();
    let mut answer = client.submit(&digits_model()?, &digit_input(digit)?, None).await?;
    say(format_args!("   accepted after {}: {} is {}", milliseconds(sent.elapsed()), answer.id, answer.status));
    while !answer.status.is_terminal() {
        if sent.elapsed() > PATIENCE {
            return Err(Fatal::new(format!("the prediction {} is not finished after {PATIENCE:?}", answer.id)));
        }
        sleep(POLL).await;
        answer = client.get(&answer.id, None).await?;
    }
    let output: DigitOutput = output(&answer)?;
    let sure = output.probabilities.get(usize::from(output.label)).copied().unwrap_or_default() * 100.0;
    say(format_args!("✓ it is a {} ({sure:.1} % sure), after {}", output.label, milliseconds(sent.elapsed())));
    if output.label != digit.label {
        return Err(Fatal::new(format!("that is wrong: it is a {}", digit.label)));
    }
    say(format_args!("✓ first prediction after {}\n", milliseconds(begun.elapsed())));
    Ok(())
}

/// A flower: one call that waits for the answer.
pub(crate) async fn submit_and_wait(client: &Client) -> Result<(), Fatal> {
    say("2. Send four measurements of an iris flower, and let the call wait for the answer (Prefer: wait)");
    let sent = Instant::now();
    let input = flower_input()?;
    let answer = client.submit(&flower_model()?, &input, Some(PATIENCE)).await?;
    let output: FlowerOutput = output(&answer)?;
    say(format_args!("   {input}"));
    say(format_args!("✓ it is an iris {}, after {}\n", output.label, milliseconds(sent.elapsed())));
    Ok(())
}

/// Many digits at once.
pub(crate) async fn burst(client: &Client) -> Result<(), Fatal> {
    say(format_args!("3. Send {BURST} digits at the same moment"));
    let (model, sent) = (digits_model()?, Instant::now());
    let mut calls = JoinSet::new();
    for digit in DIGITS.iter().cycle().take(BURST) {
        let (client, model, input) = (client.clone(), model.clone(), digit_input(digit)?);
        calls.spawn(async move { Ok((digit.label, client.submit(&model, &input, Some(PATIENCE)).await?)) });
    }
    let mut right = 0;
    while let Some(call) = calls.join_next().await {
        let (label, answer): (u8, Answer) = call?.map_err(|error: ClientError| Fatal::from(error))?;
        right += usize::from(output::<DigitOutput>(&answer)?.label == label);
    }
    let took = sent.elapsed();
    let rate = thousands((BURST as f64 / took.as_secs_f64()) as u64);
    say(format_args!(
        "✓ {BURST} of {BURST} succeeded, {right} with the right digit, after {}: {rate} a second\n",
        milliseconds(took)
    ));
    Ok(())
}

/// Something that is no digit: refused before it is accepted, with the place of the fault.
pub(crate) async fn bad_input(client: &Client) -> Result<(), Fatal> {
    say("4. Send a digit with a cell of 17, where 16 is the most");
    let mut pixels = DIGITS[3].pixels();
    pixels[10] = 17;
    let input = serde_json::value::to_raw_value(&json!({ "pixels": pixels }))?;
    match client.submit(&digits_model()?, &input, None).await {
        Err(error @ ClientError::Refused { status: 422, .. }) => {
            say(format_args!("✓ refused, and nothing was accepted: {error}"));
            Ok(())
        }
        Err(error) => Err(error.into()),
        Ok(answer) => Err(Fatal::new(format!("a bad input was accepted as {}", answer.id))),
    }
}

/// The lines that send the same predictions from a shell.
pub(crate) fn repeat(client: &Client) -> Result<(), Fatal> {
    let (digits, iris) = (client.submit_url(&digits_model()?), client.submit_url(&flower_model()?));
    let body = |request: Value| format!("-H 'Content-Type: application/json' -d '{request}'");
    say(format_args!("\n  curl {digits} {}", body(json!({ "input": digit_input(&DIGITS[3])? }))));
    say(format_args!("  curl {}", client.get_url("ID")));
    say(format_args!("  curl {iris} -H 'Prefer: wait' {}", body(json!({ "input": flower_input()? }))));
    let told = json!({ "input": flower_input()?, "webhook": RECEIVER, "webhook_events_filter": webhooks::EVENTS });
    say(format_args!(
        "\nTo be told at a URL of yours instead (--webhook-allow lets it be a private one), and how that went:"
    ));
    say(format_args!("\n  curl {iris} {}", body(told)));
    say(format_args!("  curl {}", client.deliveries_url()));
    Ok(())
}

fn digits_model() -> Result<ModelName, Fatal> {
    Ok(ModelName::local("digits")?)
}

fn digit_input(digit: &Digit) -> Result<Box<RawValue>, Fatal> {
    Ok(serde_json::value::to_raw_value(&json!({ "pixels": digit.pixels() }))?)
}

pub(crate) fn flower_model() -> Result<ModelName, Fatal> {
    Ok(ModelName::local("iris")?)
}

pub(crate) fn flower_input() -> Result<Box<RawValue>, Fatal> {
    let flower = json!({ "sepal_length": 6.3, "sepal_width": 3.3, "petal_length": 6.0, "petal_width": 2.5 });
    Ok(serde_json::value::to_raw_value(&flower)?)
}

/// The output of a prediction that succeeded.
pub(crate) fn output<T: DeserializeOwned>(answer: &Answer) -> Result<T, Fatal> {
    match (answer.status, &answer.output) {
        (Status::Succeeded, Some(output)) => Ok(serde_json::from_str(output.get())?),
        (status, _) => {
            let why = answer.failure.as_ref().map_or_else(String::new, |failure| format!(": {failure}"));
            Err(Fatal::new(format!("the prediction {} is {status}{why}", answer.id)))
        }
    }
}
