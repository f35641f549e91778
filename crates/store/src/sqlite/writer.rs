//! The one connection that writes, and its transactions.
//!
//! Each call of it is a message to a thread of its own and one back, which takes longer than most statements: those that need no
//! answer in between are sent as one.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Duration,
};

use sqlx::{ConnectOptions, Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::{
    runtime::Handle,
    sync::{Mutex, OwnedMappedMutexGuard, OwnedMutexGuard},
    time::timeout,
};

use crate::StoreError;

/// A statement that begins the transaction it is the first of. The write lock is taken at once, so that nothing read can change.
macro_rules! first {
    ($statement:expr) => {
        concat!("BEGIN IMMEDIATE; ", $statement)
    };
}
pub(super) use first;

const BEGIN: &str = "BEGIN IMMEDIATE";

/// How long a call waits for its turn.
pub(super) const TURN_TIMEOUT: Duration = Duration::from_secs(5);

/// SQLite has one writer at a time; here they take turns, so that nobody is ever told "busy".
#[derive(Clone)]
pub(super) struct Writer {
    options: Arc<SqliteConnectOptions>,
    /// `None` once it is closed.
    place: Arc<Mutex<Option<Place>>>,
}

struct Place {
    connection: SqliteConnection,
    /// Whether a transaction may have been left open.
    is_in_doubt: bool,
}

/// A turn to write, for one transaction; what was not committed when it is dropped is undone.
pub(super) struct Turn {
    writer: Writer,
    place: Held,
}

type Held = OwnedMappedMutexGuard<Option<Place>, Place>;

impl Writer {
    /// Connects, and makes the file when there is none.
    pub(super) async fn open(options: SqliteConnectOptions) -> sqlx::Result<Self> {
        let place = Place { connection: options.connect().await?, is_in_doubt: false };
        Ok(Self { options: Arc::new(options), place: Arc::new(Mutex::new(Some(place))) })
    }

    /// Waits for a turn and begins its transaction.
    pub(super) async fn begin(&self) -> Result<Turn, StoreError> {
        let mut turn = self.turn().await?;
        sqlx::query(BEGIN).execute(&mut *turn).await?;
        Ok(turn)
    }

    /// Waits for a turn, whose first statement is to be one of [`first`].
    pub(super) async fn turn(&self) -> Result<Turn, StoreError> {
        let place = timeout(TURN_TIMEOUT, self.undone()).await;
        let mut place = place.map_err(|_| StoreError::Unavailable(sqlx::Error::PoolTimedOut))??;
        place.is_in_doubt = true;
        Ok(Turn { writer: self.clone(), place })
    }

    /// Waits for the connection, and undoes what the last turn may have left.
    async fn undone(&self) -> sqlx::Result<Held> {
        let place = Arc::clone(&self.place).lock_owned().await;
        let mut place = OwnedMutexGuard::try_map(place, Option::as_mut).map_err(|_| sqlx::Error::PoolClosed)?;
        if place.is_in_doubt {
            match sqlx::query("ROLLBACK").execute(&mut place.connection).await {
                // Refused where there is nothing to undo.
                Ok(_) | Err(sqlx::Error::Database(_)) => {}
                Err(_) => place.connection = self.options.connect().await?,
            }
            place.is_in_doubt = false;
        }
        Ok(place)
    }

    /// Closes the connection after the last turn; there are none any more.
    pub(super) async fn close(&self) {
        if let Some(place) = self.place.lock().await.take() {
            // What was committed is on disk, whatever becomes of this.
            let _ = place.connection.close().await;
        }
    }
}

impl Turn {
    /// Makes what was written last.
    pub(super) async fn commit(mut self) -> sqlx::Result<()> {
        sqlx::query("COMMIT").execute(&mut *self).await?;
        self.place.is_in_doubt = false;
        Ok(())
    }
}

impl Drop for Turn {
    /// At once, since others may want to write to the file: by the next turn, or by nobody's.
    fn drop(&mut self) {
        if self.place.is_in_doubt
            && let Ok(runtime) = Handle::try_current()
        {
            let writer = self.writer.clone();
            runtime.spawn(async move { writer.undone().await.map(drop) });
        }
    }
}

impl Deref for Turn {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.place.connection
    }
}

impl DerefMut for Turn {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.place.connection
    }
}
