//! From settings to the parts' own words: which store, which queue, which models.

use std::{fs::DirBuilder, os::unix::fs::DirBuilderExt, path::Path};

use inference::Machine;
use settings::{DataSettings, Fatal, ModelSettings, QueueSettings, StoreSettings};
use store::{Schema, Store, StoreError};

/// What `augur serve` remembers of weights, within the data directory.
pub(crate) const DIGESTS_FILE: &str = "digests.json";

/// The SQLite file within the data directory.
const SQLITE_FILE: &str = "augur.sqlite";

/// Postgres when it is named, else the file in the data directory.
pub(crate) fn store_location(store: &StoreSettings, data: &DataSettings) -> store::Location {
    match &store.database_url {
        Some(url) => {
            store::Location::Postgres { url: url.reveal().to_owned(), max_connections: store.database_connections }
        }
        None => embedded(&data.data_dir),
    }
}

/// The file in this data directory.
pub(crate) fn embedded(data_dir: &Path) -> store::Location {
    store::Location::Sqlite { path: data_dir.join(SQLITE_FILE) }
}

/// Redis when it is named, else channels in this process.
pub(crate) fn queue_location(queue: &QueueSettings) -> queue::Location {
    match &queue.redis_url {
        Some(url) => queue::Location::Redis { url: url.reveal().to_owned(), namespace: queue.queue_namespace.clone() },
        None => queue::Location::InProcess,
    }
}

/// Which models to load, and what they compute on; nothing is believed of them.
pub(crate) fn model_config(models: ModelSettings) -> Result<inference::Config, Fatal> {
    Ok(inference::Config {
        models_dir: Some(models.dir.models_dir),
        model_dirs: models.model,
        only: Vec::new(),
        enable_echo: models.enable_echo,
        machine: Machine::chosen(models.machine.instructions.isa.as_deref(), &models.machine.device)?,
        memory: models.models_memory,
        ..inference::Config::default()
    })
}

/// Opens the store; makes the directory of a file when it is absent, readable by its owner alone.
pub(crate) async fn connect(location: &store::Location) -> Result<Store, Fatal> {
    let directory = made_directory(location)?;
    Store::open(location).await.map_err(|error| match (error, directory) {
        (StoreError::Locked, Some(directory)) => Fatal::new(format!(
            "the data directory {} is used by another running augur; stop that one, or choose another with --data-dir",
            directory.display()
        )),
        (error, _) => error.into(),
    })
}

/// The directory of a file, made when it is absent.
fn made_directory(location: &store::Location) -> Result<Option<&Path>, Fatal> {
    let store::Location::Sqlite { path } = location else { return Ok(None) };
    let Some(directory) = path.parent() else { return Ok(None) };
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|error| {
        let directory = directory.display();
        Fatal::new(format!("the data directory {directory} cannot be made: {error}; choose another with --data-dir"))
    })?;
    Ok(Some(directory))
}

/// Opens the store with a schema that fits: a file of our own is brought up to date, a server's only when `migrate` says so.
pub(crate) async fn open_store(location: &store::Location, migrate: bool) -> Result<Store, Fatal> {
    with_schema(connect(location).await?, migrate).await
}

/// The same beside a server that may be using it, for what does not need it alone. A file that nobody uses is brought up to date.
pub(crate) async fn open_store_beside(location: &store::Location) -> Result<Store, Fatal> {
    let directory = made_directory(location)?;
    let store = match (Store::open(location).await, directory) {
        (Err(StoreError::Locked), Some(directory)) => {
            let store = Store::open_beside(location).await?;
            if store.schema().await? == Schema::Current {
                return Ok(store);
            }
            return Err(Fatal::new(format!(
                "the data directory {} is used by a running augur of another version; start this version of it first",
                directory.display()
            )));
        }
        (opened, _) => opened?,
    };
    with_schema(store, false).await
}

async fn with_schema(store: Store, migrate: bool) -> Result<Store, Fatal> {
    match store.schema().await? {
        Schema::Current => Ok(store),
        Schema::Ahead => Err(Fatal::new(Fatal::SCHEMA_AHEAD)),
        Schema::Behind if migrate || !store.is_shared() => {
            store.migrate().await?;
            Ok(store)
        }
        Schema::Behind => Err(Fatal::new(Fatal::SCHEMA_BEHIND)),
    }
}
