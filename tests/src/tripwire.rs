//! A way to Redis that can be told to hold up the next push of tickets: whoever pushes has stored their predictions, and dies
//! between commit and push when it is killed now.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

const BUFFER: usize = 64 * 1024;

/// How far the push gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Catch {
    /// Redis never sees it.
    BeforeRedis,
    /// Redis has the tickets; whoever pushed them is not told.
    BeforeItsAnswer,
}

/// What waits for the next push.
struct Armed {
    catch: Catch,
    caught: oneshot::Sender<Vec<Uuid>>,
}

/// A proxy before Redis.
pub struct Tripwire {
    port: u16,
    armed: Arc<Mutex<Option<Armed>>>,
    _proxy: AbortOnDropHandle<()>,
}

impl Tripwire {
    /// Begins to pass connections on to the Redis at `url`, `redis://HOST:PORT`.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start(url: &str) -> Self {
        let redis = url.trim_start_matches("redis://").trim_end_matches('/').to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("a local address").port();
        let armed: Arc<Mutex<Option<Armed>>> = Arc::default();
        let proxy = tokio::spawn({
            let armed = Arc::clone(&armed);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let (armed, redis) = (Arc::clone(&armed), redis.clone());
                    tokio::spawn(async move {
                        // A Redis that is away takes no connection: neither does this.
                        if let Ok(server) = TcpStream::connect(redis).await {
                            pass_on(client, server, armed).await;
                        }
                    });
                }
            }
        });
        Self { port, armed, _proxy: AbortOnDropHandle::new(proxy) }
    }

    /// The URL to reach Redis by.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Waits for the next push and holds it up; returns the predictions whose tickets it has. Nothing passes on its connection
    /// from then on. Whoever waited before waits no longer.
    ///
    /// # Panics
    /// When somebody else waits from now on.
    pub async fn next_push(&self, catch: Catch) -> Vec<Uuid> {
        let (caught, ids) = oneshot::channel();
        *self.lock() = Some(Armed { catch, caught });
        ids.await.expect("a push is told before it is forgotten")
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Armed>> {
        self.armed.lock().expect("no panic while locked")
    }
}

/// Passes bytes both ways until a side ends, or the push that is waited for comes.
async fn pass_on(mut client: TcpStream, mut server: TcpStream, armed: Arc<Mutex<Option<Armed>>>) {
    let (mut requests, mut answers) = (vec![0; BUFFER], vec![0; BUFFER]);
    loop {
        let passed = tokio::select! {
            read = client.read(&mut requests) => match read {
                Ok(read @ 1..) => {
                    let bytes = &requests[..read];
                    if let Some(Armed { catch, caught }) = trip(bytes, &armed) {
                        if catch == Catch::BeforeItsAnswer && server.write_all(bytes).await.is_err() {
                            return;
                        }
                        // Whoever waited may have gone with its test.
                        let _ = caught.send(ids(bytes));
                        // Until the client dies.
                        while let Ok(1..) = client.read(&mut requests).await {}
                        return;
                    }
                    server.write_all(bytes).await
                }
                _ => return,
            },
            read = server.read(&mut answers) => match read {
                Ok(read @ 1..) => client.write_all(&answers[..read]).await,
                _ => return,
            },
        };
        if passed.is_err() {
            return;
        }
    }
}

/// Who waits for these bytes, if they are a push.
fn trip(bytes: &[u8], armed: &Mutex<Option<Armed>>) -> Option<Armed> {
    if !is_push(bytes) || ids(bytes).is_empty() {
        return None;
    }
    armed.lock().expect("no panic while locked").take()
}

/// Whether these bytes run a script, which the API does for nothing but a push.
fn is_push(bytes: &[u8]) -> bool {
    bytes.windows(b"EVALSHA".len()).any(|window| window == b"EVALSHA")
}

/// The ids among these bytes: strings of 16 bytes that are UUIDs of version 7.
fn ids(bytes: &[u8]) -> Vec<Uuid> {
    const LENGTH: &[u8] = b"$16\r\n";
    let starts = bytes.windows(LENGTH.len()).enumerate().filter(|(_, window)| *window == LENGTH);
    let strings = starts.filter_map(|(at, _)| bytes.get(at + LENGTH.len()..at + LENGTH.len() + 16));
    strings.filter_map(|id| Uuid::from_slice(id).ok()).filter(|id| id.get_version_num() == 7).collect()
}
