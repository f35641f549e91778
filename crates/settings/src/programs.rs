//! The programs, and which settings each takes.

use std::path::PathBuf;

use clap::{CommandFactory, FromArgMatches, Parser};

use crate::{
    ApiSettings, AugurCommand, DeliverySettings, FileSettings, GraceSettings, LinkSettings, ListenSettings,
    LogSettings, ModelSettings, QueueSettings, SchemaSettings, StoreSettings, WebhookSettings, WorkSettings,
    WorkerSettings,
};

const ABOUT_SETTINGS: &str = "Every setting is a flag, an environment variable and a key of the --config file, in this \
     order of precedence. Durations are a whole number and a unit: 500ms, 30s, 5m, 2h, 7d.";

/// What every program has.
pub trait Program: CommandFactory + FromArgMatches {
    /// How it logs; not at all when `None`.
    fn log(&self) -> Option<&LogSettings>;
}

/// Takes predictions over HTTP, keeps them in Postgres and tells workers through Redis.
#[derive(Clone, Debug, Parser)]
#[command(name = "augur-api", version, after_help = ABOUT_SETTINGS)]
pub struct AugurApi {
    /// Where HTTP is served.
    #[command(flatten)]
    pub listen: ListenSettings,
    /// Where callers find it.
    #[command(flatten)]
    pub links: LinkSettings,
    /// How requests are answered.
    #[command(flatten)]
    pub api: ApiSettings,
    /// Whether webhooks are sent.
    #[command(flatten)]
    pub webhooks: WebhookSettings,
    /// Where predictions are kept.
    #[command(flatten)]
    pub store: StoreSettings,
    /// Whether the schema may be changed.
    #[command(flatten)]
    pub schema: SchemaSettings,
    /// Where tickets wait.
    #[command(flatten)]
    pub queue: QueueSettings,
    /// How it stops.
    #[command(flatten)]
    pub grace: GraceSettings,
    /// What is logged.
    #[command(flatten)]
    pub log: LogSettings,
    /// Where its configuration file is.
    #[command(flatten)]
    pub file: FileSettings,
}

impl Program for AugurApi {
    fn log(&self) -> Option<&LogSettings> {
        Some(&self.log)
    }
}

/// Runs the predictions that wait in Postgres, and sends their webhooks. Start as many as there is work for, on as many machines.
#[derive(Clone, Debug, Parser)]
#[command(name = "augur-worker", version, after_help = ABOUT_SETTINGS)]
pub struct AugurWorker {
    /// What it works at.
    #[command(flatten)]
    pub work: WorkSettings,
    /// Which models are served.
    #[command(flatten)]
    pub models: ModelSettings,
    /// The file in which digests of weights are remembered, with what the system says of their files: of those that have not been
    /// touched since, a start waits for no digest, which is taken while they are served. What was packed of them is kept beside it, in
    /// a directory that is called `FILE.packed`. Without it nothing is remembered but what `augur models` found out when it brought a model.
    #[arg(long, env = "AUGUR_DIGESTS", help_heading = "Models", value_name = "FILE")]
    pub digests: Option<PathBuf>,
    /// How it works.
    #[command(flatten)]
    pub worker: WorkerSettings,
    /// Whether webhooks are sent.
    #[command(flatten)]
    pub webhooks: WebhookSettings,
    /// How webhooks are sent.
    #[command(flatten)]
    pub delivery: DeliverySettings,
    /// Where callers find the API.
    #[command(flatten)]
    pub links: LinkSettings,
    /// Where predictions are kept.
    #[command(flatten)]
    pub store: StoreSettings,
    /// Whether the schema may be changed.
    #[command(flatten)]
    pub schema: SchemaSettings,
    /// Where tickets wait.
    #[command(flatten)]
    pub queue: QueueSettings,
    /// How it stops.
    #[command(flatten)]
    pub grace: GraceSettings,
    /// What is logged.
    #[command(flatten)]
    pub log: LogSettings,
    /// Where its configuration file is.
    #[command(flatten)]
    pub file: FileSettings,
}

impl Program for AugurWorker {
    fn log(&self) -> Option<&LogSettings> {
        Some(&self.log)
    }
}

/// Asynchronous predictions: send an input, poll for the answer, lose nothing in between.
#[derive(Clone, Debug, Parser)]
#[command(name = "augur", version, after_help = ABOUT_SETTINGS, arg_required_else_help = true)]
#[command(subcommand_required = true)]
pub struct Augur {
    /// What to do.
    #[command(subcommand)]
    pub command: AugurCommand,
}

impl Program for Augur {
    fn log(&self) -> Option<&LogSettings> {
        match &self.command {
            AugurCommand::Serve(serve) => Some(&serve.log),
            AugurCommand::Demo(demo) => Some(&demo.log),
            AugurCommand::Migrate(migrate) => Some(&migrate.log),
            AugurCommand::Doctor(_) | AugurCommand::Keys(_) | AugurCommand::Models(_) | AugurCommand::Predict(_) => {
                None
            }
        }
    }
}
