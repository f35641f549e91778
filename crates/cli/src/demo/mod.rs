//! `augur demo`: starts everything, sends real predictions over HTTP and shows the answers.

mod digits;
mod receiver;
mod steps;
mod webhooks;

use std::{net::Ipv4Addr, path::Path, sync::Arc, time::Duration};

use settings::{Demo, Fatal, IDEMPOTENCY_KEYS_FOR, ListenSettings, host_name, say};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use webhook::Policy;

use crate::{
    client::Client,
    parts::{embedded, model_config},
    screen::milliseconds,
    server::{Plan, Server, WebhookPlan},
    webhook_key::KeyPlace,
};

/// The models in the repository that this program was built from, for `cargo run` from anywhere in it.
const BUNDLED_MODELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models");

/// Where `augur serve` listens by default.
const USUAL_SERVER: &str = "http://127.0.0.1:8000";

/// The network of this machine alone, where the receiver listens.
const LOOPBACK: &str = "127.0.0.0/8";

/// Shows it all; fails when any step does.
pub(crate) async fn demo(settings: Demo, stop: CancellationToken) -> Result<(), Fatal> {
    let begun = Instant::now();
    say("augur demo: a server with its database, queue and models, all in this process\n");
    let directory = tempfile::Builder::new().prefix("augur-demo-").tempdir()?;
    let listen = ListenSettings { listen: (Ipv4Addr::LOCALHOST, 0).into(), allow_remote: false };
    let server = Server::start(plan(&settings, listen, directory.path())?, &stop).await?;
    let address = format!("http://{}", server.address);
    let client = Client::new(&address, None)?;

    let shown = tokio::select! {
        shown = show(&client, &address, begun) => shown,
        () = stop.cancelled() => Err(Fatal::new("interrupted")),
    };
    if let Err(error) = shown {
        server.stop().await?;
        return Err(error);
    }
    if settings.keep {
        steps::repeat(&client)?;
        say(format_args!("\nlistening on {address}\nserving on, until Ctrl-C"));
        server.run_until(stop).await
    } else {
        say("\nTo repeat them, start a server that stays (`augur serve`, or `cargo run --release -- serve`), then:");
        steps::repeat(&Client::new(USUAL_SERVER, None)?)?;
        server.stop().await
    }
}

async fn show(client: &Client, address: &str, begun: Instant) -> Result<(), Fatal> {
    say(format_args!("✓ {address} serves after {}\n", milliseconds(begun.elapsed())));
    steps::submit_and_poll(client, begun).await?;
    steps::submit_and_wait(client).await?;
    steps::burst(client).await?;
    steps::bad_input(client).await?;
    webhooks::receive(client).await
}

fn plan(settings: &Demo, listen: ListenSettings, directory: &Path) -> Result<Plan, Fatal> {
    let mut models = settings.models.clone();
    if models.dir.models_dir == Path::new("models") && !models.dir.models_dir.exists() {
        models.dir.models_dir = BUNDLED_MODELS.into();
    }
    let grace = Duration::from_secs(20);
    Ok(Plan {
        listen,
        store: embedded(directory),
        migrate: true,
        queue: queue::Location::InProcess,
        queue_config: queue::Config::default(),
        models: model_config(models)?,
        worker: worker::Config {
            lease: Duration::from_secs(10),
            slots: 64,
            grace,
            max_crashes: 3,
            poll_store: false,
            keys_for: IDEMPOTENCY_KEYS_FOR,
            host: host_name(),
            look: Arc::default(),
        },
        api: api::Config {
            public_url: None,
            body_limit: 1 << 20,
            body_memory: 16 << 20,
            queue_limit: 10_000,
            stream_limit: 100,
            queue_time_limit: None,
            key_share: 1.0,
            require_keys: false,
            read_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(60),
            store_patience: api::STORE_PATIENCE,
            retention: Duration::from_secs(3600),
            queue_unserved: false,
            grace,
            webhooks: None,
        },
        webhooks: WebhookPlan {
            policy: Policy { allowed: vec![LOOPBACK.parse()?] },
            key: KeyPlace::within(directory),
            in_flight: 256,
        },
    })
}
