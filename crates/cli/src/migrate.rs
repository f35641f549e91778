//! `augur migrate`: brings the database schema up to date.

use settings::{Fatal, Migrate, say};
use store::Schema;

use crate::parts::{connect, store_location};

/// Migrates, and says what was done.
pub(crate) async fn migrate(settings: Migrate) -> Result<(), Fatal> {
    let store = connect(&store_location(&settings.store, &settings.data)).await?;
    match store.schema().await? {
        Schema::Current => say("the database schema was up to date already"),
        Schema::Ahead => return Err(Fatal::new(Fatal::SCHEMA_AHEAD)),
        Schema::Behind => {
            store.migrate().await?;
            say("the database schema is up to date now");
        }
    }
    store.close().await;
    Ok(())
}
