//! One attempt at delivering: vet, resolve, connect to what was vetted, sign, send, read a little, and be done in time.
//!
//! Built on hyper's connections and not on a client of the shelf, so that there is nothing that could connect elsewhere: no
//! redirects, no proxies from the environment, no second look-up, no pool, no decompression. A connection is for one
//! attempt; TLS sessions are resumed.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Version,
    header::{CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, USER_AGENT},
    http,
};
use tokio::{net::TcpStream, time::timeout};
use tokio_util::either::Either;

use crate::{
    Answer, Attempt, Failed, Guard, HEADER_ID, HEADER_SIGNATURE, HEADER_TIMESTAMP, Message, Step, Target, Tls,
    exchange::exchange, tls::is_http2,
};

/// The most addresses of a host that one attempt tries.
const MOST_ADDRESSES: usize = 4;

/// hyper reads no headers into less.
const LEAST_HEADERS: usize = 8 * 1024;

const AGENT: &str = concat!("augur-webhook/", env!("CARGO_PKG_VERSION"));

/// What bounds one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From the look-up to the end of the answer's body.
    pub deadline: Duration,
    /// How much of the answer's body is read and kept, in bytes.
    pub body: usize,
    /// The most that the answer's headers may be, in bytes; 8 KiB at least.
    pub headers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(15), body: 16 * 1024, headers: 16 * 1024 }
    }
}

/// Delivers webhooks. Cloning it is cheap.
#[derive(Clone, Debug)]
pub struct Deliverer {
    guard: Guard,
    tls: Tls,
    limits: Limits,
}

/// How far an attempt got, for when its time is up.
struct Progress {
    step: Step,
    answer: Option<Answer>,
}

impl Deliverer {
    /// Delivers to where this guard lets it, within these limits.
    #[must_use]
    pub fn new(guard: Guard, tls: Tls, limits: Limits) -> Self {
        let limits = Limits { headers: limits.headers.max(LEAST_HEADERS), ..limits };
        Self { guard, tls, limits }
    }

    /// Sends `message` once. Ends within the deadline, whatever the receiver does, and leaves nothing running but perhaps
    /// the system's look-up of a name, which cannot be stopped.
    pub async fn attempt(&self, message: &Message<'_>) -> Attempt {
        let start = Instant::now();
        let mut progress = Progress { step: Step::Resolve, answer: None };
        let done = timeout(self.limits.deadline, self.send(message, &mut progress)).await;
        let outcome = match (progress.answer, done) {
            // Once there is a status it counts, even if the body took too long or broke off.
            (Some(answer), _) => Ok(answer),
            (None, Ok(Err(failed))) => Err(failed),
            (None, Err(_)) => Err(Failed::TimedOut(progress.step)),
            (None, Ok(Ok(()))) => Err(Failed::Closed),
        };
        Attempt { latency: start.elapsed(), outcome }
    }

    async fn send(&self, message: &Message<'_>, progress: &mut Progress) -> Result<(), Failed> {
        let target = self.guard.policy().vet_url(message.url)?;
        let addresses = self.guard.addresses(&target).await?;
        progress.step = Step::Connect;
        let stream = self.connect(&addresses).await?;
        let (stream, is_http2) = if target.is_https() {
            progress.step = Step::Tls;
            let stream = self.tls.connect(target.certificate_name(), stream).await?;
            let is_http2 = is_http2(&stream);
            (Either::Right(stream), is_http2)
        } else {
            (Either::Left(stream), false)
        };
        progress.step = Step::Answer;
        let request = request(&target, message, is_http2).map_err(|_| crate::Refused::Malformed)?;
        exchange(stream, is_http2, request, &self.limits, &mut progress.answer).await
    }

    /// Connects to the first of these addresses that takes it. They share half of the attempt's time, so that a host with
    /// one dead address can be reached, and half is left for the answer.
    async fn connect(&self, addresses: &[SocketAddr]) -> Result<TcpStream, Failed> {
        let addresses = &addresses[..addresses.len().min(MOST_ADDRESSES)];
        let share = self.limits.deadline / 2 / u32::try_from(addresses.len().max(1)).unwrap_or(1);
        let mut last = Failed::TimedOut(Step::Connect);
        for address in addresses {
            match timeout(share, TcpStream::connect(*address)).await {
                Ok(Ok(stream)) => {
                    // The request is written at once, so waiting to fill a packet gains nothing. It may be closed already.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) => last = Failed::Connect { address: *address, error: error.kind() },
                Err(_) => last = Failed::TimedOut(Step::Connect),
            }
        }
        Err(last)
    }
}

fn request(target: &Target, message: &Message<'_>, is_http2: bool) -> http::Result<Request<Full<Bytes>>> {
    let signature = message.secrets.sign(message.id, message.timestamp, &message.body);
    let mut headers = HeaderMap::new();
    for extra in message.headers {
        headers.append(extra.name.clone(), extra.value.clone());
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    headers.insert(HEADER_ID, HeaderValue::from_str(message.id.as_str())?);
    headers.insert(HEADER_TIMESTAMP, HeaderValue::from(message.timestamp));
    headers.insert(HEADER_SIGNATURE, HeaderValue::from_str(&signature)?);
    let builder = if is_http2 {
        let uri = http::Uri::builder()
            .scheme("https")
            .authority(target.authority())
            .path_and_query(target.path_and_query())
            .build()?;
        Request::builder().version(Version::HTTP_2).uri(uri)
    } else {
        headers.insert(HOST, HeaderValue::from_str(target.authority())?);
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        Request::builder().uri(target.path_and_query())
    };
    let mut request = builder.method(Method::POST).body(Full::new(message.body.clone()))?;
    *request.headers_mut() = headers;
    Ok(request)
}
