//! Connections that answer in time or are given up, and how soon they are made again.

use super::scripts;
use crate::QueueError;
use redis::{
    AsyncConnectionConfig, ErrorKind, FromRedisValue, IntoConnectionInfo, Pipeline, ProtocolVersion, RedisResult,
    ServerErrorKind,
    aio::{MultiplexedConnection, PubSubSink, PubSubStream},
    io::tcp::TcpSettings,
};
use std::{io, time::Duration};

const FIRST_DELAY: Duration = Duration::from_millis(200);
const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// What connects to a server, and how long that, or any call, may take.
#[derive(Clone)]
pub(crate) struct Client {
    redis: redis::Client,
    call_timeout: Duration,
}

/// A connection whose calls end in time.
#[derive(Clone)]
pub(crate) struct Connection {
    redis: MultiplexedConnection,
    call_timeout: Duration,
}

impl Client {
    /// Reads the URL.
    pub(crate) fn new(url: &str, call_timeout: Duration) -> Result<Self, QueueError> {
        let url = url.into_connection_info().map_err(|_| QueueError::Url)?;
        // Whatever the URL says: the newer protocol's replies have other shapes.
        let settings = url.redis_settings().clone().set_protocol(ProtocolVersion::RESP2);
        // Somebody waits for each call, also while another one is under way.
        let sockets = TcpSettings::default().set_nodelay(true);
        let url = url.set_redis_settings(settings).set_tcp_settings(sockets);
        Ok(Self { redis: redis::Client::open(url).map_err(|_| QueueError::Url)?, call_timeout })
    }

    /// Connects, and makes sure that commands are answered: a hung server still accepts connections.
    pub(crate) async fn connect(&self) -> RedisResult<Connection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.call_timeout))
            .set_response_timeout(Some(self.call_timeout));
        self.within(async {
            let mut redis = self.redis.get_multiplexed_async_connection_with_config(&config).await?;
            redis::cmd("PING").exec_async(&mut redis).await?;
            Ok(Connection { redis, call_timeout: self.call_timeout })
        })
        .await
    }

    /// Connects, and subscribes to these channels.
    pub(crate) async fn subscribe(&self, channels: &[String]) -> RedisResult<(PubSubSink, PubSubStream)> {
        self.within(async {
            let mut connection = self.redis.get_async_pubsub().await?;
            connection.subscribe(channels).await?;
            Ok(connection.split())
        })
        .await
    }

    /// Waits no longer than a call may take.
    pub(crate) async fn within<T>(&self, call: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
        within(self.call_timeout, call).await
    }
}

impl Connection {
    /// Sends commands together. Scripts that the server does not know are loaded first.
    pub(crate) async fn query<T: FromRedisValue>(&mut self, pipeline: &Pipeline) -> RedisResult<T> {
        match within(self.call_timeout, pipeline.query_async(&mut self.redis)).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                within(self.call_timeout, scripts::load(&mut self.redis)).await?;
                within(self.call_timeout, pipeline.query_async(&mut self.redis)).await
            }
            result => result,
        }
    }
}

async fn within<T>(time: Duration, call: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    tokio::time::timeout(time, call).await.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
}

/// Whether the server is there and refuses this command, rather than being away or not ready for any.
pub(crate) fn is_refusal(error: &redis::RedisError) -> bool {
    use ServerErrorKind::{BusyLoading, ClusterDown, MasterDown, ReadOnly};
    match error.kind() {
        ErrorKind::Server(kind) => !matches!(kind, BusyLoading | ClusterDown | MasterDown | ReadOnly),
        ErrorKind::Extension => true,
        _ => false,
    }
}

/// Delays between attempts: each twice the last up to a second, half of it either way by chance, so that many
/// processes do not come back in step.
pub(crate) struct Backoff {
    delay: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { delay: FIRST_DELAY }
    }

    pub(crate) fn reset(&mut self) {
        self.delay = FIRST_DELAY;
    }

    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.delay.mul_f64(rand::random_range(0.5..1.5))).await;
        self.delay = (self.delay * 2).min(LONGEST_DELAY);
    }
}
