//! The program `augur-worker`: runs predictions that wait in a shared Postgres, and sends their webhooks.

use std::process::ExitCode;

use inference::{Machine, Models};
use queue::Queue;
use settings::{AugurWorker, Fatal, IDEMPOTENCY_KEYS_FOR, WebhookSettings, Work, host_name, say, told_on_hangup};
use store::{Schema, Store};
use tokio_util::sync::CancellationToken;
use webhook::{Guard, Policy};
use worker::DeliveryConfig;

fn main() -> ExitCode {
    settings::run(run)
}

async fn run(settings: AugurWorker, stop: CancellationToken) -> Result<(), Fatal> {
    let look = told_on_hangup()?;
    let delivery = delivery_config(&settings)?;
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
    let queue = Queue::open(&location, queue::Config { window, lease, ..queue::Config::default() }).await?;

    // The sender goes on until the worker has drained, so that it hears of what finished late; what it has not sent then is
    // due to other senders at once. A part that ends by itself ends the other.
    let (stop_worker, stop_sender) = (stop.child_token(), CancellationToken::new());
    let working = async {
        let _stop_sender = stop_sender.clone().drop_guard();
        if settings.work.only == Some(Work::Deliveries) {
            say("ready");
            stop_worker.cancelled().await;
            return Ok(());
        }
        let machine = &settings.models.machine;
        let models = inference::Config {
            prepared: Some(inference::prepared(&settings.models.dir.models_dir)),
            models_dir: Some(settings.models.dir.models_dir),
            model_dirs: settings.models.model,
            only: Vec::new(),
            enable_echo: settings.models.enable_echo,
            digests: settings.digests,
            machine: Machine::chosen(machine.instructions.isa.as_deref(), &machine.device)?,
            memory: settings.models.models_memory,
            ..inference::Config::default()
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
            look,
        };
        let (store, queue) = (store.clone(), queue.clone());
        worker::run(store, queue, models, config, |_| say("ready"), stop_worker.clone()).await?;
        Ok::<_, Fatal>(())
    };
    let sending = async {
        let Some(config) = delivery else { return Ok(()) };
        let _stop_worker = stop_worker.clone().drop_guard();
        worker::deliver(store.clone(), queue.clone(), config, stop_sender.clone()).await?;
        Ok::<_, Fatal>(())
    };
    let (worked, sent) = tokio::join!(working, sending);
    worked.and(sent)?;
    store.close().await;
    Ok(())
}

/// How webhooks are sent; none when that is others' work, or nobody's.
fn delivery_config(settings: &AugurWorker) -> Result<Option<DeliveryConfig>, Fatal> {
    let allowed = settings.webhooks.allowed()?;
    let sealer = settings.webhooks.key()?;
    match (settings.work.only, sealer) {
        (Some(Work::Predictions), _) => Ok(None),
        (_, Some(sealer)) => Ok(Some(DeliveryConfig {
            guard: Guard::new(Policy { allowed }),
            sealer,
            in_flight: settings.delivery.deliveries as usize,
            grace: settings.grace.grace,
            public_url: settings.links.public_url.clone(),
        })),
        (Some(Work::Deliveries), None) => Err(Fatal::new(format!(
            "there is nothing to do: {}, and --only deliveries wants nothing else",
            WebhookSettings::OFF
        ))),
        (None, None) => {
            tracing::info!("{}", WebhookSettings::OFF);
            Ok(None)
        }
    }
}
