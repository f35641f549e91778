//! Connections lent for one call each: bounded in time, tried again after a conflict, never lost to a dead network.

use std::time::Duration;

use sqlx::{PgConnection, Postgres as Database, pool::PoolConnection};
use tokio::time::error::Elapsed;

use super::{CALL_TIMEOUT, Postgres};
use crate::{StoreError, error::is_conflict};

/// How often a call that met another transaction is tried in all.
const ATTEMPTS: u32 = 5;

/// Runs `$work`, which uses `$connection`, on a connection of the pool. It may run several times: a conflict with another
/// transaction (deadlock, serialization failure) has undone all of it.
macro_rules! on_connection {
    ($postgres:expr, |$connection:ident| $work:expr) => {{
        let mut attempt = 1;
        loop {
            let mut lent = $postgres.lend().await?;
            let result = {
                let $connection = lent.connection()?;
                tokio::time::timeout($postgres.call_timeout, async { $work }).await
            };
            match lent.settle(result, attempt).await {
                $crate::postgres::connection::Settled::Answer(answer) => break answer,
                $crate::postgres::connection::Settled::Again => attempt += 1,
            }
        }
    }};
}
pub(super) use on_connection;

/// What became of one attempt.
pub(super) enum Settled<T> {
    Answer(Result<T, StoreError>),
    Again,
}

/// A connection that goes back to the pool when dropped, unless its last call did not end.
pub(super) struct Lent(Option<PoolConnection<Database>>);

impl Postgres {
    pub(super) async fn lend(&self) -> Result<Lent, StoreError> {
        Ok(Lent(Some(self.pool.acquire().await?)))
    }
}

impl Lent {
    pub(super) fn connection(&mut self) -> Result<&mut PgConnection, StoreError> {
        self.0.as_deref_mut().ok_or(StoreError::Unavailable(sqlx::Error::PoolClosed))
    }

    /// Decides what to do with a call's result; the connection of one that timed out is cut.
    pub(super) async fn settle<T>(mut self, result: Result<sqlx::Result<T>, Elapsed>, attempt: u32) -> Settled<T> {
        match result {
            Ok(Err(error)) if attempt < ATTEMPTS && is_conflict(&error) => {
                drop(self);
                tokio::time::sleep(Duration::from_millis(5) * attempt).await;
                Settled::Again
            }
            Ok(result) => Settled::Answer(result.map_err(StoreError::from)),
            Err(_) => {
                drop(self.0.take().map(PoolConnection::detach));
                let silence = std::io::Error::from(std::io::ErrorKind::TimedOut);
                Settled::Answer(Err(StoreError::Unavailable(sqlx::Error::Io(silence))))
            }
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // The caller may have gone in the middle of a statement: the pool waits for its end before it lends the connection
        // again, which on a dead network would keep the place in the pool for many minutes.
        if let (Some(mut connection), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            let back = connection.return_to_pool();
            runtime.spawn(async move {
                let _ = tokio::time::timeout(CALL_TIMEOUT, back).await;
            });
        }
    }
}
