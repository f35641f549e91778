//! Flags, environment variables and the configuration file of every program, in one place; beside them what every
//! program does the same way: logging, stopping on a signal or when a part of it panics, saying why it ends.
//!
//! A flag goes before its environment variable, that before the file, that before the default. Nobody else reads the
//! environment.

mod commands;
mod fatal;
mod file;
mod groups;
mod host;
mod keys;
mod model_version;
mod models;
mod parse;
mod parts;
mod programs;
mod run;
mod server_url;
mod webhooks;

pub use commands::{AugurCommand, Demo, Doctor, Migrate, Predict, Serve};
pub use fatal::Fatal;
pub use file::FileError;
pub use groups::{
    ApiSettings, DataSettings, FileSettings, GraceSettings, IDEMPOTENCY_KEYS_FOR, IsaSettings, LinkSettings,
    ListenSettings, LogFormat, LogSettings, MachineSettings, ModelSettings, ModelsDirSettings, QueueSettings,
    SchemaSettings, StoreSettings, Work, WorkSettings, WorkerSettings,
};
pub use host::host_name;
pub use keys::{ApiKey, CreateKey, KeysCommand, ListKeys, NamedKey, RotateKey};
pub use model_version::{ModelVersion, Which};
pub use models::{
    AddModel, BenchModel, DefaultModel, DeriveSettings, HubSettings, InspectModel, ListModels, ModelsCommand,
    PrintSettings, PruneModel, PullModel, QuantizeModel, ReplaceSettings, Repository, WeightForm,
};
pub use parse::{ParseError, parse, program_commands};
pub use parts::run_beside;
pub use programs::{Augur, AugurApi, AugurWorker, Program};
pub use run::{run, say, told_on_hangup};
pub use server_url::ServerUrl;
pub use webhooks::{DeliverySettings, WebhookKey, WebhookSettings};
