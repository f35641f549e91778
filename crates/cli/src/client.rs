//! A caller of the HTTP API: sends predictions and asks for them.

use std::{error::Error, time::Duration};

use prediction::{Failure, ModelName, Status};
use reqwest::{
    RequestBuilder, Response, Url,
    header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use settings::ApiKey;
use tokio::time::timeout;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take beyond the wait that was asked for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Between two attempts to reach a server that was there before, unless it says otherwise.
pub(crate) const RETRY: Duration = Duration::from_secs(1);
/// The longest wait that the API grants, in seconds.
const LONGEST_WAIT: u64 = 60;

/// What a caller reads of a prediction.
#[derive(Debug, Deserialize)]
pub(crate) struct Answer {
    /// Its id.
    pub(crate) id: String,
    /// Where it stands.
    pub(crate) status: Status,
    /// What came out.
    pub(crate) output: Option<Box<RawValue>>,
    /// Why it did not succeed.
    pub(crate) failure: Option<Failure>,
}

/// One fault in what was sent.
#[derive(Debug, Deserialize)]
pub(crate) struct Fault {
    /// JSON Pointer into the request's body.
    pub(crate) pointer: String,
    /// What is wrong there.
    pub(crate) detail: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The address is none that can be called.
    #[error("{0:?} is not the address of a server: it must begin with http://")]
    Address(String),
    /// The key cannot be sent. It is not shown.
    #[error("the API key holds characters that no key has")]
    Key,
    /// Nobody answers there, or not in time.
    #[error("no answer from {server}: {cause}")]
    Unreachable { server: String, cause: String },
    /// The server refuses the request.
    #[error("{title} ({status}): {detail}{}", .faults.iter().map(ToString::to_string).collect::<String>())]
    Refused { status: u16, title: String, detail: String, faults: Vec<Fault>, retry_after: Option<Duration> },
    /// What answers is not this API.
    #[error("{server} answers {status}, and not as an augur server does")]
    Foreign { server: String, status: u16 },
}

impl ClientError {
    /// Whether it may go well a moment later: the server restarts, or has too much to do.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } | Self::Foreign { status, .. } => *status == 429 || *status >= 500,
            Self::Address(_) | Self::Key => false,
        }
    }

    /// When to try again, where the server said so.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\n  {}: {}", self.pointer, self.detail)
    }
}

#[derive(Serialize)]
struct Request<'a> {
    /// Where the address does not name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    input: &'a RawValue,
    #[serde(flatten)]
    webhook: Option<Webhook<'a>>,
}

/// Where to tell of what becomes of a prediction.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Webhook<'a> {
    /// The receiver's URL.
    #[serde(rename = "webhook")]
    pub(crate) url: &'a str,
    /// Of what to tell it.
    #[serde(rename = "webhook_events_filter")]
    pub(crate) events: &'a [&'a str],
}

#[derive(Deserialize)]
struct Secret {
    key: String,
}

#[derive(Deserialize)]
struct Problem {
    title: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    errors: Vec<Fault>,
}

/// Calls one server; cheap to clone.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    server: String,
}

impl Client {
    /// A caller of the server at this address, who shows this key.
    pub(crate) fn new(server: &str, key: Option<&ApiKey>) -> Result<Self, ClientError> {
        let server = server.trim_end_matches('/').to_owned();
        let is_http = Url::parse(&server).is_ok_and(|url| url.scheme() == "http" && url.has_host());
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            let bearer = HeaderValue::from_str(&format!("Bearer {}", key.reveal()));
            let mut bearer = bearer.map_err(|_| ClientError::Key)?;
            bearer.set_sensitive(true);
            headers.insert(AUTHORIZATION, bearer);
        }
        let http = reqwest::Client::builder().default_headers(headers).no_proxy().connect_timeout(CONNECT_TIMEOUT);
        let http = http.build();
        match http {
            Ok(http) if is_http => Ok(Self { http, server }),
            _ => Err(ClientError::Address(server)),
        }
    }

    /// Where predictions of this model are sent.
    pub(crate) fn submit_url(&self, model: &ModelName) -> String {
        format!("{}/v1/models/{model}/predictions", self.server)
    }

    /// Where a prediction is read.
    pub(crate) fn get_url(&self, id: &str) -> String {
        format!("{}/v1/predictions/{id}", self.server)
    }

    /// Sends a prediction; the answer may come as soon as it is accepted, or when it is finished within `wait`.
    pub(crate) async fn submit(
        &self,
        model: &ModelName,
        input: &RawValue,
        wait: Option<Duration>,
    ) -> Result<Answer, ClientError> {
        self.send(self.http.post(self.submit_url(model)).json(&Request { version: None, input, webhook: None }), wait)
            .await
    }

    /// The same for one version, `owner/name:digits`.
    pub(crate) async fn submit_to_version(
        &self,
        version: &str,
        input: &RawValue,
        wait: Option<Duration>,
    ) -> Result<Answer, ClientError> {
        let call = self.http.post(format!("{}/v1/predictions", self.server));
        self.send(call.json(&Request { version: Some(version), input, webhook: None }), wait).await
    }

    /// Sends a prediction of which a receiver is told; the answer comes as soon as it is accepted.
    pub(crate) async fn submit_with_webhook(
        &self,
        model: &ModelName,
        input: &RawValue,
        webhook: Webhook<'_>,
    ) -> Result<Answer, ClientError> {
        let request = Request { version: None, input, webhook: Some(webhook) };
        self.send(self.http.post(self.submit_url(model)).json(&request), None).await
    }

    /// Where the deliveries of webhooks are listed.
    pub(crate) fn deliveries_url(&self) -> String {
        format!("{}/v1/webhooks/deliveries", self.server)
    }

    /// Asks for the secret that signs webhooks, `whsec_…`.
    pub(crate) async fn webhook_secret(&self) -> Result<String, ClientError> {
        let call = self.http.get(format!("{}/v1/webhooks/default/secret", self.server));
        Ok(self.send::<Secret>(call, None).await?.key)
    }

    /// Asks how a prediction stands, or waits until it is finished, at most `wait`.
    pub(crate) async fn get(&self, id: &str, wait: Option<Duration>) -> Result<Answer, ClientError> {
        self.send(self.http.get(self.get_url(id)), wait).await
    }

    /// Follows a prediction: the events after the one with this id, or all.
    pub(crate) async fn stream(&self, id: &str, after: Option<&str>) -> Result<Response, ClientError> {
        let mut call = self.http.get(format!("{}/stream", self.get_url(id))).header(ACCEPT, "text/event-stream");
        if let Some(after) = after {
            call = call.header("Last-Event-ID", after);
        }
        // For its beginning alone: the events take as long as they take.
        let late = || ClientError::Unreachable { server: self.server.clone(), cause: "it took too long".to_owned() };
        timeout(ANSWER_TIMEOUT, self.answered(call)).await.map_err(|_| late())?
    }

    async fn send<T: DeserializeOwned>(&self, call: RequestBuilder, wait: Option<Duration>) -> Result<T, ClientError> {
        let seconds = wait.map_or(0, |wait| wait.as_secs().clamp(1, LONGEST_WAIT));
        let call = if seconds == 0 { call } else { call.header("Prefer", format!("wait={seconds}")) };
        let response = self.answered(call.timeout(Duration::from_secs(seconds) + ANSWER_TIMEOUT)).await?;
        let status = response.status().as_u16();
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        serde_json::from_slice(&body).map_err(|_| self.foreign(status))
    }

    /// The answer to a call that the server does not refuse.
    async fn answered(&self, call: RequestBuilder) -> Result<Response, ClientError> {
        let response = call.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let seconds = response.headers().get(RETRY_AFTER).and_then(|seconds| seconds.to_str().ok()?.parse().ok());
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        let problem = serde_json::from_slice(&body).map_err(|_| self.foreign(status))?;
        let Problem { title, detail, errors } = problem;
        let retry_after = seconds.map(Duration::from_secs);
        Err(ClientError::Refused { status, title, detail, faults: errors, retry_after })
    }

    fn unreachable(&self, error: &reqwest::Error) -> ClientError {
        ClientError::Unreachable { server: self.server.clone(), cause: first_cause(error) }
    }

    fn foreign(&self, status: u16) -> ClientError {
        ClientError::Foreign { server: self.server.clone(), status }
    }
}

/// The cause beneath all others, such as "Connection refused": the layers above name only libraries.
fn first_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
