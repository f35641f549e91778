//! Receivers of webhooks on loopback that answer what a test says, or never.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use prediction::{Event, Events};
use serde_json::Value;
use store::Webhook;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// A receiver on every address of loopback; its connections end with it.
pub(crate) struct Receiver {
    origin: String,
    port: u16,
    shared: Arc<Mutex<Shared>>,
    _task: JoinSet<()>,
}

struct Shared {
    says: String,
    /// By path.
    elsewhere: HashMap<String, String>,
    requests: Vec<Request>,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Receiver {
    /// Answers with this status and, in further lines, headers; without a status, never.
    pub(crate) async fn start(says: &str) -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let origin = format!("http://127.0.0.1:{port}");
        let shared =
            Arc::new(Mutex::new(Shared { says: says.to_owned(), elsewhere: HashMap::new(), requests: Vec::new() }));
        let (own, mut task) = (Arc::clone(&shared), JoinSet::new());
        task.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.spawn(answer(stream, Arc::clone(&own)));
            }
        });
        Self { origin, port, shared, _task: task }
    }

    /// Answers so from now on.
    pub(crate) fn say(&self, says: &str) {
        says.clone_into(&mut lock(&self.shared).says);
    }

    /// Answers so at this path.
    pub(crate) fn say_at(&self, path: &str, says: &str) {
        lock(&self.shared).elsewhere.insert(path.to_owned(), says.to_owned());
    }

    /// Everything that came.
    pub(crate) fn requests(&self) -> Vec<Request> {
        lock(&self.shared).requests.clone()
    }

    /// The one request that came.
    pub(crate) fn request(&self) -> Request {
        let requests = self.requests();
        assert_eq!(requests.len(), 1);
        requests[0].clone()
    }

    /// Its URL without a query.
    pub(crate) fn endpoint(&self) -> String {
        format!("{}/hook", self.origin)
    }

    /// Wants to be told of tests, at this path.
    pub(crate) fn webhook_at(&self, path: &str) -> Webhook {
        let url = format!("{}{path}", self.origin);
        Webhook { url: url.clone(), endpoint: url, origin: self.origin.clone(), events: Events::default() }
    }

    /// Wants to be told of these at another address, which is an origin of its own.
    pub(crate) fn webhook_on(&self, host: &str, events: impl IntoIterator<Item = Event>) -> Webhook {
        let origin = format!("http://{host}:{}", self.port);
        let url = format!("{origin}/hook");
        Webhook { url: url.clone(), endpoint: url, origin, events: events.into_iter().collect() }
    }

    /// Wants to be told of these.
    pub(crate) fn webhook(&self, events: impl IntoIterator<Item = Event>) -> Webhook {
        let endpoint = self.endpoint();
        let events: Events = events.into_iter().collect();
        Webhook { url: format!("{endpoint}?x=1"), endpoint, origin: self.origin.clone(), events }
    }
}

impl Request {
    /// The value of a header, by its lower-case name.
    pub(crate) fn header(&self, name: &str) -> &str {
        let mut fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.find(|(found, _)| *found == name).map(|(_, value)| value.trim()).unwrap()
    }

    /// The method and the path with its query.
    pub(crate) fn line(&self) -> &str {
        self.head.lines().next().unwrap()
    }

    /// The path without its query.
    pub(crate) fn path(&self) -> &str {
        let target = self.line().split(' ').nth(1).unwrap();
        target.split_once('?').map_or(target, |(path, _)| path)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(mut stream: TcpStream, shared: Arc<Mutex<Shared>>) {
    let Some(request) = read(&mut stream).await else { return };
    let says = {
        let mut shared = lock(&shared);
        let says = shared.elsewhere.get(request.path()).unwrap_or(&shared.says).clone();
        shared.requests.push(request);
        says
    };
    if says.is_empty() {
        // Until the sender has enough of it.
        let _ = stream.read_u8().await;
    } else {
        let answer = format!("HTTP/1.1 {says}\r\ncontent-length: 2\r\n\r\nok");
        let _ = stream.write_all(answer.as_bytes()).await;
    }
}

async fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let request = Request { head: String::from_utf8(bytes[..end].to_vec()).unwrap(), body: Vec::new() };
            let length: usize = request.header("content-length").parse().unwrap();
            bytes.drain(..end + 4);
            let read = bytes.len();
            bytes.resize(length, 0);
            stream.read_exact(&mut bytes[read..]).await.ok()?;
            return Some(Request { body: bytes, ..request });
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}
