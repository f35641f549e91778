//! A server on a free port, over a SQLite store in a temporary directory and an in-process queue.

use std::{sync::Arc, time::Duration};

use crate::resolver::webhooks;
use api::{Config, Routes};
use prediction::{Limits, ModelName, ModelSpec, Offer, PredictionId, Version, WorkerId};
use queue::{Notice, Queue};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json, value::RawValue};
use store::{Companion, Outcome, Run, RunMetrics, Store, StoreError, Waiters};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Longer than anything takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const LEASE: Duration = Duration::from_secs(60);

pub(crate) struct Server {
    pub(crate) base: String,
    pub(crate) client: Client,
    pub(crate) store: Store,
    pub(crate) queue: Queue,
    pub(crate) worker: WorkerId,
    /// Whom a worker of the same process would tell of ends.
    pub(crate) waiters: Waiters,
    pub(crate) stop: CancellationToken,
    pub(crate) serving: JoinHandle<()>,
    _directory: Option<tempfile::TempDir>,
}

pub(crate) fn config() -> Config {
    Config {
        public_url: None,
        body_limit: 64 * 1024,
        body_memory: 16 << 20,
        queue_limit: 100_000,
        stream_limit: 10,
        queue_time_limit: None,
        key_share: 0.5,
        require_keys: false,
        read_timeout: Duration::from_secs(30),
        write_timeout: Duration::from_secs(60),
        store_patience: PATIENCE,
        retention: Duration::from_secs(3600),
        queue_unserved: false,
        grace: Duration::from_secs(20),
        webhooks: Some(webhooks(&Arc::default(), &[])),
    }
}

/// A version of `owner/name`, whose digest is `digit` 64 times.
pub(crate) fn version(digit: char) -> Version {
    digit.to_string().repeat(64).parse().unwrap()
}

pub(crate) fn name(text: &str) -> ModelName {
    text.parse().unwrap()
}

pub(crate) fn echo(digit: char) -> ModelSpec {
    ModelSpec {
        name: name("augur/echo"),
        version: version(digit),
        task: "echo".to_owned(),
        description: "Gives back what it is given.".to_owned(),
        license: Some("MIT".to_owned()),
        source: None,
        input_schema: json!({
            "type": "object",
            "properties": {"value": true, "sleep_ms": {"type": "integer", "minimum": 0, "maximum": 60000}},
            "required": ["value"],
            "additionalProperties": false
        }),
        output_schema: json!(true),
        limits: Limits { max_input_bytes: 4096, ..Limits::default() },
    }
}

pub(crate) fn offer(spec: &ModelSpec, is_default: bool) -> Offer {
    Offer { spec: spec.clone(), is_default }
}

pub(crate) fn digits() -> ModelSpec {
    let number = json!({"type": "number", "minimum": 0, "maximum": 16});
    ModelSpec {
        name: name("augur/digits"),
        version: version('d'),
        task: "image-classification".to_owned(),
        input_schema: json!({
            "type": "object",
            "properties": {"pixels": {"type": "array", "items": number, "minItems": 64, "maxItems": 64}},
            "required": ["pixels"],
            "additionalProperties": false
        }),
        ..echo('d')
    }
}

impl Server {
    /// A server whose one worker serves `augur/echo` (digest `aaa…`) and `augur/digits`.
    pub(crate) async fn start() -> Self {
        Self::start_with(config()).await
    }

    pub(crate) async fn start_with(config: Config) -> Self {
        let server = Self::bare(config).await;
        server.publish(&[echo('a'), digits()]).await;
        server
    }

    /// A server that knows no model.
    pub(crate) async fn bare(config: Config) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let location = store::Location::Sqlite { path: directory.path().join("augur.sqlite") };
        let queue = Queue::open(&queue::Location::InProcess, queue::Config::default()).await.unwrap();
        Self::over(&location, queue, config, Some(directory)).await
    }

    pub(crate) async fn over(
        location: &store::Location,
        queue: Queue,
        config: Config,
        directory: Option<tempfile::TempDir>,
    ) -> Self {
        let store = open(location).await;
        store.migrate().await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Routes::new(config.base(address)).unwrap();
        let base = format!("http://{address}");
        let stop = CancellationToken::new();
        let waiters = Waiters::default();
        // It has no room, so that new predictions wait.
        let companion = Companion { taker: Arc::new(|_, _, _| None), waiters: waiters.clone() };
        let serving = api::serve(store.clone(), queue.clone(), Some(companion), config, routes, listener, stop.clone());
        let serving = tokio::spawn(serving);
        let client = Client::builder().timeout(PATIENCE).build().unwrap();
        Self { base, client, store, queue, worker: WorkerId::generate(), waiters, stop, serving, _directory: directory }
    }

    /// The one worker serves these from now on, each the default version of its model.
    pub(crate) async fn publish(&self, serves: &[ModelSpec]) {
        let offers: Vec<Offer> = serves.iter().map(|spec| offer(spec, true)).collect();
        self.store.publish(self.worker, "test", &offers, 0).await.unwrap();
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(self.url(path))
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.client.post(self.url(path)).json(body)
    }

    pub(crate) fn put(&self, path: &str, body: &Value) -> RequestBuilder {
        self.client.put(self.url(path)).json(body)
    }

    /// Reads JSON that must be there.
    pub(crate) async fn read(&self, path: &str) -> Value {
        json_of(self.get(path).send().await.unwrap(), 200).await
    }

    /// Creates a prediction of echo and returns its id.
    pub(crate) async fn create(&self, value: impl Into<Value>) -> PredictionId {
        let body = json!({"model": "augur/echo", "input": {"value": value.into()}});
        id_of(&json_of(self.post("/v1/predictions", &body).send().await.unwrap(), 202).await)
    }

    /// Takes a waiting prediction as a worker does.
    pub(crate) async fn claim(&self, id: PredictionId) -> Run {
        self.store.claim(self.worker, &[id], LEASE).await.unwrap().claimed[0].run
    }

    /// Ends a run with its own id as output, and does not tell anybody.
    pub(crate) async fn complete_silently(&self, run: Run) {
        self.complete_on(&self.store, run).await;
    }

    /// The same, telling those who wait for an end in another server's process.
    pub(crate) async fn complete_for(&self, other: &Self, run: Run) {
        self.complete_on(&self.store.telling(&other.waiters), run).await;
    }

    async fn complete_on(&self, store: &Store, run: Run) {
        let output = RawValue::from_string(format!("\"{}\"", run.id)).unwrap();
        let metrics = RunMetrics { predict_seconds: 0.25, batch_size: 3, tokens: Some(7) };
        let written = store.complete(self.worker, vec![Outcome::Succeeded { run, output, metrics }]).await.unwrap();
        assert_eq!(written, [store::Written::Applied]);
    }

    /// Takes, ends and tells, as a worker does.
    pub(crate) async fn finish(&self, id: PredictionId) {
        self.complete_silently(self.claim(id).await).await;
        self.queue.tell(Notice::Finished(Arc::new([id]))).await;
    }

    /// Waits until there is a prediction, by whoever made it.
    pub(crate) async fn newest(&self) -> PredictionId {
        until(|| async {
            let page = self.store.list("", &store::ListFilter::default(), None, 1).await.unwrap();
            page.predictions.first().map(|prediction| prediction.id)
        })
        .await
    }

    /// Opens a connection, sends these bytes as they are, and returns it.
    pub(crate) async fn connect(&self, bytes: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.base.trim_start_matches("http://")).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        stream
    }

    /// Sends a request as it is written and returns all of the answer.
    pub(crate) async fn raw(&self, request: &str) -> String {
        rest(&mut self.connect(request).await).await
    }
}

/// Opens a store; a busy server may not let anybody in at once.
pub(crate) async fn open(location: &store::Location) -> Store {
    let opened = until(|| async {
        match Store::open(location).await {
            Err(StoreError::Unavailable(_)) => None,
            opened => Some(opened),
        }
    });
    opened.await.unwrap()
}

/// Everything until the server closes the connection.
pub(crate) async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the server closes").unwrap();
    String::from_utf8(bytes).unwrap()
}

/// Waits until the server has closed or reset the connection.
pub(crate) async fn gone(stream: &mut TcpStream) {
    let mut said = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("the server closes");
}

/// Looks until there is something.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(mut look: impl FnMut() -> F) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, looking).await.expect("it happens in time")
}

pub(crate) async fn json_of(response: Response, status: u16) -> Value {
    let found = response.status();
    let text = response.text().await.unwrap();
    assert_eq!(found, StatusCode::from_u16(status).unwrap(), "{text}");
    serde_json::from_str(&text).unwrap()
}

pub(crate) fn id_of(prediction: &Value) -> PredictionId {
    prediction["id"].as_str().unwrap().parse().unwrap()
}

pub(crate) fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).unwrap_or_else(|| panic!("{name} is there")).to_str().unwrap()
}

/// The problem that a response is, checked for everything that each must have.
pub(crate) async fn problem(response: Response, status: u16, code: &str) -> Value {
    let path = response.url().path().to_owned();
    let is_servers_fault = status >= 500;
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    assert!(response.headers().contains_key("x-request-id"));
    assert_eq!(response.headers().contains_key("retry-after"), matches!(status, 429 | 503));
    assert_eq!(response.headers().contains_key("www-authenticate"), status == 401);
    let body = json_of(response, status).await;
    assert_eq!(body["status"], status, "{body}");
    assert_eq!(body["error"]["code"], code, "{body}");
    assert!(body["type"].as_str().unwrap().ends_with(&format!("/problems#{code}")), "{body}");
    assert!(!body["title"].as_str().unwrap().is_empty());
    assert_eq!(body["instance"], path);
    assert_eq!(body["detail"], body["error"]["message"]);
    assert_eq!(body["error"]["type"], if is_servers_fault { "server_error" } else { "invalid_request_error" });
    assert_eq!(body["error"]["param"], body["errors"][0]["pointer"]);
    body
}

/// The pointers of a problem's faults, sorted.
pub(crate) fn pointers(problem: &Value) -> Vec<&str> {
    let faults = problem["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut pointers: Vec<&str> = faults.iter().map(|fault| fault["pointer"].as_str().unwrap()).collect();
    pointers.sort_unstable();
    pointers
}
