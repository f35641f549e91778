//! The store on SQLite: one writer, a few readers, one process; the schema, the clock.

mod accept;
mod admission;
mod api_keys;
mod ask;
mod claim;
mod clock;
mod complete;
mod deliveries;
mod dispatch;
mod endpoints;
mod models;
mod outbox;
mod purge;
mod secrets;
mod send;
mod sweep;
mod writer;

use std::{
    fs::{File, TryLockError},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use prediction::PredictionId;
use sqlx::{
    QueryBuilder, SqlitePool,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use time::OffsetDateTime;

use clock::Stamp;
use writer::{TURN_TIMEOUT, Writer};

use crate::{Schema, StoreError, rows::VersionIds};

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/sqlite");

/// Connections that read, beside the one that writes.
const READERS: u32 = 4;

/// A handle on a SQLite file; cheap to clone.
#[derive(Clone)]
pub(crate) struct Sqlite {
    writer: Writer,
    readers: SqlitePool,
    versions: Arc<VersionIds>,
    lock: Arc<Mutex<Option<File>>>,
}

impl Sqlite {
    pub(crate) async fn open(path: &Path) -> Result<Self, StoreError> {
        let lock = lock(path)?;
        Self::connect(path, Some(lock)).await
    }

    /// Without the lock, and so without making the file. SQLite has the two processes' transactions come one after the other.
    pub(crate) async fn open_beside(path: &Path) -> Result<Self, StoreError> {
        Self::connect(path, None).await
    }

    async fn connect(path: &Path, lock: Option<File>) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new().filename(path).busy_timeout(TURN_TIMEOUT);
        // FULL: a commit is on disk before it is acknowledged, so that neither SIGKILL nor a power failure undoes it.
        let writer = options
            .clone()
            .create_if_missing(lock.is_some())
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        // First the writer, which makes the file.
        let writer = Writer::open(writer).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(TURN_TIMEOUT)
            .test_before_acquire(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with(options.pragma("query_only", "ON"));
        Ok(Self { writer, readers, versions: Arc::default(), lock: Arc::new(Mutex::new(lock)) })
    }

    pub(crate) async fn schema(&self) -> Result<Schema, StoreError> {
        const HAS_HISTORY: &str =
            "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = '_sqlx_migrations')";
        const HISTORY: &str = "SELECT version, checksum, success FROM _sqlx_migrations ORDER BY version";
        if !sqlx::query_scalar(HAS_HISTORY).fetch_one(&self.readers).await? {
            return Ok(Schema::Behind);
        }
        let history: Vec<(i64, Vec<u8>, bool)> = sqlx::query_as(HISTORY).fetch_all(&self.readers).await?;
        crate::schema::compare(&MIGRATIONS, &history)
    }

    pub(crate) async fn migrate(&self) -> Result<(), StoreError> {
        Ok(MIGRATIONS.run(&mut *self.writer.turn().await?).await?)
    }

    pub(crate) async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.readers).await?;
        Ok(())
    }

    pub(crate) async fn now(&self) -> Result<OffsetDateTime, StoreError> {
        crate::rows::moment(clock::now())
    }

    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
        // After the last write. Closing it is not enough: a child that was forked and has not become another program yet has it
        // open too, and the lock with it.
        if let Some(file) = self.lock.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = file.unlock();
        }
    }
}

/// Takes the lock file beside the database; it is freed with the process, however that ends.
fn lock(path: &Path) -> Result<File, StoreError> {
    let unavailable = |error| StoreError::Unavailable(sqlx::Error::Io(error));
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(unavailable)?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = File::options().create(true).truncate(false).write(true).open(name).map_err(unavailable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked),
        Err(TryLockError::Error(error)) => Err(unavailable(error)),
    }
}

/// Ids as one bound value, a JSON array of hex strings: the text of the statement, and so its plan, is the same for any number.
fn id_list<'a>(ids: impl IntoIterator<Item = &'a PredictionId>) -> String {
    let mut list = String::from("[");
    for id in ids {
        if list.len() > 1 {
            list.push(',');
        }
        list.push('"');
        list.push_str(id.0.simple().encode_lower(&mut sqlx::types::Uuid::encode_buffer()));
        list.push('"');
    }
    list.push(']');
    list
}

/// The predictions with these ids (an [`id_list`]) as a table `wanted`; each has the time as its `now`.
fn push_wanted(query: &mut QueryBuilder<sqlx::Sqlite>, ids: &str, now: Stamp) {
    query.push("(SELECT unhex(value) AS id, ").push_bind(now).push(" AS now FROM json_each(");
    query.push_bind(ids.to_owned()).push(")) AS wanted");
}

/// Rows for as few statements as may be, filled up with none to one of few lengths: each length is a statement that is prepared
/// once, and none binds more values than SQLite allows (32,766).
fn padded<T>(rows: &[T]) -> impl Iterator<Item = Vec<Option<&T>>> {
    const LENGTHS: [usize; 3] = [1, 16, 128];
    rows.chunks(LENGTHS[2]).map(|rows| {
        let length = LENGTHS.into_iter().find(|length| rows.len() <= *length).unwrap_or(rows.len());
        rows.iter().map(Some).chain(std::iter::repeat(None)).take(length).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_have_few_lengths_and_all_rows_in_order() {
        for (count, expected) in
            [(0, vec![]), (1, vec![1]), (2, vec![16]), (17, vec![128]), (129, vec![128, 1]), (300, vec![128, 128, 128])]
        {
            let rows: Vec<usize> = (0..count).collect();
            assert_eq!(padded(&rows).map(|rows| rows.len()).collect::<Vec<_>>(), expected);
            assert_eq!(padded(&rows).flatten().flatten().copied().collect::<Vec<_>>(), rows);
        }
    }
}
