//! Webhooks in a cluster: its senders, and what the API is asked about deliveries, endpoints and secrets.

use std::ffi::OsString;

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{Cluster, PATIENCE, answered};

/// The key that secrets are stored under, for all programs of all clusters.
pub const KEY: &str = "dGhlIGtleSBvZiB0aGUgdGVzdHMgb2Ygd2ViaG9va3M=";

/// Whom webhooks may be sent to, and by how many.
#[derive(Clone, Copy, Debug)]
pub struct Webhooks {
    /// How many senders. None: the test starts its own.
    pub senders: usize,
    /// The most webhooks that one sends at once.
    pub in_flight: u32,
    /// The private networks that the API lets callers name.
    pub registered: &'static [&'static str],
    /// The private networks that senders send to.
    pub sent: &'static [&'static str],
}

impl Default for Webhooks {
    /// One sender; receivers are on this machine.
    fn default() -> Self {
        Self { senders: 1, in_flight: 64, registered: &["127.0.0.0/8"], sent: &["127.0.0.0/8"] }
    }
}

impl Webhooks {
    pub(crate) fn settings_of_api(&self) -> Vec<OsString> {
        settings(self.registered)
    }

    pub(crate) fn settings_of_sender(&self) -> Vec<OsString> {
        let mut settings = settings(self.sent);
        settings.extend(["--deliveries".into(), self.in_flight.to_string().into()]);
        settings
    }
}

fn settings(allowed: &[&str]) -> Vec<OsString> {
    let allowed = allowed.iter().flat_map(|network| ["--webhook-allow".into(), network.into()]);
    ["--webhook-key".into(), KEY.into()].into_iter().chain(allowed).collect()
}

impl Cluster {
    /// Starts a sender (again) and waits until it is ready.
    ///
    /// # Panics
    /// When it does not get ready; shows its log.
    pub async fn start_sender(&self, index: usize) {
        self.senders[index].start().await;
        self.senders[index].line_that_begins("ready", PATIENCE).await;
    }

    /// The command that starts a sender, for tests that start their own.
    #[must_use]
    pub fn sender_command(&self) -> Vec<OsString> {
        self.sender_command.clone()
    }

    /// The command that starts the API, for tests that start it in another way.
    #[must_use]
    pub fn api_command(&self) -> Vec<OsString> {
        self.api_command.clone()
    }

    /// A request with a JSON body, as [`answered`]: status and JSON body. A prediction is made once.
    ///
    /// # Panics
    /// When the API does not answer with JSON.
    pub async fn ask(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let request = self.client.request(method, format!("{}{path}", self.address)).json(body);
        answered(request.header("Idempotency-Key", Uuid::new_v4().to_string())).await
    }

    /// Sends a prediction that answers with `value`, of which `webhook` is told every event; returns its id.
    ///
    /// # Panics
    /// When it is not accepted.
    pub async fn predict(&self, value: &Value, webhook: &str) -> String {
        let body = json!({ "input": { "value": value }, "webhook": webhook, "webhook_events_filter": crate::EVENTS });
        let (status, prediction) = self.ask(Method::POST, "/v1/models/augur/echo/predictions", &body).await;
        assert!((200..300).contains(&status), "a prediction with a webhook is answered with {status}: {prediction}");
        prediction["id"].as_str().unwrap_or_else(|| panic!("no id in {prediction}")).to_owned()
    }

    /// Has a test sent to this URL; returns the delivery's id.
    ///
    /// # Panics
    /// When that is refused.
    pub async fn send_test(&self, url: &str) -> String {
        let (status, delivery) = self.ask(Method::POST, "/v1/webhooks/test", &json!({ "url": url })).await;
        assert_eq!(status, 202, "{delivery}");
        delivery["id"].as_str().unwrap_or_else(|| panic!("no id in {delivery}")).to_owned()
    }

    /// The signing secret that everybody has without one of their own.
    ///
    /// # Panics
    /// When the API does not tell it.
    pub async fn default_secret(&self) -> String {
        let (status, secret) = self.get("/v1/webhooks/default/secret").await;
        assert_eq!(status, 200, "{secret}");
        secret["key"].as_str().unwrap_or_else(|| panic!("no key in {secret}")).to_owned()
    }

    /// Rotates the secret at this path; returns the new one.
    ///
    /// # Panics
    /// When that is refused.
    pub async fn rotate(&self, path: &str, grace: &str) -> String {
        let (status, secret) = self.ask(Method::POST, &format!("{path}/rotate"), &json!({ "grace": grace })).await;
        assert!((200..300).contains(&status), "{status}: {secret}");
        secret["key"].as_str().unwrap_or_else(|| panic!("no key in {secret}")).to_owned()
    }
}
