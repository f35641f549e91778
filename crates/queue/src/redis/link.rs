//! The connection that everything but reading shares: kept up by a task, and known to be down without trying.

use super::connection::{self, Backoff, Client, Connection};
use crate::QueueError;
use redis::{FromRedisValue, Pipeline, RedisError, RedisResult};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

/// How often the connection is tried, so that a Redis that hangs or is full is known before somebody needs it.
const PROBE_EVERY: Duration = Duration::from_secs(1);

pub(crate) struct Link {
    state: watch::Sender<State>,
    /// Writes: a Redis that is full, or a replica, answers all but that.
    probe: Pipeline,
}

enum State {
    /// The first attempt to connect is not over.
    Connecting,
    Down,
    Up(Live),
}

#[derive(Clone)]
struct Live {
    /// Which connection this is, so that a late failure of an old one does not end its successor.
    number: u64,
    connection: Connection,
}

impl Link {
    /// `probe` is a key that exists for a millisecond at a time.
    pub(crate) fn new(probe: &str) -> Arc<Self> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("SET").arg(probe).arg("").arg("PX").arg(1).ignore();
        Arc::new(Self { state: watch::Sender::new(State::Connecting), probe: pipeline })
    }

    pub(crate) fn is_up(&self) -> bool {
        matches!(*self.state.borrow(), State::Up(_))
    }

    /// Waits until the first attempt to connect is over.
    pub(crate) async fn tried(&self) {
        // The sender is ours, so the channel is open.
        let _ = self.state.subscribe().wait_for(|state| !matches!(state, State::Connecting)).await;
    }

    /// Waits until the connection is up.
    pub(crate) async fn up(&self) {
        let _ = self.state.subscribe().wait_for(|state| matches!(state, State::Up(_))).await;
    }

    async fn down(&self) {
        let _ = self.state.subscribe().wait_for(|state| matches!(state, State::Down)).await;
    }

    fn live(&self) -> Option<Live> {
        match &*self.state.borrow() {
            State::Up(live) => Some(live.clone()),
            State::Connecting | State::Down => None,
        }
    }

    /// Sends commands together, or fails at once when Redis is known to be away.
    pub(crate) async fn query<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, QueueError> {
        let Some(mut live) = self.live() else { return Err(QueueError::Unavailable("not connected".to_owned())) };
        live.connection.query(pipeline).await.map_err(|error| {
            if !connection::is_refusal(&error) {
                self.lose(live.number, &error);
            }
            QueueError::Unavailable(error.to_string())
        })
    }

    /// Keeps the connection up, for ever.
    pub(crate) async fn keep(self: Arc<Self>, client: Client) {
        let mut backoff = Backoff::new();
        for number in 0.. {
            match self.connect(&client).await {
                Ok(connection) => {
                    backoff.reset();
                    tracing::info!("connected to Redis");
                    self.state.send_replace(State::Up(Live { number, connection }));
                    self.probe_while_up().await;
                }
                Err(error) => {
                    let failed_first = self.state.send_if_modified(|state| {
                        let first = matches!(state, State::Connecting);
                        *state = State::Down;
                        first
                    });
                    if failed_first {
                        tracing::warn!(%error, "Redis is away");
                    }
                }
            }
            backoff.wait().await;
        }
    }

    async fn connect(&self, client: &Client) -> RedisResult<Connection> {
        let mut connection = client.connect().await?;
        connection.query::<()>(&self.probe).await?;
        Ok(connection)
    }

    async fn probe_while_up(&self) {
        loop {
            tokio::select! {
                () = self.down() => return,
                () = tokio::time::sleep(PROBE_EVERY) => {
                    if let Some(mut live) = self.live()
                        && let Err(error) = live.connection.query::<()>(&self.probe).await
                    {
                        self.lose(live.number, &error);
                    }
                }
            }
        }
    }

    fn lose(&self, number: u64, error: &RedisError) {
        let lost = self.state.send_if_modified(|state| {
            let is_this = matches!(state, State::Up(live) if live.number == number);
            if is_this {
                *state = State::Down;
            }
            is_this
        });
        if lost {
            tracing::warn!(%error, "Redis is away");
        }
    }
}
