//! Answers on offer: what a client does not take within its time is taken back, so that nobody has the server hold an answer for ever.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};

/// What a client takes of a body at a time, in bytes. HTTP/2 holds what was taken until the client has room for it.
const SLICE: usize = 16 * 1024;
/// So many offers are kept in mind before those that are over are forgotten: more than one connection can have at once.
const MANY: usize = 512;

/// A connection's socket: writing fails when the client has read nothing for so long.
pub(crate) struct Socket {
    stream: TcpStream,
    patience: Duration,
    /// Until when the client must have read something, while it is waited for.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, patience: Duration) -> Self {
        Self { stream, patience, stalled: None }
    }

    fn within_patience<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.patience;
        ready!(self.stalled.get_or_insert_with(|| Box::pin(sleep(patience))).as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, into)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.within_patience(context, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(context, bytes);
        this.within_patience(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// The answers of one connection that its client has not taken whole. HTTP/2 clients take each as they like, while the socket is
/// read all the time.
#[derive(Default)]
pub(crate) struct Offers(Mutex<Vec<Weak<Offer>>>);

/// What is left of an answer; nothing once it was taken back.
type Offer = Mutex<Option<Rest>>;

struct Rest {
    body: Body,
    /// The first part of what is left.
    first: Bytes,
    /// Since when the client is to take what it was given last.
    given_at: Option<Instant>,
}

/// The body of an answer, slice by slice.
struct Offered(Arc<Offer>);

impl Offers {
    /// The same body, as an offer. One that is small is not worth it.
    pub(crate) fn offer(&self, body: Body) -> Body {
        if body.size_hint().upper().is_some_and(|bytes| bytes <= SLICE as u64) {
            return body;
        }
        let offer = Arc::new(Mutex::new(Some(Rest { body, first: Bytes::new(), given_at: None })));
        let mut offers = lock(&self.0);
        if offers.len() >= MANY {
            offers.retain(|offer| offer.strong_count() > 0);
        }
        offers.push(Arc::downgrade(&offer));
        Body::new(Offered(offer))
    }

    /// Takes back what was not taken for so long.
    pub(crate) fn take_back(&self, patience: Duration) {
        lock(&self.0).retain(|offer| {
            let Some(offer) = offer.upgrade() else { return false };
            let mut rest = lock(&offer);
            let given_at = rest.as_ref().and_then(|rest| rest.given_at);
            if given_at.is_some_and(|given_at| given_at.elapsed() >= patience) {
                tracing::debug!("an answer is taken back that its client does not read");
                *rest = None;
            }
            rest.is_some()
        });
    }
}

impl HttpBody for Offered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut rest = lock(&self.0);
        let Some(rest) = &mut *rest else {
            return Poll::Ready(Some(Err(axum::Error::new(io::Error::from(io::ErrorKind::TimedOut)))));
        };
        // Who asks for more has taken what was given before.
        rest.given_at = None;
        if rest.first.is_empty() {
            match ready!(Pin::new(&mut rest.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => rest.first = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        rest.given_at = Some(Instant::now());
        let slice = rest.first.split_to(rest.first.len().min(SLICE));
        Poll::Ready(Some(Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.0).as_ref().is_some_and(|rest| rest.first.is_empty() && rest.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let rest = lock(&self.0);
        let Some(rest) = &*rest else { return SizeHint::default() };
        let (mut hint, first) = (rest.body.size_hint(), rest.first.len() as u64);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + first);
        }
        hint.set_lower(hint.lower() + first);
        hint
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, stream::poll_fn};
    use http_body_util::BodyExt as _;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    async fn slice(body: &mut Body) -> usize {
        body.frame().await.expect("a slice").expect("it is there").into_data().expect("data").len()
    }

    #[tokio::test]
    async fn what_nobody_takes_is_taken_back() {
        let offers = Offers::default();
        let mut body = offers.offer(Body::from(vec![7; SLICE * 2 + 1]));
        assert_eq!(body.size_hint().exact(), Some(SLICE as u64 * 2 + 1));
        // Not asked for yet, it is the server's to offer.
        offers.take_back(Duration::ZERO);
        assert_eq!((slice(&mut body).await, body.size_hint().exact()), (SLICE, Some(SLICE as u64 + 1)));
        offers.take_back(LONG);
        assert_eq!((slice(&mut body).await, body.is_end_stream()), (SLICE, false));
        offers.take_back(Duration::ZERO);
        assert!(body.frame().await.expect("an end").is_err());
        assert!(lock(&offers.0).is_empty());
    }

    #[tokio::test]
    async fn whoever_waits_for_more_has_taken_all() {
        let offers = Offers::default();
        let (sender, mut events) = tokio::sync::mpsc::channel::<Bytes>(4);
        let events = poll_fn(move |context| events.poll_recv(context).map(|event| event.map(Ok::<_, io::Error>)));
        let mut body = offers.offer(Body::from_stream(events));
        sender.send(Bytes::from_static(b"event")).await.expect("it is read");
        assert_eq!(slice(&mut body).await, 5);
        assert!(body.frame().now_or_never().is_none());
        offers.take_back(Duration::ZERO);
        drop(sender);
        assert!(body.frame().await.is_none());
    }

    #[test]
    fn offers_that_are_over_are_forgotten() {
        let offers = Offers::default();
        for _ in 0..MANY * 3 {
            drop(offers.offer(Body::from(vec![0; SLICE + 1])));
        }
        assert!(lock(&offers.0).len() <= MANY);
    }
}
