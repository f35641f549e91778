//! Connections lent for one call each: bounded in time, tried again after a conflict, never lost to a dead network.

use std::time::Duration;

use tokio::time::error::Elapsed;

use super::pool::Lent;
use crate::{StoreError, error::is_conflict};

/// How often a call that met another transaction is tried in all.
const ATTEMPTS: u32 = 5;

/// Runs `$work`, which uses `$connection`, on a connection of the pool. It may run several times: a conflict with another
/// transaction (deadlock, serialization failure) has undone all of it.
macro_rules! on_connection {
    ($postgres:expr, |$connection:ident| $work:expr) => {{
        let mut attempt = 1;
        loop {
            let mut lent = $postgres.pool.lend().await?;
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

impl Lent {
    /// Decides what to do with a call's result; the connection of one that timed out is cut.
    pub(super) async fn settle<T>(self, result: Result<sqlx::Result<T>, Elapsed>, attempt: u32) -> Settled<T> {
        match result {
            Ok(Err(error)) if attempt < ATTEMPTS && is_conflict(&error) => {
                self.give_back();
                tokio::time::sleep(Duration::from_millis(5) * attempt).await;
                Settled::Again
            }
            Ok(Ok(answer)) => {
                self.give_back();
                Settled::Answer(Ok(answer))
            }
            Ok(Err(error)) => {
                let error = StoreError::from(error);
                match &error {
                    // Another connection may meet another server: this one's may have become a standby.
                    StoreError::Unavailable(_) => self.cut(),
                    // The server tells of an error before it lets go of locks: whoever asks for less at once would find rows locked.
                    _ => self.give_back_ended().await,
                }
                Settled::Answer(Err(error))
            }
            Err(_) => {
                self.cut();
                let silence = std::io::Error::from(std::io::ErrorKind::TimedOut);
                Settled::Answer(Err(StoreError::Unavailable(sqlx::Error::Io(silence))))
            }
        }
    }
}
