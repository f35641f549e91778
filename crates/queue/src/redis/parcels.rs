//! Pieces on their way to Redis: so many bytes at most, on a connection of their own, so that nothing else waits behind them. What
//! finds no room is dropped; whoever misses it asks again.

use super::{
    connection::{Backoff, Client, Connection},
    tasks::Tasks,
};
use redis::{Pipeline, RedisResult};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// The most bytes of messages that wait: what a worker writes in a few moments, whatever Redis does meanwhile.
const MOST_WAITING: usize = 4 << 20;

/// A message for one channel, and its part of the room.
struct Parcel {
    channel: String,
    message: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

pub(crate) struct Parcels {
    room: Arc<Semaphore>,
    waiting: mpsc::UnboundedSender<Parcel>,
}

impl Parcels {
    /// Starts the task that sends them. It ends by itself when the last handle is gone.
    pub(crate) fn open(client: Client, tasks: &Tasks) -> Self {
        let (waiting, queued) = mpsc::unbounded_channel();
        tasks.spawn(carry(client, queued));
        Self { room: Arc::new(Semaphore::new(MOST_WAITING)), waiting }
    }

    /// Has it sent if there is room; whether there was.
    pub(crate) fn send(&self, channel: String, message: Vec<u8>) -> bool {
        let room = u32::try_from(message.len())
            .ok()
            .and_then(|bytes| Arc::clone(&self.room).try_acquire_many_owned(bytes).ok());
        let Some(room) = room else { return false };
        self.waiting.send(Parcel { channel, message, _room: room }).is_ok()
    }
}

/// One after the other: each has the whole of a call's time.
async fn carry(client: Client, mut queued: mpsc::UnboundedReceiver<Parcel>) {
    let (mut connected, mut backoff) = (None, Backoff::new());
    while let Some(parcel) = queued.recv().await {
        match publish(&client, &mut connected, &parcel).await {
            Ok(()) => backoff.reset(),
            Err(error) => {
                tracing::debug!(%error, "pieces not sent");
                connected = None;
                drop(parcel);
                backoff.wait().await;
                // By now others have been asked for.
                while queued.try_recv().is_ok() {}
            }
        }
    }
}

async fn publish(client: &Client, connected: &mut Option<Connection>, parcel: &Parcel) -> RedisResult<()> {
    let connection = match connected {
        Some(connection) => connection,
        none => none.insert(client.connect().await?),
    };
    let mut pipeline = Pipeline::new();
    pipeline.cmd("PUBLISH").arg(&parcel.channel).arg(&parcel.message).ignore();
    connection.query(&pipeline).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::{io::AsyncReadExt as _, net::TcpListener};

    #[tokio::test]
    async fn however_much_is_sent_little_waits() {
        // It takes what comes and never answers.
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("redis://{}", listener.local_addr().expect("an address"));
        let hung = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                tokio::spawn(async move { while stream.read_u8().await.is_ok() {} });
            }
        });
        let client = Client::new(&url, Duration::from_millis(100)).expect("a good URL");
        let tasks = Tasks::default();
        let parcels = Parcels::open(client.clone(), &tasks);
        let taken = (0..100).filter(|_| parcels.send("to".to_owned(), vec![0; 1 << 20])).count();
        assert_eq!(taken, MOST_WAITING >> 20);
        assert!(!parcels.send("to".to_owned(), vec![0]));
        assert!(!Parcels::open(client, &tasks).send("to".to_owned(), vec![0; MOST_WAITING + 1]));
        // What cannot be sent makes room for what is written later.
        while parcels.room.available_permits() < MOST_WAITING {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(parcels.send("to".to_owned(), vec![0; MOST_WAITING]));
        hung.abort();
    }
}
