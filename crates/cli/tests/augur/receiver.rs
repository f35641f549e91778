//! A receiver of webhooks that takes all it is sent.

use std::convert::Infallible;

use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    header::HeaderMap,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpListener,
    sync::mpsc::{self, UnboundedReceiver},
};

/// A webhook as it arrived.
pub(crate) struct Received {
    headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Received {
    /// A header that it has.
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).unwrap_or_else(|| panic!("there is a header {name}"));
        value.to_str().expect("it is text")
    }
}

/// Listens at a free port.
pub(crate) struct Receiver {
    /// Where webhooks go.
    pub(crate) url: String,
    received: UnboundedReceiver<Received>,
}

impl Receiver {
    /// Begins to listen.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/finished", listener.local_addr().expect("it has an address"));
        let (sender, received) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let sender = sender.clone();
                let take = service_fn(move |request: Request<Incoming>| {
                    let sender = sender.clone();
                    async move {
                        let (parts, body) = request.into_parts();
                        let body = body.collect().await.expect("it arrives whole").to_bytes();
                        // The test may have seen enough.
                        let _ = sender.send(Received { headers: parts.headers, body });
                        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
                    }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), take));
            }
        });
        Self { url, received }
    }

    /// The next webhook, when it comes.
    pub(crate) async fn next(&mut self) -> Received {
        self.received.recv().await.expect("it listens on")
    }
}
