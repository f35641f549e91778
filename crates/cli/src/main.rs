//! The program `augur`: everything in one process, and the commands around it.

mod client;
mod demo;
mod doctor;
mod events;
mod follow;
mod keys;
mod migrate;
mod models;
mod parts;
mod predict;
mod screen;
mod serve;
mod server;
mod webhook_key;

use std::{future::Future, process::ExitCode};

use settings::{Augur, AugurCommand, Fatal};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    settings::run(|augur: Augur, stop| async move {
        match augur.command {
            AugurCommand::Serve(serve) => serve::serve(*serve, stop).await,
            AugurCommand::Demo(demo) => demo::demo(demo, stop).await,
            AugurCommand::Predict(predict) => until(&stop, predict::predict(predict)).await,
            AugurCommand::Models(command) => until(&stop, models::models(command)).await,
            AugurCommand::Keys(command) => until(&stop, keys::keys(command)).await,
            AugurCommand::Migrate(migrate) => until(&stop, migrate::migrate(migrate)).await,
            AugurCommand::Doctor(doctor) => until(&stop, doctor::doctor(doctor)).await,
        }
    })
}

/// Runs what may be given up at any point.
async fn until(stop: &CancellationToken, work: impl Future<Output = Result<(), Fatal>>) -> Result<(), Fatal> {
    tokio::select! {
        outcome = work => outcome,
        () = stop.cancelled() => Err(Fatal::new("interrupted")),
    }
}
