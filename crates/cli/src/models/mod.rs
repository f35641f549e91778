//! `augur models`: what is in the directory of models, and how more comes there.

mod add;
mod bench;
mod default;
mod derive;
mod download;
mod gguf;
mod hub;
mod inspect;
mod install;
mod list;
mod progress;
mod prune;
mod pull;
mod quantize;
mod report;
mod slot;

use std::path::Path;

use inference::{Config, Description, LoadError, Machine, Models};
use settings::{Fatal, IsaSettings, ModelsCommand};
use tokio::task::spawn_blocking;

/// Does what is asked.
pub(crate) async fn models(command: ModelsCommand) -> Result<(), Fatal> {
    match command {
        ModelsCommand::Ls(settings) => list::list(settings).await,
        ModelsCommand::Inspect(settings) => inspect::inspect(settings).await,
        ModelsCommand::Add(settings) => add::add(settings).await,
        ModelsCommand::Pull(settings) => pull::pull(settings).await,
        ModelsCommand::Quantize(settings) => quantize::quantize(settings).await,
        ModelsCommand::Default(settings) => default::default(settings).await,
        ModelsCommand::Prune(settings) => prune::prune(settings).await,
        ModelsCommand::Bench(settings) => bench::bench(settings).await,
    }
}

/// Reads and checks the files of a model directory.
async fn described(dir: &Path) -> Result<Description, Fatal> {
    let dir = dir.to_owned();
    Ok(spawn_blocking(move || inference::inspect(&dir)).await??)
}

/// This machine's processor with these instructions.
fn processor(IsaSettings { isa }: &IsaSettings) -> Result<Machine, Fatal> {
    Ok(Machine::chosen(isa.as_deref(), "cpu")?)
}

/// Loads the model of a directory and runs its example.
async fn loaded(dir: &Path, machine: Machine) -> Result<Models, Fatal> {
    let config = Config { model_dirs: vec![dir.to_owned()], machine, ..Config::default() };
    Ok(spawn_blocking(move || Models::load(&config)).await??)
}

/// What a fault says, without the path of the directory that it is listed for.
fn reason_in(dir: &Path, fault: &LoadError) -> String {
    match fault.path.strip_prefix(dir) {
        Ok(file) if !file.as_os_str().is_empty() => format!("{}: {}", file.display(), fault.reason),
        _ => fault.reason.clone(),
    }
}
