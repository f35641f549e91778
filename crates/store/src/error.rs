//! What can go wrong in the store, and which of the databases' errors mean what.

use sqlx::{
    error::DatabaseError,
    migrate::MigrateError,
    postgres::{PgDatabaseError, PgSeverity},
};

/// A call on the store failed; nothing is known to have been written unless said otherwise.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is away or refuses connections; trying again may help. A write may or may not have happened.
    #[error("the database does not answer: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// The schema is older or newer than this program.
    #[error("the database schema does not fit this program; run `augur migrate`")]
    Schema,
    /// The SQLite data directory is used by another process.
    #[error("the data directory is used by another process")]
    Locked,
    /// The database refused a statement: a fault of this program's.
    #[error("the database refused a statement: {0}")]
    Refused(#[source] sqlx::Error),
    /// A stored value cannot be read back.
    #[error("a stored value cannot be read: {0}")]
    Corrupt(String),
}

/// SQLSTATE classes that speak of the server or the connection, not of the statement: connection exceptions, insufficient
/// resources, object in use, operator intervention (shutdown, statement timeout), system error.
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
const UNAVAILABLE_CLASSES: [&str; 5] = ["08", "53", "55", "57", "58"];

/// SQLSTATEs outside these classes that say the same: a read-only standby, a transaction that idled too long, and conflicts
/// with other transactions that persisted through every attempt.
const UNAVAILABLE_STATES: [&str; 4] = ["25006", "25P03", SERIALIZATION_FAILURE, DEADLOCK];

const SERIALIZATION_FAILURE: &str = "40001";
const DEADLOCK: &str = "40P01";

/// SQLSTATEs of tables and columns that are not there.
const SCHEMA_STATES: [&str; 2] = ["42P01", "42703"];

/// SQLite's primary result codes that speak of the file, not of the statement: perm, busy, locked, nomem, readonly,
/// interrupt, ioerr, full, cantopen, protocol. <https://www.sqlite.org/rescode.html>
const SQLITE_UNAVAILABLE: [i32; 10] = [3, 5, 6, 7, 8, 9, 10, 13, 14, 15];

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(reported) => match meaning(reported.as_ref()) {
                Meaning::Unavailable => Self::Unavailable(error),
                Meaning::Schema => Self::Schema,
                Meaning::Refused => Self::Refused(error),
            },
            sqlx::Error::Decode(_)
            | sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::ColumnIndexOutOfBounds { .. }
            | sqlx::Error::RowNotFound => Self::Corrupt(error.to_string()),
            sqlx::Error::Encode(_) | sqlx::Error::InvalidArgument(_) | sqlx::Error::TypeNotFound { .. } => {
                Self::Refused(error)
            }
            _ => Self::Unavailable(error),
        }
    }
}

impl From<MigrateError> for StoreError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
            _ => Self::Schema,
        }
    }
}

enum Meaning {
    Unavailable,
    Schema,
    Refused,
}

fn meaning(reported: &dyn DatabaseError) -> Meaning {
    let code = reported.code().unwrap_or_default();
    let Some(postgres) = reported.try_downcast_ref::<PgDatabaseError>() else {
        // SQLite's extended code: the primary one is its lowest byte.
        let primary = code.parse::<i32>().map(|code| code & 0xff);
        return if primary.is_ok_and(|code| SQLITE_UNAVAILABLE.contains(&code)) {
            Meaning::Unavailable
        } else {
            Meaning::Refused
        };
    };
    let class = code.get(..2).unwrap_or_default();
    let ends_connection = matches!(postgres.severity(), PgSeverity::Fatal | PgSeverity::Panic);
    if ends_connection || UNAVAILABLE_CLASSES.contains(&class) || UNAVAILABLE_STATES.contains(&&*code) {
        Meaning::Unavailable
    } else if SCHEMA_STATES.contains(&&*code) {
        Meaning::Schema
    } else {
        Meaning::Refused
    }
}

/// Whether the statement was undone only because it met another transaction: the same again may well succeed.
pub(crate) fn is_conflict(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    code.is_some_and(|code| code == SERIALIZATION_FAILURE || code == DEADLOCK)
}
