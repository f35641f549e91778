//! The program `augur-worker`: runs predictions that wait in a shared Postgres.

use std::process::ExitCode;

use inference::Models;
use queue::Queue;
use settings::{AugurWorker, Fatal, IDEMPOTENCY_KEYS_FOR, host_name, say};
use store::{Schema, Store};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    settings::run(run)
}

async fn run(settings: AugurWorker, stop: CancellationToken) -> Result<(), Fatal> {
    let url = settings.store.database_url.ok_or_else(|| Fatal::new(Fatal::NEEDS_POSTGRES))?;
    let store = Store::open(&store::Location::Postgres {
        url: url.reveal().to_owned(),
        max_connections: settings.store.database_connections,
    })
    .await?;
    match store.schema().await? {
        Schema::Current => {}
        Schema::Ahead => return Err(Fatal::new(Fatal::SCHEMA_AHEAD)),
        Schema::Behind if settings.schema.migrate => store.migrate().await?,
        Schema::Behind => return Err(Fatal::new(Fatal::SCHEMA_BEHIND)),
    }
    let location = match settings.queue.redis_url {
        Some(url) => queue::Location::Redis { url: url.reveal().to_owned(), namespace: settings.queue.queue_namespace },
        None => queue::Location::Absent,
    };
    let (window, lease) = (settings.queue.queue_window as usize, settings.worker.lease);
    let queue = Queue::open(&location, queue::Config { window, lease }).await?;
    let models = inference::Config {
        models_dir: Some(settings.models.models_dir),
        model_dirs: settings.models.model,
        only: Vec::new(),
        enable_echo: settings.models.enable_echo,
    };
    let models = tokio::task::spawn_blocking(move || Models::load(&models)).await??;
    let config = worker::Config {
        lease,
        slots: settings.worker.slots as usize,
        grace: settings.grace.grace,
        max_crashes: settings.worker.max_crashes,
        poll_store: false,
        keys_for: IDEMPOTENCY_KEYS_FOR,
        host: host_name(),
    };
    worker::run(store.clone(), queue, models, config, || say("ready"), stop).await?;
    store.close().await;
    Ok(())
}
