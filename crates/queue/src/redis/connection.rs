//! Connections that answer within a second or are given up, and how soon they are made again.

use super::scripts;
use crate::QueueError;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, IntoConnectionInfo, Pipeline, ProtocolVersion,
    RedisResult, ServerErrorKind, aio::MultiplexedConnection, io::tcp::TcpSettings,
};
use std::{io, time::Duration};

/// The longest that Redis may take to answer, or to be connected to.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(1);

const FIRST_DELAY: Duration = Duration::from_millis(200);
const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// Reads the URL.
pub(crate) fn client(url: &str) -> Result<Client, QueueError> {
    let url = url.into_connection_info().map_err(|_| QueueError::Url)?;
    // Whatever the URL says: the newer protocol's replies have other shapes.
    let settings = url.redis_settings().clone().set_protocol(ProtocolVersion::RESP2);
    // Somebody waits for each call, also while another one is under way.
    let sockets = TcpSettings::default().set_nodelay(true);
    Client::open(url.set_redis_settings(settings).set_tcp_settings(sockets)).map_err(|_| QueueError::Url)
}

/// Connects, and makes sure that commands are answered: a hung server still accepts connections.
pub(crate) async fn connect(client: &Client) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CALL_TIMEOUT))
        .set_response_timeout(Some(CALL_TIMEOUT));
    within(async {
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        redis::cmd("PING").exec_async(&mut connection).await?;
        Ok(connection)
    })
    .await
}

/// Sends commands together. Scripts that the server does not know are loaded first.
pub(crate) async fn query<T: FromRedisValue>(
    connection: &mut MultiplexedConnection,
    pipeline: &Pipeline,
) -> RedisResult<T> {
    match within(pipeline.query_async(connection)).await {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            within(scripts::load(connection)).await?;
            within(pipeline.query_async(connection)).await
        }
        result => result,
    }
}

/// Waits no longer than [`CALL_TIMEOUT`].
pub(crate) async fn within<T>(call: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    tokio::time::timeout(CALL_TIMEOUT, call)
        .await
        .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
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
