//! Notices over Redis's publish and subscribe: sent together by one task, received by another.

use super::{
    connection::{self, Backoff},
    link::Link,
};
use crate::{NOTICES_KEPT, Notice};
use futures::StreamExt;
use prediction::PredictionId;
use redis::{Client, Pipeline, RedisResult, Value};
use std::{sync::Arc, time::Duration};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

/// The most ids in one message.
const MOST_IDS: usize = 1000;

/// How often a silent subscription is tried: a connection that is gone may look like one on which nothing happens.
const PING_EVERY: Duration = Duration::from_secs(1);

const FINISHED: u8 = b'f';
const CANCELED: u8 = b'c';
const DELIVERIES_DUE: u8 = b'd';

pub(crate) struct Notices {
    heard: broadcast::Sender<Notice>,
    outgoing: mpsc::Sender<Notice>,
    _subscriber: AbortOnDropHandle<()>,
}

impl Notices {
    /// Starts the tasks; returns once subscribed, where Redis is there.
    pub(crate) async fn open(client: &Client, link: &Arc<Link>, channel: String) -> Self {
        // Names this process in its messages, so that its own listeners, who were told directly, hear nothing twice.
        let origin = Uuid::new_v4();
        let heard = broadcast::Sender::new(NOTICES_KEPT);
        let (outgoing, queued) = mpsc::channel(NOTICES_KEPT);
        let (subscribed, is_subscribed) = oneshot::channel();
        let subscriber = Subscriber { client: client.clone(), channel: channel.clone(), origin, heard: heard.clone() };
        // It sends what is left when the last handle is gone, and then ends by itself.
        tokio::spawn(publish(Arc::clone(link), channel, origin, queued));
        let subscriber = AbortOnDropHandle::new(tokio::spawn(subscriber.run(Arc::clone(link), subscribed)));
        if link.is_up() {
            // Late is no error: listeners look into the store as well.
            let _ = tokio::time::timeout(connection::CALL_TIMEOUT, is_subscribed).await;
        }
        Self { heard, outgoing, _subscriber: subscriber }
    }

    pub(crate) fn tell(&self, notice: Notice) {
        // Without listeners here there are some elsewhere; with a full queue, others are told by what they see in the
        // store.
        let _ = self.heard.send(notice.clone());
        let _ = self.outgoing.try_send(notice);
    }

    pub(crate) fn listen(&self) -> broadcast::Receiver<Notice> {
        self.heard.subscribe()
    }
}

async fn publish(link: Arc<Link>, channel: String, origin: Uuid, mut queued: mpsc::Receiver<Notice>) {
    let mut batch = Vec::new();
    while queued.recv_many(&mut batch, NOTICES_KEPT).await > 0 {
        let (mut finished, mut canceled, mut is_due) = (Vec::new(), Vec::new(), false);
        for notice in batch.drain(..) {
            match notice {
                Notice::Finished(ids) => finished.extend_from_slice(&ids),
                Notice::Canceled(ids) => canceled.extend_from_slice(&ids),
                Notice::DeliveriesDue => is_due = true,
            }
        }
        let mut pipeline = Pipeline::new();
        for (kind, ids) in [(FINISHED, finished), (CANCELED, canceled)] {
            for ids in ids.chunks(MOST_IDS) {
                pipeline.cmd("PUBLISH").arg(&channel).arg(encode(kind, origin, ids)).ignore();
            }
        }
        if is_due {
            pipeline.cmd("PUBLISH").arg(&channel).arg(encode(DELIVERIES_DUE, origin, &[])).ignore();
        }
        if !pipeline.is_empty()
            && let Err(error) = link.query::<()>(&pipeline).await
        {
            tracing::debug!(%error, "notices not sent");
        }
    }
}

struct Subscriber {
    client: Client,
    channel: String,
    origin: Uuid,
    heard: broadcast::Sender<Notice>,
}

impl Subscriber {
    async fn run(self, link: Arc<Link>, subscribed: oneshot::Sender<()>) {
        let mut subscribed = Some(subscribed);
        let mut backoff = Backoff::new();
        loop {
            link.up().await;
            if let Err(error) = self.receive(&mut subscribed, &mut backoff).await {
                tracing::debug!(%error, "subscribing again");
            }
            backoff.wait().await;
        }
    }

    /// Receives until the connection is gone.
    async fn receive(&self, subscribed: &mut Option<oneshot::Sender<()>>, backoff: &mut Backoff) -> RedisResult<()> {
        let subscription = async {
            let mut connection = self.client.get_async_pubsub().await?;
            connection.subscribe(&self.channel).await?;
            Ok(connection.split())
        };
        let (mut sink, mut messages) = connection::within(subscription).await?;
        backoff.reset();
        if let Some(subscribed) = subscribed.take() {
            // Nobody waits for it any more when it took long.
            let _ = subscribed.send(());
        }
        loop {
            tokio::select! {
                message = messages.next() => {
                    let Some(message) = message else { return Ok(()) };
                    if let Some(notice) = decode(message.get_payload_bytes(), self.origin) {
                        // Without listeners nobody hears it.
                        let _ = self.heard.send(notice);
                    }
                }
                () = tokio::time::sleep(PING_EVERY) => drop(connection::within(sink.ping::<Value>()).await?),
            }
        }
    }
}

/// The kind, who tells (16 bytes), and the ids (16 bytes each).
fn encode(kind: u8, origin: Uuid, ids: &[PredictionId]) -> Vec<u8> {
    let mut message = Vec::with_capacity(17 + 16 * ids.len());
    message.push(kind);
    message.extend_from_slice(origin.as_bytes());
    ids.iter().for_each(|id| message.extend_from_slice(id.0.as_bytes()));
    message
}

/// Reads what others tell; anything else, and what `own` told, is none of ours.
fn decode(message: &[u8], own: Uuid) -> Option<Notice> {
    let (kind, message) = message.split_first()?;
    let (origin, ids) = message.split_first_chunk::<16>()?;
    let (ids, []) = ids.as_chunks::<16>() else { return None };
    if origin == own.as_bytes() {
        return None;
    }
    let read = || ids.iter().map(|id| PredictionId(Uuid::from_bytes(*id))).collect();
    match *kind {
        FINISHED if !ids.is_empty() => Some(Notice::Finished(read())),
        CANCELED if !ids.is_empty() => Some(Notice::Canceled(read())),
        DELIVERIES_DUE if ids.is_empty() => Some(Notice::DeliveriesDue),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_read_back_by_others_only() {
        let (here, there) = (Uuid::new_v4(), Uuid::new_v4());
        let ids = [PredictionId::generate(), PredictionId::generate()];
        let message = encode(CANCELED, here, &ids);
        assert_eq!(decode(&message, there), Some(Notice::Canceled(ids.into())));
        assert_eq!(decode(&message, here), None);
        let message = encode(DELIVERIES_DUE, here, &[]);
        assert_eq!((decode(&message, there), decode(&message, here)), (Some(Notice::DeliveriesDue), None));
    }

    #[test]
    fn other_messages_are_ignored() {
        let message = encode(FINISHED, Uuid::new_v4(), &[PredictionId::generate()]);
        for length in 0..message.len() {
            assert_eq!(decode(&message[..length], Uuid::new_v4()), None, "{length}");
        }
        for (kind, ids) in [(b'x', 1), (DELIVERIES_DUE, 1), (FINISHED, 0), (CANCELED, 0)] {
            let ids: Vec<_> = (0..ids).map(|_| PredictionId::generate()).collect();
            assert_eq!(decode(&encode(kind, Uuid::new_v4(), &ids), Uuid::new_v4()), None, "{kind}");
        }
    }
}
