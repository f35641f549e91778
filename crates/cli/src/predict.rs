//! `augur predict`: one prediction on a running server, from the command line.

use std::{
    fs,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use prediction::Status;
use serde_json::value::RawValue;
use settings::{Fatal, Predict, Which, say};
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    client::{Answer, Client, ClientError, RETRY},
    follow::{End, Printed, follow},
};

/// The exit status when the call was wrong, or there is no server to take it.
const NOT_ASKED: u8 = 2;

/// Sends the prediction, waits for its end and prints its output.
pub(crate) async fn predict(settings: Predict) -> Result<(), Fatal> {
    let input = read_input(&settings.input).map_err(|error| error.with_status(NOT_ASKED))?;
    let client = Client::new(&settings.server, settings.api_key.as_ref()).map_err(not_asked)?;
    let waiting = Waiting { client, wait: settings.wait, deadline: Instant::now() + settings.wait };
    let wait = (!settings.stream).then_some(settings.wait);
    let (client, model) = (&waiting.client, &settings.model);
    let submitted = match model.which {
        Which::Default => client.submit(&model.name, &input, wait).await,
        Which::Labelled(_) | Which::Digits(_) => client.submit_to_version(&model.to_string(), &input, wait).await,
    };
    let answer = submitted.map_err(not_asked)?;
    if settings.stream { waiting.follow(answer).await } else { print(&waiting.for_end(answer).await?) }
}

/// Waiting for a prediction.
struct Waiting {
    client: Client,
    wait: Duration,
    deadline: Instant,
}

impl Waiting {
    /// Prints what it writes until its end.
    async fn follow(&self, answer: Answer) -> Result<(), Fatal> {
        let mut printed = Printed::new();
        let followed = timeout_at(self.deadline, follow(&self.client, &answer.id, &mut printed)).await;
        printed.end().await;
        let failure = match followed {
            Ok(Ok(End::Whole)) => return Ok(()),
            Ok(Ok(End::Broken(failure))) => failure,
            Ok(Err(error)) => return Err(not_asked(error)),
            Err(_) => return Err(self.over(&answer)),
        };
        let answer = self.for_end(answer).await?;
        match (answer.status, failure) {
            (Status::Succeeded, Some(failure)) => Err(Fatal::new(format!("the prediction {}: {failure}", answer.id))),
            _ => Err(unsuccessful(&answer)),
        }
    }

    /// Its answer when it is finished.
    async fn for_end(&self, mut answer: Answer) -> Result<Answer, Fatal> {
        while !answer.status.is_terminal() {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.over(&answer));
            }
            answer = match self.client.get(&answer.id, Some(left)).await {
                Ok(answer) => answer,
                // It was accepted, so it is kept; a server that restarts, or whose store is away, will know it.
                Err(error) if error.is_passing() => {
                    sleep(error.retry_after().unwrap_or(RETRY).min(left)).await;
                    answer
                }
                Err(error) => return Err(not_asked(error)),
            };
        }
        Ok(answer)
    }

    fn over(&self, answer: &Answer) -> Fatal {
        Fatal::new(format!(
            "not finished after {:?}; it goes on, and this asks for it: curl {}",
            self.wait,
            self.client.get_url(&answer.id)
        ))
    }
}

fn print(answer: &Answer) -> Result<(), Fatal> {
    if answer.status != Status::Succeeded {
        return Err(unsuccessful(answer));
    }
    // An output that is null is read as none.
    say(answer.output.as_deref().map_or("null", RawValue::get));
    Ok(())
}

fn unsuccessful(answer: &Answer) -> Fatal {
    let why = answer.failure.as_ref().map_or_else(String::new, |failure| format!(": {failure}"));
    Fatal::new(format!("the prediction {} is {}{why}", answer.id, answer.status))
}

fn not_asked(error: ClientError) -> Fatal {
    let advice = match &error {
        ClientError::Unreachable { .. } => "; is it running? `augur serve` starts one, --server names another",
        ClientError::Refused { status: 401, .. } => " --api-key (AUGUR_API_KEY) names the key to show.",
        _ => "",
    };
    Fatal::new(format!("{error}{advice}")).with_status(NOT_ASKED)
}

/// The input as JSON, unchanged.
fn read_input(given: &str) -> Result<Box<RawValue>, Fatal> {
    let text = match given.strip_prefix('@') {
        Some(path) => fs::read_to_string(path)
            .map_err(|error| Fatal::new(format!("the input file {path} cannot be read: {error}")))?,
        None if given == "-" => {
            if io::stdin().is_terminal() {
                writeln!(io::stderr(), "reading the input as JSON; end it with Ctrl-D")?;
            }
            io::read_to_string(io::stdin())?
        }
        None => given.to_owned(),
    };
    let is_json = serde_json::from_str::<&RawValue>(&text).map(ToOwned::to_owned);
    is_json.map_err(|error| Fatal::new(format!("the input is not JSON: {error}")))
}
