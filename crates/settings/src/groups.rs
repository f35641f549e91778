//! The settings, in groups that programs put together. Their documentation is their `--help`, and `config.example.toml`.

use std::{
    io,
    net::{AddrParseError, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{ArgAction, Args, ValueEnum, value_parser};
use prediction::{InvalidDuration, parse_duration};
use tokio::net::TcpSocket;

use crate::{Fatal, ServerUrl, keys::share};

/// How long idempotency keys are kept: the HTTP contract promises it, so it is no setting.
pub const IDEMPOTENCY_KEYS_FOR: Duration = Duration::from_secs(24 * 3600);

/// Where the configuration file is.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "General")]
pub struct FileSettings {
    /// A TOML file with settings, named as their flags are; flags and environment variables go before it.
    #[arg(long, env = "AUGUR_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Where predictions are kept.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Store")]
pub struct StoreSettings {
    /// The Postgres database that keeps predictions. Without it, `augur` keeps them in a SQLite file of its own.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<ServerUrl>,
    /// The most connections to Postgres at once.
    #[arg(long, env = "AUGUR_DATABASE_CONNECTIONS", default_value_t = 16, value_parser = value_parser!(u32).range(1..))]
    #[arg(value_name = "N")]
    pub database_connections: u32,
}

/// Where the embedded store is.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Store")]
pub struct DataSettings {
    /// The directory of the SQLite file, used without Postgres; made when absent. One process at a time uses it.
    #[arg(long, env = "AUGUR_DATA_DIR", default_value = "augur-data", value_name = "DIR")]
    pub data_dir: PathBuf,
}

/// Whether the schema may be changed.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Store")]
pub struct SchemaSettings {
    /// Brings the schema of Postgres up to date at the start, as `augur migrate` does. The embedded SQLite file always is.
    #[arg(long, env = "AUGUR_MIGRATE")]
    pub migrate: bool,
}

/// Where tickets wait.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Queue")]
pub struct QueueSettings {
    /// The Redis server that tells workers of new predictions. Without it workers ask the database.
    #[arg(long, env = "REDIS_URL", hide_env_values = true, value_name = "URL")]
    pub redis_url: Option<ServerUrl>,
    /// Begins every key in Redis, so that installations can share a server.
    #[arg(long, env = "AUGUR_QUEUE_NAMESPACE", default_value = "augur", value_name = "NAME")]
    pub queue_namespace: String,
    /// The most entries in the queue, per model version and priority, each of one ticket or, for workers with many slots, of up to 16.
    /// Further predictions wait in the database alone.
    #[arg(long, env = "AUGUR_QUEUE_WINDOW", default_value_t = 10_000, value_parser = value_parser!(u32).range(1..))]
    #[arg(value_name = "N")]
    pub queue_window: u32,
}

/// Where HTTP is served.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "HTTP")]
pub struct ListenSettings {
    /// The address to serve at; port 0 takes a free one. One that other machines can reach needs API keys (`augur keys create`).
    #[arg(long, env = "AUGUR_LISTEN", default_value = "127.0.0.1:8000", value_parser = address, value_name = "IP:PORT")]
    pub listen: SocketAddr,
    /// Allows serving beyond this machine without API keys: whoever reaches the address can use it, until the first key is made.
    #[arg(long, env = "AUGUR_ALLOW_REMOTE")]
    pub allow_remote: bool,
}

impl ListenSettings {
    /// Whether requests must need keys: others can reach the address, and it is not said that they may.
    #[must_use]
    pub fn requires_keys(&self) -> bool {
        !self.listen.ip().is_loopback() && !self.allow_remote
    }

    /// Refuses to serve where others could come without a key. `has_keys`: whether any was ever made.
    ///
    /// # Errors
    /// When it is so.
    pub fn check(&self, has_keys: bool) -> Result<(), Fatal> {
        if has_keys || !self.requires_keys() {
            return Ok(());
        }
        Err(Fatal::new(format!(
            "{} can be reached from other machines and requests need no key, so anyone there could use it; make an API key \
             (`augur keys create NAME`), say --allow-remote if that is wanted, or listen at 127.0.0.1",
            self.listen
        )))
    }

    /// Takes the address, without listening yet: nobody can connect.
    ///
    /// # Errors
    /// When it cannot be had.
    pub fn bind(&self) -> Result<TcpSocket, Fatal> {
        let address = self.listen;
        let bind = || -> io::Result<TcpSocket> {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            // A restart must not wait for the connections of its predecessor to time out.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok(socket)
        };
        bind().map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => {
                Fatal::new(format!("{address} is used by another program; choose another address with --listen"))
            }
            _ => Fatal::new(format!("cannot listen at {address}: {error}")),
        })
    }
}

/// Where callers find the API.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "HTTP")]
pub struct LinkSettings {
    /// The address that callers use: links in answers and webhooks begin with it. Without it, they begin with the address
    /// listened at, and augur-worker, which knows none, sends webhooks without links.
    #[arg(long, env = "AUGUR_PUBLIC_URL", value_parser = public_url, value_name = "URL")]
    pub public_url: Option<String>,
}

/// How requests are answered.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "HTTP")]
pub struct ApiSettings {
    /// The most bytes of a request's body.
    #[arg(long, env = "AUGUR_BODY_LIMIT", default_value_t = 2_097_152, value_parser = value_parser!(u32).range(1..))]
    #[arg(value_name = "BYTES")]
    pub body_limit: u32,
    /// The most bytes of requests' bodies held at once, each counted as 4096 at least; requests beyond them are answered 503.
    /// They take up to four times as much memory. At least one body of the largest size always fits.
    #[arg(long, env = "AUGUR_BODY_MEMORY", default_value_t = 67_108_864, value_parser = value_parser!(u32).range(1..))]
    #[arg(value_name = "BYTES")]
    pub body_memory: u32,
    /// The most predictions that wait at once; new ones beyond them are answered 503, with a time to come back.
    #[arg(long, env = "AUGUR_QUEUE_LIMIT", default_value_t = 1_000_000, value_parser = value_parser!(u32).range(1..))]
    #[arg(value_name = "N")]
    pub queue_limit: u32,
    /// The most work that waits for one model version, as the time that it takes at the rate seen while predictions waited in the
    /// last minute, or before that while nothing ends; new predictions for that version beyond it are answered 503 likewise. As long
    /// as no rate was seen, only their number is bounded.
    #[arg(long, env = "AUGUR_QUEUE_TIME_LIMIT", value_parser = positive_duration, value_name = "DURATION")]
    pub queue_time_limit: Option<Duration>,
    /// The most of the queue that one API key may fill, of its predictions and of its time, unless the key has a share of its own:
    /// above 0, up to 1. New predictions with that key beyond it are answered 429, with a time to come back.
    #[arg(long, env = "AUGUR_KEY_SHARE", default_value_t = 0.5, value_parser = share, value_name = "FRACTION")]
    pub key_share: f64,
    /// The most streams of events at once that follow predictions; further ones are answered 503. Each is a connection. An API key
    /// has its share of them, as of the queue, and one prediction a tenth; further ones are answered 429.
    #[arg(long, env = "AUGUR_STREAM_LIMIT", default_value_t = 500, value_parser = value_parser!(u32).range(1..))]
    #[arg(value_name = "N")]
    pub stream_limit: u32,
    /// How long a request's headers, and then its body, may take to arrive.
    #[arg(long, env = "AUGUR_READ_TIMEOUT", default_value = "10s", value_parser = positive_duration)]
    #[arg(value_name = "DURATION")]
    pub read_timeout: Duration,
    /// How long a client may read nothing of its answer, or of a stream, before its connection or stream is cut.
    #[arg(long, env = "AUGUR_WRITE_TIMEOUT", default_value = "60s", value_parser = positive_duration)]
    #[arg(value_name = "DURATION")]
    pub write_timeout: Duration,
    /// How long the record of a finished prediction is kept.
    #[arg(long, env = "AUGUR_RETENTION", default_value = "7d", value_parser = positive_duration, value_name = "DURATION")]
    pub retention: Duration,
    /// Accepts predictions for a known version that no live worker serves, to wait until one does.
    #[arg(long, env = "AUGUR_QUEUE_UNSERVED")]
    pub queue_unserved: bool,
}

/// Where models are.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Models")]
pub struct ModelsDirSettings {
    /// The directory of models: each in OWNER/NAME/, with a model.toml or as Hugging Face has it; further versions beside it, in
    /// OWNER/NAME@LABEL/.
    #[arg(long, env = "AUGUR_MODELS_DIR", default_value = "models", value_name = "DIR")]
    pub models_dir: PathBuf,
}

/// Which instructions models compute with.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Models")]
pub struct IsaSettings {
    /// The instructions that models compute with, if not the fastest the machine has: portable, neon, avx2, avx512 or amx.
    #[arg(long, env = "AUGUR_ISA", value_parser = ["portable", "neon", "avx2", "avx512", "amx"], value_name = "ISA")]
    pub isa: Option<String>,
}

/// What models compute with.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Models")]
pub struct MachineSettings {
    /// On the processor.
    #[command(flatten)]
    pub instructions: IsaSettings,
    /// What text encoders compute on: cpu, or an NVIDIA card, as cuda or cuda:N, with a program that was built with --features
    /// cuda. Other models, and encoders in int8, compute on the processor all the same.
    #[arg(long, env = "AUGUR_DEVICE", default_value = "cpu", value_name = "DEVICE")]
    pub device: String,
}

/// Which models are served. The directories are followed: what changes in them is loaded and unloaded while others run.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Models")]
pub struct ModelSettings {
    /// Where they are.
    #[command(flatten)]
    pub dir: ModelsDirSettings,
    /// A further model directory, with a model.toml or as Hugging Face has it; may be repeated, or separated by commas.
    #[arg(long, env = "AUGUR_MODEL", action = ArgAction::Append, value_delimiter = ',', value_name = "DIR")]
    pub model: Vec<PathBuf>,
    /// The most bytes of memory that all models may take together, with their weights and generators' keys and values: a model
    /// that would exceed them is not loaded. While one is replaced, both versions count.
    #[arg(long, env = "AUGUR_MODELS_MEMORY", value_parser = value_parser!(u64).range(1..), value_name = "BYTES")]
    pub models_memory: Option<u64>,
    /// What they compute with.
    #[command(flatten)]
    pub machine: MachineSettings,
    /// Serves augur/echo as well, a toy for tests and benchmarks.
    #[arg(long, env = "AUGUR_ENABLE_ECHO")]
    pub enable_echo: bool,
}

/// How a worker works.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Worker")]
pub struct WorkerSettings {
    /// How long a worker holds a prediction without renewing it; so long a dead worker's predictions wait for another.
    #[arg(long, env = "AUGUR_LEASE", default_value = "10s", value_parser = positive_duration, value_name = "DURATION")]
    pub lease: Duration,
    /// The most predictions of one model's version that a worker runs or holds next to run: more than 64 only while it runs them
    /// within a moment. Each version has so many, whatever the others do.
    #[arg(long, env = "AUGUR_SLOTS", default_value_t = 256, value_parser = value_parser!(u32).range(1..))]
    #[arg(value_name = "N")]
    pub slots: u32,
    /// How often a worker may die while it runs a prediction alone before that prediction fails as poison.
    #[arg(long, env = "AUGUR_MAX_CRASHES", default_value_t = 3, value_parser = value_parser!(u32).range(1..))]
    #[arg(value_name = "N")]
    pub max_crashes: u32,
}

/// What a worker works at.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Worker")]
pub struct WorkSettings {
    /// What a worker works at, if not at both: predictions, or the deliveries of webhooks.
    #[arg(long, env = "AUGUR_ONLY", value_name = "WORK")]
    pub only: Option<Work>,
}

/// One thing that a worker works at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Work {
    /// Runs predictions.
    Predictions,
    /// Sends webhooks.
    Deliveries,
}

/// How a program stops.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "General")]
pub struct GraceSettings {
    /// How long a stopping program lets requests, then runs, then webhooks finish; what still runs it hands back.
    #[arg(long, env = "AUGUR_GRACE", default_value = "20s", value_parser = parse_duration, value_name = "DURATION")]
    pub grace: Duration,
}

/// What is logged; to standard error.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "General")]
pub struct LogSettings {
    /// What to log: error, warn, info, debug or trace; also per module, as in "info,worker=debug".
    #[arg(long, env = "AUGUR_LOG", default_value = "info", value_parser = log_filter, value_name = "FILTER")]
    pub log: String,
    /// How to log: lines for people or JSON for machines.
    #[arg(long, env = "AUGUR_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    pub log_format: LogFormat,
}

impl LogSettings {
    /// Starts logging.
    pub(crate) fn start(&self) -> Result<(), Fatal> {
        use std::io::{IsTerminal, stderr};

        let filter = tracing_subscriber::EnvFilter::try_new(&self.log)?;
        // What cannot be logged is not told to the same place, which would panic.
        let logger = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).log_internal_errors(false);
        let started = match self.log_format {
            LogFormat::Text => logger.with_ansi(stderr().is_terminal()).try_init(),
            LogFormat::Json => logger.json().try_init(),
        };
        started.map_err(|error| Fatal::new(format!("logging does not start: {error}")))
    }
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let invalid =
        |_: AddrParseError| "expected an IP address and a port, as in 127.0.0.1:8000 or [::1]:8000".to_owned();
    text.parse().map_err(invalid)
}

fn public_url(text: &str) -> Result<String, &'static str> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match host {
        Some(host) if !host.is_empty() && !text.contains(['?', '#']) => Ok(text.trim_end_matches('/').to_owned()),
        _ => Err("expected an address that begins with http:// or https://, as in https://augur.example.org"),
    }
}

pub(crate) fn positive_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text).map_err(|error: InvalidDuration| error.to_string())? {
        Duration::ZERO => Err("it must be longer than nothing".to_owned()),
        duration => Ok(duration),
    }
}

fn log_filter(text: &str) -> Result<String, String> {
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
