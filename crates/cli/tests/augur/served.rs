//! `augur serve`, running.

use std::{ffi::OsString, path::Path, time::Duration};

use serde_json::{Value, json};
use servers::{Process, answered};

const PATIENCE: Duration = Duration::from_secs(120);

/// The models of the repository.
pub(crate) const MODELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models");

/// A server, and where it listens.
pub(crate) struct Served {
    pub(crate) process: Process,
    pub(crate) address: String,
}

/// Starts `augur serve` with the toy model alone, at a free port unless the settings say otherwise, and waits until it
/// listens. Settings of the form `NAME=value` go into its environment.
pub(crate) async fn serve(settings: &[&str]) -> Served {
    let process = prepare(settings);
    process.start().await;
    let address = process.line_that_begins("listening on ", PATIENCE).await;
    Served { process, address }
}

/// The same, not started.
pub(crate) fn prepare(settings: &[&str]) -> Process {
    let is_variable = |setting: &&&str| !setting.starts_with('-') && setting.contains('=');
    let mut command: Vec<OsString> = vec!["env".into()];
    if !settings.iter().any(|setting| setting.contains("listen") || setting.contains("config")) {
        command.push("AUGUR_LISTEN=127.0.0.1:0".into());
    }
    command.extend(settings.iter().filter(is_variable).map(Into::into));
    command.extend([env!("CARGO_BIN_EXE_augur"), "serve", "--enable-echo"].map(Into::into));
    if !settings.iter().any(|setting| setting.contains("models-dir")) {
        command.push("--models-dir=none".into());
    }
    command.extend(settings.iter().filter(|setting| !is_variable(setting)).map(Into::into));
    Process::new("augur-serve", command)
}

impl Served {
    /// Sends something to the toy model and returns the prediction.
    pub(crate) async fn submit(&self, input: &Value) -> Value {
        let (status, prediction) = self.submit_to("augur/echo", input).await;
        assert_eq!(status, 202);
        prediction
    }

    /// Sends something to a model and returns the answer's status and body.
    pub(crate) async fn submit_to(&self, model: &str, input: &Value) -> (u16, Value) {
        let url = format!("{}/v1/models/{model}/predictions", self.address);
        answered(reqwest::Client::new().post(url).json(&json!({ "input": input }))).await
    }

    /// Asks for a prediction until it runs, or has run.
    pub(crate) async fn begun(&self, id: &str) {
        let url = format!("{}/v1/predictions/{id}", self.address);
        let asked = async {
            while answered(reqwest::Client::new().get(&url)).await.1["status"] == "starting" {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.expect("it begins to run in time");
    }

    /// Asks for a prediction until it is terminal.
    pub(crate) async fn finished(&self, id: &str) -> Value {
        let url = format!("{}/v1/predictions/{id}", self.address);
        let asked = async {
            loop {
                let call = reqwest::Client::new().get(&url).header("Prefer", "wait=30");
                let (_, prediction) = answered(call).await;
                if !matches!(prediction["status"].as_str(), Some("starting" | "processing")) {
                    return prediction;
                }
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.expect("it is finished in time")
    }

    /// Stops it as a service manager does; it ends well.
    pub(crate) async fn stop(self) {
        let status = self.process.end("TERM").await;
        assert_eq!(status, Some(0), "{}", self.process.log());
    }
}

/// A flag with a path.
pub(crate) fn flag(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}
