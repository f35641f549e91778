//! A receiver that costs as little as one can: it notes ids and times, and answers at once, late or never.

use std::{
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_util::task::AbortOnDropHandle;

use crate::drive::seconds_since_1970;

/// Of each webhook, its id and when it had been read, in seconds since 1970.
type Received = Arc<Mutex<Vec<(String, f64)>>>;

/// A receiver on all addresses of this machine.
pub(crate) struct Receiver {
    port: u16,
    received: Received,
    _serving: AbortOnDropHandle<()>,
}

impl Receiver {
    /// Answers after `delay`.
    pub(crate) async fn start(delay: Duration) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("a local address").port();
        let received = Received::default();
        let serving = tokio::spawn({
            let received = Arc::clone(&received);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let received = Arc::clone(&received);
                    // A sender that gives up breaks off.
                    tokio::spawn(async move { drop(serve(stream, &received, delay).await) });
                }
            }
        });
        Self { port, received, _serving: AbortOnDropHandle::new(serving) }
    }

    /// The address of one of its many origins.
    pub(crate) fn url(&self, origin: usize) -> String {
        format!("http://127.0.0.{}:{}/hook", origin + 1, self.port)
    }

    pub(crate) fn count(&self) -> usize {
        self.received.lock().expect("no panic while locked").len()
    }

    /// Everything that came; from then on it begins anew.
    pub(crate) fn take(&self) -> Vec<(String, f64)> {
        std::mem::take(&mut self.received.lock().expect("no panic while locked"))
    }
}

async fn serve(mut stream: TcpStream, received: &Received, delay: Duration) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(4096);
    let (head, whole) = loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let length: usize = field(&head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            break (head, end + 4 + length);
        }
    };
    while bytes.len() < whole {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
    let now = seconds_since_1970();
    let id = field(&head, "webhook-id").unwrap_or_default().to_owned();
    received.lock().expect("no panic while locked").push((id, now));
    sleep(delay).await;
    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await?;
    stream.shutdown().await
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}
