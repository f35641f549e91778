//! A receiver of webhooks: hands over what it is sent, and answers that it has it.

use std::{convert::Infallible, net::Ipv4Addr};

use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::HeaderMap,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use settings::Fatal;
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};

/// A webhook as it arrived.
pub(crate) struct Received {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Received {
    /// A header's text; empty when it is absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// Listens at a port of this machine, until dropped.
pub(crate) struct Receiver {
    /// Where webhooks go.
    pub(crate) url: String,
    received: mpsc::UnboundedReceiver<Received>,
    _serving: JoinSet<()>,
}

impl Receiver {
    /// Begins to listen, at a free port.
    pub(crate) async fn start() -> Result<Self, Fatal> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}/finished", listener.local_addr()?);
        let (sender, received) = mpsc::unbounded_channel();
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, sender));
        Ok(Self { url, received, _serving: serving })
    }

    /// The next webhook, when it comes.
    pub(crate) async fn next(&mut self) -> Option<Received> {
        self.received.recv().await
    }
}

async fn accept(listener: TcpListener, received: mpsc::UnboundedSender<Received>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let received = received.clone();
        let service = service_fn(move |request| take(request, received.clone()));
        connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn take(
    request: Request<Incoming>,
    received: mpsc::UnboundedSender<Received>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let mut response = Response::new(Empty::new());
    let taken = body.collect().await.is_ok_and(|body| {
        let webhook = Received { headers: parts.headers, body: body.to_bytes() };
        received.send(webhook).is_ok()
    });
    *response.status_mut() = if taken { StatusCode::NO_CONTENT } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok(response)
}
