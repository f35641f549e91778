//! The connections of one handle. The one used last is lent first: its backend still has in its caches what the next statement
//! needs, where taking turns would meet a cold one each time; and nothing is asked of a server between two calls.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{ACQUIRE_TIMEOUT, CALL_TIMEOUT};
use crate::StoreError;

/// Acknowledged means on disk, whatever the server's default; a stricter setting (waiting for standbys) is kept.
const DURABLE_COMMITS: &str = "
    SELECT set_config('synchronous_commit', 'on', false)
    WHERE current_setting('synchronous_commit') = 'off'";

/// A connection idle for longer is tried out before it is used…
const TRUSTED_IDLE: Duration = Duration::from_secs(1);
/// …and for as long is closed,…
const KEPT_IDLE: Duration = Duration::from_secs(600);
/// …like one of this age: a backend's caches only grow.
const KEPT: Duration = Duration::from_secs(1800);
/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(50);

/// At most so many connections, made when they are needed; cheap to clone.
#[derive(Clone)]
pub(super) struct Pool(Arc<Shared>);

struct Shared {
    options: Arc<PgConnectOptions>,
    size: u32,
    places: Arc<Semaphore>,
    /// The one used last is at the end.
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    connection: PgConnection,
    made_at: Instant,
    since: Instant,
}

/// A connection and its place in the pool.
pub(super) struct Lent {
    pool: Pool,
    /// `None` once it was given back or cut.
    connection: Option<PgConnection>,
    made_at: Instant,
    place: Option<OwnedSemaphorePermit>,
}

impl Pool {
    pub(super) fn new(size: u32, options: Arc<PgConnectOptions>) -> Self {
        let size = size.max(1);
        let places = Arc::new(Semaphore::new(size as usize));
        Self(Arc::new(Shared { options, size, places, idle: Mutex::default() }))
    }

    /// Waits for a place, then lends an idle connection or makes one, asking again while the server does not let it in.
    ///
    /// # Errors
    /// All places were taken, or the server did not answer, for [`ACQUIRE_TIMEOUT`]; it refused; or the pool is closed.
    pub(super) async fn lend(&self) -> Result<Lent, StoreError> {
        let mut refused = sqlx::Error::PoolTimedOut;
        tokio::time::timeout(ACQUIRE_TIMEOUT, self.lend_at_last(&mut refused))
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable(refused)))
    }

    async fn lend_at_last(&self, refused: &mut sqlx::Error) -> Result<Lent, StoreError> {
        let place = Arc::clone(&self.0.places).acquire_owned().await.map_err(|_| sqlx::Error::PoolClosed)?;
        let lent = |connection, made_at| Lent {
            pool: self.clone(),
            connection: Some(connection),
            made_at,
            place: Some(place),
        };
        while let Some(mut idle) = self.take_idle() {
            if idle.since.elapsed() < TRUSTED_IDLE || idle.connection.ping().await.is_ok() {
                return Ok(lent(idle.connection, idle.made_at));
            }
        }
        loop {
            match self.connect().await.map_err(StoreError::from) {
                Ok(connection) => return Ok(lent(connection, Instant::now())),
                Err(StoreError::Unavailable(error)) => *refused = error,
                Err(error) => return Err(error),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn connect(&self) -> sqlx::Result<PgConnection> {
        let mut connection = PgConnection::connect_with(&self.0.options).await?;
        sqlx::query(DURABLE_COMMITS).execute(&mut connection).await?;
        Ok(connection)
    }

    /// Waits until all connections are back, and closes them; nothing is lent any more.
    pub(super) async fn close(&self) {
        let _all = self.0.places.acquire_many(self.0.size).await;
        self.0.places.close();
        let idle = std::mem::take(&mut *self.idle());
        for idle in idle {
            let _ = idle.connection.close().await;
        }
    }

    fn take_idle(&self) -> Option<Idle> {
        self.idle().pop()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lent {
    /// # Errors
    /// It was given back.
    pub(super) fn connection(&mut self) -> Result<&mut PgConnection, StoreError> {
        self.connection.as_mut().ok_or(StoreError::Unavailable(sqlx::Error::PoolClosed))
    }

    /// After a call that came to its end: the next one may have the connection at once.
    pub(super) fn give_back(mut self) {
        let Some(connection) = self.connection.take() else { return };
        let now = Instant::now();
        let mut over = Vec::new();
        if now.duration_since(self.made_at) < KEPT {
            let mut idle = self.pool.idle();
            idle.push(Idle { connection, made_at: self.made_at, since: now });
            let first = idle.iter().position(|idle| now.duration_since(idle.since) < KEPT_IDLE).unwrap_or(idle.len());
            over.extend(idle.drain(..first).map(|idle| idle.connection));
        } else {
            over.push(connection);
        }
        for connection in over {
            tokio::spawn(tokio::time::timeout(CALL_TIMEOUT, connection.close()));
        }
    }

    /// After a call that failed: waits until the server is done with it.
    pub(super) async fn give_back_ended(mut self) {
        let Some(connection) = &mut self.connection else { return };
        match tokio::time::timeout(CALL_TIMEOUT, connection.ping()).await {
            Ok(Ok(())) => self.give_back(),
            _ => self.cut(),
        }
    }

    /// Cuts the connection: whatever it still carries is not waited for.
    pub(super) fn cut(mut self) {
        self.connection = None;
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // The caller has gone in the middle of a statement, or that failed: its end is waited for before the connection is
        // lent again, which on a dead network would take many minutes.
        if let (Some(mut connection), Ok(runtime)) = (self.connection.take(), tokio::runtime::Handle::try_current()) {
            let (pool, made_at, place) = (self.pool.clone(), self.made_at, self.place.take());
            runtime.spawn(async move {
                if let Ok(Ok(())) = tokio::time::timeout(CALL_TIMEOUT, connection.ping()).await {
                    Lent { pool, connection: Some(connection), made_at, place }.give_back();
                }
            });
        }
    }
}
