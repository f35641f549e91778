//! The one connection that writes, and its transactions.
//!
//! Each call of it is a message to a thread of its own and one back, which takes longer than most statements: those that need no
//! answer in between are sent as one.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Duration,
};

use sqlx::{ConnectOptions, Connection, QueryBuilder, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::{
    runtime::Handle,
    sync::{Mutex, OwnedMappedMutexGuard, OwnedMutexGuard},
    time::timeout,
};

use super::slices;
use crate::StoreError;

/// A statement that begins the transaction it is the first of. The write lock is taken at once, so that nothing read can change.
macro_rules! first {
    ($statement:expr) => {
        concat!("BEGIN IMMEDIATE; ", $statement)
    };
}
pub(super) use first;

/// As [`first`], of a transaction that does not wait for the disk when it commits: of claims, which promise nothing (see
/// `postgres/claim.rs`), and which no process can have made that outlives what takes them back, a crash of this machine. What
/// commits later takes it along.
macro_rules! first_unsynced {
    ($statement:expr) => {
        concat!("PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE; ", $statement)
    };
}
pub(super) use first_unsynced;

/// Commits, and lets the next transaction wait for the disk again.
macro_rules! commit {
    () => {
        "COMMIT; PRAGMA synchronous = FULL"
    };
}
pub(super) use commit;

const BEGIN: &str = "BEGIN IMMEDIATE";
const SYNCED: &str = "PRAGMA synchronous = FULL";

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

    /// Waits for a turn, whose first statement is to be one of [`first`] or [`first_unsynced`].
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
                Ok(_) | Err(sqlx::Error::Database(_)) => {
                    sqlx::query(SYNCED).execute(&mut place.connection).await?;
                }
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
        sqlx::query(commit!()).execute(&mut *self).await?;
        self.committed();
        Ok(())
    }

    /// Executes what `statement` makes of the rows, slice by slice, and commits with the last of them.
    pub(super) async fn commit_with<T: Sync>(
        mut self,
        rows: &[T],
        statement: impl Fn(&[T]) -> QueryBuilder<sqlx::Sqlite> + Send,
    ) -> sqlx::Result<()> {
        let mut slices = slices(rows).peekable();
        if slices.peek().is_none() {
            return self.commit().await;
        }
        while let Some(rows) = slices.next() {
            let mut query = statement(rows);
            if slices.peek().is_none() {
                query.push(concat!("; ", commit!()));
            }
            query.build().execute(&mut *self).await?;
        }
        self.committed();
        Ok(())
    }

    /// Its last statement, which ended with [`commit`], succeeded.
    pub(super) fn committed(mut self) {
        self.place.is_in_doubt = false;
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

#[cfg(test)]
mod tests {
    use sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};

    use super::*;

    /// What `PRAGMA synchronous` calls NORMAL and FULL.
    const UNSYNCED: i64 = 1;
    const SYNCED: i64 = 2;

    async fn synchronous(connection: &mut SqliteConnection) -> i64 {
        sqlx::query_scalar("PRAGMA synchronous").fetch_one(connection).await.expect("a number")
    }

    #[tokio::test]
    async fn after_a_transaction_that_did_not_wait_for_the_disk_the_next_one_waits() {
        let dir = tempfile::tempdir().expect("a directory");
        let options = SqliteConnectOptions::new().filename(dir.path().join("a")).create_if_missing(true);
        let options = options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full);
        let writer = Writer::open(options).await.expect("a new file");
        for is_committed in [true, false] {
            let mut turn = writer.turn().await.expect("nobody else writes");
            sqlx::query(first_unsynced!("SELECT 1")).execute(&mut *turn).await.expect("no rows are wanted");
            assert_eq!(synchronous(&mut turn).await, UNSYNCED);
            if is_committed {
                turn.commit().await.expect("nothing to refuse");
            } else {
                drop(turn);
            }
            assert_eq!(
                synchronous(&mut writer.turn().await.expect("nobody else writes")).await,
                SYNCED,
                "committed: {is_committed}"
            );
        }
    }
}
