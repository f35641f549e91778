//! A receiver of webhooks that does with each what a test says, well or ill, and remembers everything.

use std::{
    collections::BTreeMap,
    io,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use crate::PATIENCE;

/// What becomes of a request, once it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conduct {
    /// It is taken: 204.
    Take,
    /// It is answered with these bytes.
    Say(Vec<u8>),
    /// It is never answered.
    Hang,
    /// It is taken, but the connection is reset instead of an answer.
    Reset,
    /// It is answered 200, at one byte per second.
    Drip,
    /// It is answered 200, with a body that has no end.
    Flood,
}

impl Conduct {
    /// An answer without a body.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self::Say(format!("HTTP/1.1 {status} As you wish\r\ncontent-length: 0\r\n\r\n").into_bytes())
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Received {
    /// When it had been read, in seconds since 1970.
    pub at: f64,
    /// Where to: the path with its query.
    pub path: String,
    /// Its headers, by lower-case names.
    pub headers: BTreeMap<String, String>,
    /// Its body.
    pub body: String,
    /// What became of it.
    pub conduct: Conduct,
}

impl Received {
    /// Its `webhook-id`.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn id(&self) -> &str {
        self.headers.get("webhook-id").map_or_else(|| panic!("no webhook-id in {self:?}"), String::as_str)
    }

    /// Whether the receiver did what the event calls for.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        matches!(self.conduct, Conduct::Take | Conduct::Reset)
    }
}

/// A receiver on every IPv4 address of this machine: of `127.0.0.1`, `127.0.0.2` and so on each is an origin of its own.
pub struct Receiver {
    port: u16,
    connections: Arc<AtomicUsize>,
    received: Arc<Mutex<Vec<Received>>>,
    _serving: AbortOnDropHandle<()>,
}

impl Receiver {
    /// Begins to receive; `decide` says what becomes of each request, whose `conduct` is [`Conduct::Take`] until then.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start(decide: impl FnMut(&Received) -> Conduct + Send + 'static) -> Self {
        let port = servers::free_port();
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await.expect("the port is free");
        let received: Arc<Mutex<Vec<Received>>> = Arc::default();
        let connections = Arc::new(AtomicUsize::new(0));
        let decide = Arc::new(Mutex::new(decide));
        let serving = tokio::spawn({
            let (connections, received) = (Arc::clone(&connections), Arc::clone(&received));
            async move {
                let mut open = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    connections.fetch_add(1, Ordering::SeqCst);
                    let (received, decide) = (Arc::clone(&received), Arc::clone(&decide));
                    open.spawn(async move {
                        // A sender that was killed breaks off.
                        let _ = serve(stream, &received, &*decide).await;
                    });
                    while open.try_join_next().is_some() {}
                }
            }
        });
        Self { port, connections, received, _serving: AbortOnDropHandle::new(serving) }
    }

    /// One that takes everything.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn well() -> Self {
        Self::start(|_| Conduct::Take).await
    }

    /// The URL of a path at `127.0.0.1`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        self.url_at("127.0.0.1", path)
    }

    /// The URL of a path at a host.
    #[must_use]
    pub fn url_at(&self, host: &str, path: &str) -> String {
        format!("http://{host}:{}{path}", self.port)
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many connections were made to it, whatever came over them.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Everything that came.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        lock(&self.received).clone()
    }

    /// By id, how often each event was taken.
    #[must_use]
    pub fn taken(&self) -> BTreeMap<String, usize> {
        let mut taken = BTreeMap::new();
        for request in lock(&self.received).iter().filter(|request| request.is_taken()) {
            *taken.entry(request.id().to_owned()).or_default() += 1;
        }
        taken
    }

    /// Waits until what came, in all, gives what `find` looks for.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn until<T>(&self, what: &str, mut find: impl FnMut(&[Received]) -> Option<T>) -> T {
        let search = async {
            loop {
                let found = find(&lock(&self.received));
                match found {
                    Some(found) => return found,
                    None => sleep(Duration::from_millis(20)).await,
                }
            }
        };
        match timeout(PATIENCE, search).await {
            Ok(found) => found,
            Err(_) => panic!("the receiver waits for {what}; it has {:?}", lock(&self.received).last()),
        }
    }
}

async fn serve(
    mut stream: TcpStream,
    received: &Mutex<Vec<Received>>,
    decide: &Mutex<impl FnMut(&Received) -> Conduct>,
) -> io::Result<()> {
    let Some(mut request) = read(&mut stream).await? else { return Ok(()) };
    let conduct = lock(decide)(&request);
    request.conduct = conduct.clone();
    // Noted before it is answered: whoever has the answer may ask at once what came.
    lock(received).push(request);
    match conduct {
        Conduct::Take => stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await?,
        Conduct::Say(answer) => stream.write_all(&answer).await?,
        Conduct::Hang => while stream.read(&mut [0; 64]).await? > 0 {},
        Conduct::Reset => return stream.set_zero_linger(),
        Conduct::Drip => {
            for byte in b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n".iter().chain(&[b'.'; 1000]) {
                stream.write_all(&[*byte]).await?;
                sleep(Duration::from_secs(1)).await;
            }
        }
        Conduct::Flood => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10737418240\r\n\r\n").await?;
            loop {
                stream.write_all(&[b'.'; 64 * 1024]).await?;
            }
        }
    }
    stream.shutdown().await
}

/// Reads one request; none when the connection ends before it does.
async fn read(stream: &mut TcpStream) -> io::Result<Option<Received>> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
            let headers: BTreeMap<String, String> =
                fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
            let length: usize = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            while bytes.len() < end + 4 + length {
                if stream.read_buf(&mut bytes).await? == 0 {
                    return Ok(None);
                }
            }
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let body = String::from_utf8_lossy(&bytes[end + 4..]).into_owned();
            return Ok(Some(Received { at: seconds_since_1970(), path, headers, body, conduct: Conduct::Take }));
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    }
}

fn seconds_since_1970() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
