//! Notices and pieces over Redis's publish and subscribe: notices are sent together by one task, both are received by another.

use super::{
    connection::{Backoff, Client},
    link::Link,
    messages::{self, Message},
    names::Names,
    parcels::Parcels,
    tasks::Tasks,
};
use crate::{NOTICES_KEPT, Notice, Piece, pieces::Readers};
use futures::{FutureExt as _, StreamExt as _};
use redis::{Pipeline, RedisResult, Value};
use std::{sync::Arc, time::Duration};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

/// How often a silent subscription is tried: a connection that is gone may look like one on which nothing happens.
const PING_EVERY: Duration = Duration::from_secs(1);

pub(crate) struct Notices {
    heard: broadcast::Sender<Notice>,
    outgoing: mpsc::Sender<Notice>,
    /// Names this process in what it sends.
    origin: Uuid,
    names: Names,
    parcels: Parcels,
    _subscriber: AbortOnDropHandle<()>,
}

impl Notices {
    /// Starts the tasks; returns once subscribed, where Redis is there.
    pub(crate) async fn open(
        client: &Client,
        link: &Arc<Link>,
        names: &Names,
        readers: Arc<Readers>,
        tasks: &Tasks,
    ) -> Self {
        let heard = broadcast::Sender::new(NOTICES_KEPT);
        let (outgoing, queued) = mpsc::channel(NOTICES_KEPT);
        let (subscribed, is_subscribed) = oneshot::channel();
        let channels = [names.notices(), names.reader(readers.name)];
        // It sends what is left when the last handle is gone, and then ends by itself.
        tasks.spawn(publish(Arc::clone(link), names.notices(), readers.name, queued));
        let (origin, parcels) = (readers.name, Parcels::open(client.clone(), tasks));
        let subscriber = Subscriber { client: client.clone(), channels, readers, heard: heard.clone() };
        let subscriber = AbortOnDropHandle::new(tasks.spawn(subscriber.run(Arc::clone(link), subscribed)));
        if link.is_up() {
            // Late is no error: listeners look into the store as well.
            let _ = client.within(is_subscribed.map(Ok)).await;
        }
        Self { heard, outgoing, origin, names: names.clone(), parcels, _subscriber: subscriber }
    }

    pub(crate) fn tell(&self, notice: Notice) {
        // Without listeners here there are some elsewhere; with a full queue, others are told by what they see in the
        // store.
        let _ = self.heard.send(notice.clone());
        let _ = self.outgoing.try_send(notice);
    }

    pub(crate) fn send(&self, reader: Uuid, pieces: Vec<Piece>) {
        // Without room they are lost, and asked for again.
        let _ = self.parcels.send(self.names.reader(reader), messages::of_pieces(self.origin, &pieces));
    }

    pub(crate) fn listen(&self) -> broadcast::Receiver<Notice> {
        self.heard.subscribe()
    }
}

/// `origin` names this process in its messages, so that its own listeners, who were told directly, hear nothing twice.
async fn publish(link: Arc<Link>, channel: String, origin: Uuid, mut queued: mpsc::Receiver<Notice>) {
    let mut batch = Vec::new();
    while queued.recv_many(&mut batch, NOTICES_KEPT).await > 0 {
        let mut pipeline = Pipeline::new();
        for message in messages::of_notices(origin, std::mem::take(&mut batch)) {
            pipeline.cmd("PUBLISH").arg(&channel).arg(message).ignore();
        }
        if let Err(error) = link.query::<()>(&pipeline).await {
            tracing::debug!(%error, "notices not sent");
        }
    }
}

struct Subscriber {
    client: Client,
    /// What all hear, and what is for this process alone.
    channels: [String; 2],
    readers: Arc<Readers>,
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
        let (mut sink, mut messages) = self.client.subscribe(&self.channels).await?;
        backoff.reset();
        if let Some(subscribed) = subscribed.take() {
            // Nobody waits for it any more when it took long.
            let _ = subscribed.send(());
        }
        loop {
            tokio::select! {
                message = messages.next() => {
                    let Some(message) = message else { return Ok(()) };
                    match messages::read(message.get_payload_bytes(), self.readers.name) {
                        // Without listeners nobody hears it.
                        Some(Message::Notice(notice)) => drop(self.heard.send(notice)),
                        Some(Message::Pieces(pieces)) => self.readers.hand_out(pieces),
                        None => {}
                    }
                }
                () = tokio::time::sleep(PING_EVERY) => drop(self.client.within(sink.ping::<Value>()).await?),
            }
        }
    }
}
