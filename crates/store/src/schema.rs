//! Comparing the migrations a database has seen with those this program brings.

use sqlx::migrate::Migrator;

use crate::{Schema, StoreError};

/// Compares `history` (version, checksum, success; oldest first) with `migrations`.
pub(crate) fn compare(migrations: &Migrator, history: &[(i64, Vec<u8>, bool)]) -> Result<Schema, StoreError> {
    for (version, checksum, _) in history {
        match migrations.iter().find(|migration| migration.version == *version) {
            None => return Ok(Schema::Ahead),
            // Neither older nor newer: made by a program that is no relative of this one.
            Some(migration) if migration.checksum.as_ref() != checksum.as_slice() => return Err(StoreError::Schema),
            Some(_) => {}
        }
    }
    let applied = history.iter().filter(|(_, _, success)| *success).count();
    Ok(if applied == migrations.iter().count() { Schema::Current } else { Schema::Behind })
}
