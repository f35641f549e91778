//! The one connection that writes, and its transactions.
//!
//! Each call of it is a message to a thread of its own and one back, which takes longer than most statements: those that need no
//! answer in between are sent as one.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Duration,
};

use sqlx::{
    ConnectOptions, Connection, QueryBuilder, Sqlite, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteRow},
};
use tokio::{
    runtime::Handle,
    sync::{Mutex, OwnedMappedMutexGuard, OwnedMutexGuard},
    time::timeout,
};

use super::padded;
use crate::StoreError;

/// The write lock is taken at once, so that nothing read can change.
const BEGIN: &str = "BEGIN IMMEDIATE; ";
const COMMIT: &str = "COMMIT";
/// Transactions wait for the disk again when they commit.
const SYNCED: &str = "PRAGMA synchronous = FULL";
const BEGIN_UNSYNCED: &str = "PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE; ";
const COMMIT_UNSYNCED: &str = "COMMIT; PRAGMA synchronous = FULL";

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

    /// Waits for a turn, whose first message is to begin its transaction.
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
        sqlx::query(COMMIT).execute(&mut *self).await?;
        self.place.is_in_doubt = false;
        Ok(())
    }

    /// Sends what is left of the transaction, commits with the last message, and returns the rows of all statements.
    pub(super) async fn finish(mut self, mut script: Script) -> sqlx::Result<Vec<SqliteRow>> {
        let end = script.end;
        script.message().push(end);
        let mut rows = Vec::new();
        for mut message in script.messages {
            rows.extend(message.build().fetch_all(&mut *self).await?);
        }
        self.place.is_in_doubt = false;
        Ok(rows)
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

/// Statements of one transaction, in as few messages as may be.
pub(super) struct Script {
    messages: Vec<QueryBuilder<Sqlite>>,
    end: &'static str,
}

impl Script {
    /// A whole transaction.
    pub(super) fn whole() -> Self {
        Self { messages: vec![QueryBuilder::new(BEGIN)], end: COMMIT }
    }

    /// A whole transaction that does not wait for the disk when it commits: a claim, which promises nothing (see
    /// `postgres/claim.rs`), and which no process can have made that outlives what takes it back, a crash of this machine. What
    /// commits later takes it along.
    pub(super) fn whole_unsynced() -> Self {
        Self { messages: vec![QueryBuilder::new(BEGIN_UNSYNCED)], end: COMMIT_UNSYNCED }
    }

    /// The rest of one that has begun.
    pub(super) fn rest() -> Self {
        Self { messages: vec![QueryBuilder::default()], end: COMMIT }
    }

    /// The message that is being written; each of its statements ends with a semicolon.
    pub(super) fn message(&mut self) -> &mut QueryBuilder<Sqlite> {
        let last = self.messages.len() - 1;
        &mut self.messages[last]
    }

    /// Adds what `write` makes of the rows; those that do not fit one statement of it go on in another message.
    pub(super) fn push_rows<T>(&mut self, rows: &[T], write: impl Fn(&mut QueryBuilder<Sqlite>, &[Option<&T>])) {
        for (place, rows) in padded(rows).enumerate() {
            if place > 0 {
                self.messages.push(QueryBuilder::default());
            }
            write(self.message(), &rows);
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
    use sqlx::{
        Row,
        sqlite::{SqliteJournalMode, SqliteSynchronous},
    };

    use super::*;

    /// What `PRAGMA synchronous` calls NORMAL and FULL.
    const NORMAL: i64 = 1;
    const FULL: i64 = 2;

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
            let mut script = Script::whole_unsynced();
            if is_committed {
                script.message().push("PRAGMA synchronous; ");
                let rows = turn.finish(script).await.expect("nothing to refuse");
                assert_eq!(rows[0].get::<i64, _>(0), NORMAL);
            } else {
                script.message().build().execute(&mut *turn).await.expect("nobody else writes");
                assert_eq!(synchronous(&mut turn).await, NORMAL);
                drop(turn);
            }
            assert_eq!(
                synchronous(&mut writer.turn().await.expect("nobody else writes")).await,
                FULL,
                "committed: {is_committed}"
            );
        }
    }
}
