//! The commands of `augur`, and which settings each takes.

use std::time::Duration;

use clap::{Args, Subcommand};
use prediction::ModelName;

use crate::{
    ApiKey, ApiSettings, DataSettings, DeliverySettings, FileSettings, GraceSettings, KeysCommand, LinkSettings,
    ListenSettings, LogSettings, ModelSettings, ModelVersion, ModelsCommand, QueueSettings, SchemaSettings,
    StoreSettings, WebhookSettings, WorkerSettings, groups::positive_duration, model_version::served_version,
};

/// What `augur` can do.
#[derive(Clone, Debug, Subcommand)]
pub enum AugurCommand {
    /// Serves HTTP, runs predictions and sends webhooks, in one process
    ///
    /// With no settings at all it keeps everything in a SQLite file in --data-dir. With a Postgres (--database-url), and a
    /// Redis (--redis-url), further programs augur-api and augur-worker can share the work.
    Serve(Box<Serve>),
    /// Shows what augur does: starts it, sends it predictions and prints the answers
    ///
    /// Everything runs in this process, at a free port of this machine, and keeps its data in a temporary directory.
    Demo(Demo),
    /// Sends one prediction to a running server, waits for it and prints its output
    ///
    /// Exit status: 0 when it succeeded; 1 when it failed, was canceled or did not finish in time; 2 when the server
    /// cannot be reached or refuses the request.
    #[command(after_help = "Examples:\n  \
        augur predict augur/iris @flower.json\n  \
        augur predict my/writer '{\"prompt\": \"The lighthouse\"}' --stream\n  \
        augur predict augur/digits '{\"image\": \"data:image/png;base64,…\"}'")]
    Predict(Predict),
    /// Lists, shows, adds and fetches models
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Makes, lists and revokes API keys
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Brings the database schema up to date
    Migrate(Migrate),
    /// Checks each thing that a server needs, and says what to do about each fault
    ///
    /// Those are disk, database, webhook key, Redis, models and port. Exit status: 0 when all is well, 1 otherwise. Give it the
    /// settings that the server gets.
    Doctor(Doctor),
}

/// The settings of `augur serve`.
#[derive(Args, Clone, Debug)]
pub struct Serve {
    /// Where HTTP is served.
    #[command(flatten)]
    pub listen: ListenSettings,
    /// Where callers find it.
    #[command(flatten)]
    pub links: LinkSettings,
    /// How requests are answered.
    #[command(flatten)]
    pub api: ApiSettings,
    /// Which models are served.
    #[command(flatten)]
    pub models: ModelSettings,
    /// How the worker works.
    #[command(flatten)]
    pub worker: WorkerSettings,
    /// Whether webhooks are sent.
    #[command(flatten)]
    pub webhooks: WebhookSettings,
    /// How webhooks are sent.
    #[command(flatten)]
    pub delivery: DeliverySettings,
    /// Where predictions are kept.
    #[command(flatten)]
    pub store: StoreSettings,
    /// Where the embedded store is.
    #[command(flatten)]
    pub data: DataSettings,
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

/// The settings of `augur demo`.
#[derive(Args, Clone, Debug)]
pub struct Demo {
    /// Goes on serving afterwards, until Ctrl-C.
    #[arg(long)]
    pub keep: bool,
    /// Which models are served.
    #[command(flatten)]
    pub models: ModelSettings,
    /// What is logged.
    #[command(flatten)]
    pub log: LogSettings,
}

/// The settings of `augur predict`.
#[derive(Args, Clone, Debug)]
pub struct Predict {
    /// The model, as owner/name, which means its default version, or owner/name:digits; a name alone means augur/NAME.
    #[arg(value_parser = served_version)]
    pub model: ModelVersion,
    /// The input as JSON, or @FILE to read it from a file, or - to read it from standard input.
    #[arg(default_value = "-", value_name = "INPUT_JSON|@FILE|-")]
    pub input: String,
    /// Prints a text as it is written, and not as JSON; every other output as without it, when it is there.
    #[arg(long)]
    pub stream: bool,
    /// The longest to wait for the result.
    #[arg(long, default_value = "60s", value_parser = positive_duration, value_name = "DURATION")]
    pub wait: Duration,
    /// The server that `augur predict` asks.
    #[arg(long, env = "AUGUR_SERVER", default_value = "http://127.0.0.1:8000", value_name = "URL")]
    #[arg(help_heading = "Client")]
    pub server: String,
    /// The API key that it shows the server, where requests need one.
    #[arg(long, env = "AUGUR_API_KEY", hide_env_values = true, value_name = "KEY", help_heading = "Client")]
    pub api_key: Option<ApiKey>,
    /// Where the configuration file is.
    #[command(flatten)]
    pub file: FileSettings,
}

/// The settings of `augur migrate`.
#[derive(Args, Clone, Debug)]
pub struct Migrate {
    /// Which database.
    #[command(flatten)]
    pub store: StoreSettings,
    /// Where the embedded store is.
    #[command(flatten)]
    pub data: DataSettings,
    /// What is logged.
    #[command(flatten)]
    pub log: LogSettings,
    /// Where its configuration file is.
    #[command(flatten)]
    pub file: FileSettings,
}

/// The settings of `augur doctor`.
#[derive(Args, Clone, Debug)]
pub struct Doctor {
    /// Where predictions are kept.
    #[command(flatten)]
    pub store: StoreSettings,
    /// Where the embedded store is.
    #[command(flatten)]
    pub data: DataSettings,
    /// Where tickets wait.
    #[command(flatten)]
    pub queue: QueueSettings,
    /// Which models are served.
    #[command(flatten)]
    pub models: ModelSettings,
    /// Whether webhooks are sent.
    #[command(flatten)]
    pub webhooks: WebhookSettings,
    /// Where HTTP is served.
    #[command(flatten)]
    pub listen: ListenSettings,
    /// Where the configuration file is.
    #[command(flatten)]
    pub file: FileSettings,
}

pub(crate) fn model_name(text: &str) -> Result<ModelName, String> {
    let name = if text.contains('/') { text.parse() } else { ModelName::local(text) };
    name.map_err(|error| error.to_string())
}
