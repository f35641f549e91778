//! Connections: accepted, served as HTTP/1.1 or HTTP/2 in clear text, bounded in time, and let go gracefully.

use std::{
    convert::Infallible,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::body::Body;
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    offer::{Offers, Socket},
    respond::Responder,
};

/// How long to wait after the system refused a connection (it is out of file descriptors, most likely).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The most header bytes of one HTTP/2 request.
const LONGEST_HEADERS: u32 = 64 * 1024;
/// The most bytes that are read ahead on one HTTP/1 connection, which bounds its headers too. hyper's own bound is 408 KiB, and
/// connections with large bodies come to hold that much.
const READ_AHEAD: usize = 64 * 1024;
/// The most requests at once on one HTTP/2 connection.
const MOST_STREAMS: u32 = 200;

/// How long clients may take.
#[derive(Clone, Copy)]
pub(crate) struct Timeouts {
    /// To send headers, or anything at all.
    pub(crate) read: Duration,
    /// To read some of what they are sent.
    pub(crate) write: Duration,
}

/// Serves connections until `stop`, then lets requests finish within `grace`.
pub(crate) async fn run(
    listener: TcpListener,
    responder: Responder,
    timeouts: Timeouts,
    grace: Duration,
    stop: CancellationToken,
) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(timeouts.read).max_buf_size(READ_AHEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(LONGEST_HEADERS)
        .max_concurrent_streams(MOST_STREAMS)
        .keep_alive_interval(timeouts.read)
        .keep_alive_timeout(timeouts.read);
    let builder = Arc::new(builder);
    let mut connections = JoinSet::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => {
                let serving = connection(stream, Arc::clone(&builder), responder.clone(), timeouts, stop.clone());
                connections.spawn(serving);
                // Those that have ended are forgotten.
                while connections.try_join_next().is_some() {}
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let all_end = async { while connections.join_next().await.is_some() {} };
    if timeout(grace, all_end).await.is_err() {
        tracing::warn!(left = connections.len(), "connections are cut after the grace time");
        connections.shutdown().await;
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn connection(
    stream: TcpStream,
    builder: Arc<Builder<TokioExecutor>>,
    responder: Responder,
    timeouts: Timeouts,
    stop: CancellationToken,
) {
    // Answers are small and somebody waits for each.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let (activity, offers) = (Arc::new(Activity::default()), Arc::new(Offers::default()));
    let (of_service, to_offers) = (Arc::clone(&activity), Arc::clone(&offers));
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let busy = of_service.begin();
        let (responder, offers) = (responder.clone(), Arc::clone(&to_offers));
        async move {
            let response = responder.respond(request.map(Body::new)).await;
            drop(busy);
            Ok::<_, Infallible>(response.map(|body| offers.offer(body)))
        }
    });
    let serving = builder.serve_connection(TokioIo::new(Socket::new(stream, timeouts.write)), service);
    tokio::pin!(serving);
    let mut is_closing = false;
    let mut look = Instant::now() + timeouts.read;
    let mut look_at_offers = Instant::now() + timeouts.write;
    loop {
        tokio::select! {
            biased;
            result = &mut serving => {
                if let Err(error) = result {
                    tracing::debug!(%error, "connection ended");
                }
                return;
            }
            () = sleep_until(look_at_offers) => {
                offers.take_back(timeouts.write);
                look_at_offers = Instant::now() + timeouts.write;
                continue;
            }
            () = stop.cancelled(), if !is_closing => is_closing = true,
            () = sleep_until(look), if !is_closing => {
                let idle_since = activity.idle_since();
                look = idle_since.unwrap_or_else(Instant::now) + timeouts.read;
                if idle_since.is_none() || look > Instant::now() {
                    continue;
                }
                // hyper bounds the headers of HTTP/1, but neither the wait for the first bytes of a connection nor
                // an idle HTTP/2 one.
                is_closing = true;
            }
        }
        serving.as_mut().graceful_shutdown();
    }
}

/// The requests under way on one connection.
struct Activity(Mutex<(usize, Instant)>);

impl Default for Activity {
    fn default() -> Self {
        Self(Mutex::new((0, Instant::now())))
    }
}

/// One request under way, until dropped.
struct Busy(Arc<Activity>);

impl Activity {
    fn begin(self: &Arc<Self>) -> Busy {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0 += 1;
        Busy(Arc::clone(self))
    }

    /// Since when no request is under way.
    fn idle_since(&self) -> Option<Instant> {
        let (busy, since) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (busy == 0).then_some(since)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut activity = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        activity.0 -= 1;
        activity.1 = Instant::now();
    }
}
