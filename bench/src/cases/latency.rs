//! The case `latency`: how soon a caller knows the result where there is little to do, and how soon the programs are ready.

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{Measured, say_run};
use crate::{
    alone::Alone,
    cpu::{Processes, Used},
    drive::apart,
    low::{Load, Way},
    minilm,
    numbers::{Numbers, percentile},
    program::{Program, program},
    receiver::Receiver,
    stage::{Stage, free_address},
    subject::AUGUR,
};

/// Submissions per second, and for how long: enough that each way has 200, of which the 99th percentile is the third longest.
const LOADS: [(u32, Duration); 2] = [(20, Duration::from_secs(40)), (100, Duration::from_secs(10))];
/// The same before it counts.
const WARM_UP: (u32, Duration) = (100, Duration::from_secs(2));
/// How often each program is started.
const STARTS: usize = 5;

pub(super) async fn measure(runs: usize) -> Measured {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above");
    let mut models: Vec<(&str, OsString, PathBuf)> =
        vec![("the models in models/", "--models-dir".into(), root.join("models"))];
    let mut skipped = Vec::new();
    match minilm::fetched().await {
        Ok(path) => models.push(("all-MiniLM-L6-v2", "--model".into(), path)),
        Err(reason) => skipped.push(format!("start of a worker with all-MiniLM-L6-v2: {reason}")),
    }
    let mut all = Vec::new();
    for run in 1..=runs {
        let stage = Stage::start().await;
        let sender = stage.sender().await;
        let embedded = Alone::start(None).await;
        let mut numbers = Numbers::new();
        let mut processes = stage.subject(&AUGUR).await.processes;
        processes.insert("the sender".into(), vec![sender.id()]);
        numbers.extend(load("Postgres and Redis", stage.address, &processes).await);
        let processes = [("augur serve".into(), vec![embedded.program.id()])].into();
        numbers.extend(load("embedded", embedded.address, &processes).await);
        sender.end().await;
        numbers.extend(starts(&stage, &models).await);
        say_run(run, &numbers);
        all.push(numbers);
    }
    Measured { runs: all, skipped }
}

async fn load(name: &str, address: SocketAddr, processes: &Processes) -> Numbers {
    let mut numbers = Numbers::new();
    for (place, (per_second, lasts)) in [WARM_UP].into_iter().chain(LOADS).enumerate() {
        let load = Load { dialect: &AUGUR, address, ways: &Way::ALL, per_second, lasts };
        let prefix = format!("{name}, {per_second}/s");
        let (before, begun) = (Used::until_now(processes), Instant::now());
        let measured = apart({
            let prefix = prefix.clone();
            move || async move {
                let receiver = Receiver::start(Duration::ZERO).await;
                load.measure(Some(&receiver), &prefix).await
            }
        });
        let measured = measured.await;
        if place > 0 {
            numbers.extend(measured);
            let seconds = begun.elapsed().as_secs_f64();
            let predictions = usize::try_from(u64::from(per_second) * lasts.as_secs()).expect("few enough");
            numbers.extend(Used::until_now(processes).numbers(&before, &prefix, predictions, seconds));
        }
    }
    numbers
}

/// Milliseconds from a program's start until it says that it is ready. Its file and its models have been read before.
async fn starts(stage: &Stage, models: &[(&str, OsString, PathBuf)]) -> Numbers {
    let mut numbers = Numbers::new();
    let listen = || ["--listen".into(), OsString::from(free_address().to_string())];
    let api = || stage.arguments().chain(listen());
    numbers.insert("augur-api until it listens: ms".into(), start("augur-api", api, "listening on ").await);
    for (name, option, path) in models {
        let worker = || stage.arguments().chain([option.clone(), path.into()]);
        let name = format!("augur-worker with {name} until it is ready: ms");
        numbers.insert(name, start("augur-worker", worker, "ready").await);
    }
    numbers
}

async fn start<A: Iterator<Item = OsString>>(name: &str, arguments: impl Fn() -> A, ready: &str) -> f64 {
    let mut milliseconds = Vec::new();
    for _ in 0..=STARTS {
        let begun = Instant::now();
        let started = Program::start(&program(name), arguments(), &[], ready).await;
        milliseconds.push(begun.elapsed().as_secs_f64() * 1e3);
        started.end().await;
    }
    percentile(&milliseconds[1..], 0.5)
}
