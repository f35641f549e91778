//! The Hugging Face hub's protocol, as far as fetching a model goes: what a revision is and holds, and files of a commit.
//!
//! Redirects are followed here, hop by hop: they lead to stores of others, which are not to see the token. The crate `hf-hub` is not
//! used: over HTTP its version 1.0 fetches a file that was cut off from its beginning again, and compares no digest.

use std::{error::Error, time::Duration};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderValue, LOCATION, RANGE, USER_AGENT},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::Deserialize;
use settings::{Fatal, HubSettings, Repository};
use tokio::time::{sleep, timeout};
use url::Url;

/// How long an answer may take to begin.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// More redirects lead nowhere; browsers follow twice as many.
const MOST_REDIRECTS: usize = 10;
/// The most bytes of what the hub says about a revision: repositories have some thousand files at most.
const MOST_ABOUT: usize = 16 << 20;
/// Attempts in a row that bring nothing, until we give up.
pub(crate) const MOST_ATTEMPTS: u32 = 5;
/// The pause after the first of these; each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const AGENT: &str = concat!("augur/", env!("CARGO_PKG_VERSION"));
/// Where the hub says why it refuses.
const ERROR_CODE: &str = "x-error-code";

/// A hub, and who asks it.
pub(crate) struct Hub {
    endpoint: Url,
    token: Option<HeaderValue>,
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

/// Why something was not had.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// Asking again may help.
    Passing(String),
    /// It will not.
    Final(String),
}

/// What a revision is at the moment.
#[derive(Debug, Deserialize)]
pub(crate) struct Revision {
    /// The commit.
    #[serde(rename = "sha")]
    pub(crate) commit: String,
    /// Its files.
    #[serde(rename = "siblings")]
    pub(crate) files: Vec<HubFile>,
}

/// A file of a commit.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct HubFile {
    /// Where, in the repository.
    #[serde(rename = "rfilename")]
    pub(crate) path: String,
    /// Its size in bytes.
    pub(crate) size: Option<u64>,
    /// The id that git gives its content; of a large file, that of a pointer to it.
    #[serde(rename = "blobId")]
    pub(crate) blob_id: Option<String>,
    /// Of a large file.
    pub(crate) lfs: Option<LargeFile>,
}

/// A file that git keeps elsewhere.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct LargeFile {
    /// Its digest.
    pub(crate) sha256: String,
}

impl Hub {
    /// Nothing is asked yet.
    ///
    /// # Errors
    /// When the endpoint is no address, or the token none that can be sent.
    pub(crate) fn new(settings: &HubSettings) -> Result<Self, Fatal> {
        let given = settings.hf_endpoint.trim_end_matches('/');
        let endpoint = Url::parse(given).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        // It becomes part of what the model's source is said to be, which everybody may read.
        let is_open = |url: &Url| url.username().is_empty() && url.password().is_none();
        let endpoint = endpoint.filter(is_open).ok_or_else(|| {
            Fatal::new("--hf-endpoint (HF_ENDPOINT) does not begin with https:// and a host, without a user's name")
        })?;
        let token = settings.hf_token.as_ref().map(|token| {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
                .map_err(|_| Fatal::new("--hf-token (HF_TOKEN) has characters that no token has"))?;
            value.set_sensitive(true);
            Ok::<_, Fatal>(value)
        });
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let https = HttpsConnectorBuilder::new().with_webpki_roots().https_or_http().enable_http1();
        let client = Client::builder(TokioExecutor::new()).build(https.wrap_connector(http));
        Ok(Self { endpoint, token: token.transpose()?, client })
    }

    /// Where people look at a commit.
    pub(crate) fn page(&self, repository: &Repository, commit: &str) -> Url {
        self.url(repository.id.split('/').chain(["tree", commit]))
    }

    /// Where a file of a commit is.
    pub(crate) fn file_url(&self, repository: &Repository, commit: &str, path: &str) -> Url {
        self.url(repository.id.split('/').chain(["resolve", commit]).chain(path.split('/')))
    }

    /// Asks what a revision is now.
    ///
    /// # Errors
    /// When the hub refuses or does not answer, and what to do about it.
    pub(crate) async fn revision(&self, repository: &Repository) -> Result<Revision, Fatal> {
        let path = ["api", "models"].into_iter().chain(repository.id.split('/'));
        let mut url = self.url(path.chain(["revision", &repository.revision]));
        url.set_query(Some("blobs=true"));
        let mut attempts = 0;
        loop {
            match self.about(&url).await {
                Ok(revision) => return Ok(revision),
                Err(Trouble::Final(reason)) => return Err(self.refused(repository, &reason)),
                Err(Trouble::Passing(reason)) => {
                    attempts += 1;
                    if !pause(attempts).await {
                        return Err(self.refused(repository, &reason));
                    }
                }
            }
        }
    }

    /// Why there is nothing to be had of a repository.
    pub(crate) fn refused(&self, repository: &Repository, reason: &str) -> Fatal {
        Fatal::new(format!("{}@{} cannot be fetched: {reason}", repository.id, repository.revision))
    }

    async fn about(&self, url: &Url) -> Result<Revision, Trouble> {
        let body = Limited::new(self.get(url.clone(), 0).await?.into_body(), MOST_ABOUT);
        let read = timeout(PATIENCE, body.collect()).await;
        let read = read.map_err(|_| Trouble::Passing(format!("{} does not end its answer", self.host())))?;
        let text = read.map_err(|error| Trouble::Passing(first_cause(&*error)))?.to_bytes();
        serde_json::from_slice(&text)
            .map_err(|error| Trouble::Final(format!("{} does not answer as the hub does: {error}", self.host())))
    }

    /// Gets a file from this byte on; what is not found, or not given, is trouble.
    ///
    /// # Errors
    /// When the answer is neither the file, nor the rest of it, nor that there is no such rest (416).
    pub(crate) async fn get(&self, mut url: Url, from: u64) -> Result<Response<Incoming>, Trouble> {
        for _ in 0..=MOST_REDIRECTS {
            let response = self.ask(&url, from).await?;
            let status = response.status();
            if !status.is_redirection() {
                return self.accepted(response);
            }
            let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok());
            url = next.ok_or_else(|| Trouble::Final(format!("{} redirects to nowhere", host(&url))))?;
            if self.endpoint.scheme() == "https" && url.scheme() != "https" {
                return Err(Trouble::Final(format!("{} is not encrypted, and that is where it leads", host(&url))));
            }
        }
        Err(Trouble::Final(format!("more than {MOST_REDIRECTS} redirects")))
    }

    async fn ask(&self, url: &Url, from: u64) -> Result<Response<Incoming>, Trouble> {
        let mut request = Request::get(url.as_str()).header(USER_AGENT, AGENT).header(ACCEPT_ENCODING, "identity");
        if let Some(token) = self.token.as_ref().filter(|_| url.origin() == self.endpoint.origin()) {
            request = request.header(AUTHORIZATION, token.clone());
        }
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let request = request.body(Empty::new()).map_err(|error| Trouble::Final(error.to_string()))?;
        match timeout(PATIENCE, self.client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Trouble::Passing(format!("no answer from {}: {}", host(url), first_cause(&error)))),
            Err(_) => Err(Trouble::Passing(format!("no answer from {} within {PATIENCE:?}", host(url)))),
        }
    }

    fn accepted(&self, response: Response<Incoming>) -> Result<Response<Incoming>, Trouble> {
        let (status, shown) = (response.status(), if self.token.is_some() { "the token" } else { "no token" });
        let code = response.headers().get(ERROR_CODE).and_then(|code| code.to_str().ok()).unwrap_or_default();
        let reason = match (status, code) {
            (StatusCode::RANGE_NOT_SATISFIABLE, _) => return Ok(response),
            _ if status.is_success() => return Ok(response),
            (_, "GatedRepo") => format!(
                "its owner wants its terms accepted ({status}, with {shown}): accept them on the repository's page, and set \
                 HF_TOKEN to a token of that account"
            ),
            (_, "RevisionNotFound") => format!("there is no such revision ({status})"),
            (_, "EntryNotFound") => format!("there is no such file ({status})"),
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => format!(
                "{} refuses it ({status}, with {shown}): there is no such repository, or it is for some only; HF_TOKEN is \
                 the token to show",
                self.host()
            ),
            (StatusCode::NOT_FOUND, _) => format!("{} has no such repository or revision ({status})", self.host()),
            (StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT, _) => {
                return Err(Trouble::Passing(format!("{} answers {status}", self.host())));
            }
            _ if status.is_server_error() => {
                return Err(Trouble::Passing(format!("{} answers {status}", self.host())));
            }
            _ => format!("{} answers {status}", self.host()),
        };
        Err(Trouble::Final(reason))
    }

    fn url<'a>(&self, parts: impl Iterator<Item = &'a str>) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(parts);
        }
        url
    }

    fn host(&self) -> &str {
        host(&self.endpoint)
    }
}

/// Waits before another attempt, after so many in vain; false when they are enough.
pub(crate) async fn pause(attempts: u32) -> bool {
    if attempts >= MOST_ATTEMPTS {
        return false;
    }
    sleep(FIRST_PAUSE * 2_u32.pow(attempts.saturating_sub(1))).await;
    true
}

fn host(url: &Url) -> &str {
    url.host_str().unwrap_or_default()
}

/// The cause beneath all others: the layers above name only libraries.
pub(crate) fn first_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
