//! One request and its answer over a connection that is there: HTTP/1.1 or 2, within bounds, and nothing outlives it.

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::{Body as _, Incoming},
    client::conn::{http1, http2},
    header::RETRY_AFTER,
    rt::Executor,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
};

use crate::{Answer, BodyEnd, Failed, Limits, RetryAfter};

/// The most header fields of an answer that are read; hyper's own number.
const MOST_HEADERS: usize = 100;

/// As much as the other side may send of HTTP/2 before we have read what there is; the protocol's own number.
const WINDOW: u32 = 65_535;

/// Sends `request` and puts the answer into `answer` as soon as its headers are there, then reads the body into it. Whoever
/// stops waiting has what was read until then.
pub(crate) async fn exchange<S>(
    stream: S,
    is_http2: bool,
    request: Request<Full<Bytes>>,
    limits: &Limits,
    answer: &mut Option<Answer>,
) -> Result<(), Failed>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(stream);
    if is_http2 {
        // Dropped with this function: hyper's tasks end with the attempt, however it ends.
        let tasks = Arc::new(Mutex::new(JoinSet::new()));
        let (mut sender, connection) = http2::Builder::new(Tasks(Arc::downgrade(&tasks)))
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_header_list_size(u32::try_from(limits.headers).unwrap_or(u32::MAX))
            .handshake(io)
            .await
            .map_err(|error| failed(&error))?;
        let answering = async { read(sender.send_request(request).await, limits, answer).await };
        drive(connection, answering).await
    } else {
        let (mut sender, connection) = http1::Builder::new()
            .max_headers(MOST_HEADERS)
            .max_buf_size(limits.headers)
            .handshake(io)
            .await
            .map_err(|error| failed(&error))?;
        let answering = async { read(sender.send_request(request).await, limits, answer).await };
        drive(connection, answering).await
    }
}

/// Where hyper's HTTP/2 puts its tasks. Weak, because a task may hold its executor, and would so hold itself.
#[derive(Clone)]
struct Tasks(Weak<Mutex<JoinSet<()>>>);

impl<F> Executor<F> for Tasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        if let Some(tasks) = self.0.upgrade() {
            tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
        }
    }
}

/// Runs the connection for as long as the answer needs it.
async fn drive<T>(connection: impl Future, answering: impl Future<Output = T>) -> T {
    let mut answering = pin!(answering);
    tokio::select! {
        biased;
        read = &mut answering => read,
        // What came before the connection ended is still to be read; if it ended too early, reading it says so.
        _ = connection => answering.await,
    }
}

async fn read(
    response: hyper::Result<Response<Incoming>>,
    limits: &Limits,
    answer: &mut Option<Answer>,
) -> Result<(), Failed> {
    let response = response.map_err(|error| failed(&error))?;
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let answer = answer.insert(Answer {
        status: response.status().as_u16(),
        retry_after: retry_after.and_then(RetryAfter::parse),
        body: Vec::new(),
        body_end: BodyEnd::TimedOut,
    });
    let mut body = response.into_body();
    answer.body_end = loop {
        if body.is_end_stream() {
            break BodyEnd::Complete;
        }
        let room = limits.body - answer.body.len();
        if room == 0 {
            break BodyEnd::Cut;
        }
        match body.frame().await {
            None => break BodyEnd::Complete,
            Some(Err(_)) => break BodyEnd::Broken,
            Some(Ok(frame)) => {
                let data = frame.into_data().unwrap_or_default();
                answer.body.extend_from_slice(&data[..data.len().min(room)]);
                if data.len() > room {
                    break BodyEnd::Cut;
                }
            }
        }
    };
    Ok(())
}

fn failed(error: &hyper::Error) -> Failed {
    if error.is_parse_too_large() {
        Failed::HeadersTooLarge
    } else if error.is_parse() {
        Failed::NotHttp
    } else {
        Failed::Closed
    }
}
