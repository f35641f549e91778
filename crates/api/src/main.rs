//! The program `augur-api`: the HTTP API on a shared Postgres and Redis.

use std::process::ExitCode;

use api::Routes;
use queue::Queue;
use settings::{AugurApi, Fatal, WebhookSettings, say};
use store::{Schema, Store};
use tokio_util::sync::CancellationToken;
use webhook::{Guard, Policy};

/// Connections that may wait to be taken; more are refused by the system.
const BACKLOG: u32 = 1024;

fn main() -> ExitCode {
    settings::run(run)
}

async fn run(settings: AugurApi, stop: CancellationToken) -> Result<(), Fatal> {
    let socket = settings.listen.bind()?;
    let webhooks = webhooks(&settings.webhooks)?;
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
    settings.listen.check(store.valid_api_keys().await?.is_some())?;
    let location = match settings.queue.redis_url {
        Some(url) => queue::Location::Redis { url: url.reveal().to_owned(), namespace: settings.queue.queue_namespace },
        None => queue::Location::Absent,
    };
    let window = settings.queue.queue_window as usize;
    let queue = Queue::open(&location, queue::Config { window, ..queue::Config::default() }).await?;
    let config = api::Config {
        public_url: settings.links.public_url,
        body_limit: settings.api.body_limit as usize,
        body_memory: settings.api.body_memory as usize,
        queue_limit: settings.api.queue_limit,
        stream_limit: settings.api.stream_limit as usize,
        queue_time_limit: settings.api.queue_time_limit,
        key_share: settings.api.key_share,
        require_keys: settings.listen.requires_keys(),
        read_timeout: settings.api.read_timeout,
        write_timeout: settings.api.write_timeout,
        store_patience: api::STORE_PATIENCE,
        retention: settings.api.retention,
        queue_unserved: settings.api.queue_unserved,
        grace: settings.grace.grace,
        webhooks,
    };
    let listener = socket.listen(BACKLOG)?;
    let address = listener.local_addr()?;
    say(format_args!("listening on http://{address}"));
    let routes = Routes::new(config.base(address))?;
    api::serve(store.clone(), queue, None, config, routes, listener, stop).await;
    store.close().await;
    Ok(())
}

fn webhooks(settings: &WebhookSettings) -> Result<Option<api::Webhooks>, Fatal> {
    let guard = Guard::new(Policy { allowed: settings.allowed()? });
    let sealer = settings.key()?;
    if sealer.is_none() {
        tracing::info!("{}", WebhookSettings::OFF);
    }
    Ok(sealer.map(|sealer| api::Webhooks { guard, sealer }))
}
