//! `augur serve`: everything in one process, on a file of its own or on Postgres and Redis.

use std::sync::Arc;

use settings::{
    ApiSettings, Fatal, GraceSettings, IDEMPOTENCY_KEYS_FOR, Serve, WorkerSettings, host_name, say, told_on_hangup,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use webhook::Policy;

use crate::{
    parts::{DIGESTS_FILE, model_config, queue_location, store_location},
    server::{Plan, Server, WebhookPlan},
    webhook_key::KeyPlace,
};

/// Serves until `stop`.
pub(crate) async fn serve(settings: Serve, stop: CancellationToken) -> Result<(), Fatal> {
    let server = match Server::start(plan(settings)?, &stop).await {
        // Told to stop while it started: that is no failure.
        Err(_) if stop.is_cancelled() => return Ok(()),
        started => started?,
    };
    say(format_args!("listening on http://{}", server.address));
    server.run_until(stop).await
}

fn plan(settings: Serve) -> Result<Plan, Fatal> {
    let queue = queue_location(&settings.queue);
    // Other programs on the same Postgres cannot reach a queue in this process.
    let poll_store = settings.store.database_url.is_some() && matches!(queue, queue::Location::InProcess);
    // On Postgres there need be no data directory.
    let digests = settings.store.database_url.is_none().then(|| settings.data.data_dir.join(DIGESTS_FILE));
    let prepared = Some(inference::prepared(&settings.models.dir.models_dir));
    let webhooks = WebhookPlan {
        policy: Policy { allowed: settings.webhooks.allowed()? },
        key: KeyPlace::of(&settings.webhooks, &settings.store, &settings.data)?,
        in_flight: settings.delivery.deliveries as usize,
    };
    Ok(Plan {
        listen: settings.listen,
        store: store_location(&settings.store, &settings.data),
        migrate: settings.schema.migrate,
        queue,
        queue_config: queue::Config {
            window: settings.queue.queue_window as usize,
            lease: settings.worker.lease,
            ..queue::Config::default()
        },
        models: inference::Config { digests, prepared, ..model_config(settings.models)? },
        worker: worker_config(settings.worker, settings.grace, poll_store, told_on_hangup()?),
        api: api_config(settings.api, settings.listen.requires_keys(), settings.links.public_url, settings.grace),
        webhooks,
    })
}

fn worker_config(worker: WorkerSettings, grace: GraceSettings, poll_store: bool, look: Arc<Notify>) -> worker::Config {
    worker::Config {
        lease: worker.lease,
        slots: worker.slots as usize,
        grace: grace.grace,
        max_crashes: worker.max_crashes,
        poll_store,
        keys_for: IDEMPOTENCY_KEYS_FOR,
        host: host_name(),
        look,
    }
}

fn api_config(api: ApiSettings, require_keys: bool, public_url: Option<String>, grace: GraceSettings) -> api::Config {
    api::Config {
        public_url,
        body_limit: api.body_limit as usize,
        body_memory: api.body_memory as usize,
        queue_limit: api.queue_limit,
        stream_limit: api.stream_limit as usize,
        queue_time_limit: api.queue_time_limit,
        key_share: api.key_share,
        require_keys,
        read_timeout: api.read_timeout,
        write_timeout: api.write_timeout,
        store_patience: api::STORE_PATIENCE,
        retention: api.retention,
        queue_unserved: api.queue_unserved,
        grace: grace.grace,
        webhooks: None,
    }
}
