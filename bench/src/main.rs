//! Measures the release programs: each case starts Postgres, Redis and the programs as processes of its own, does everything
//! several times, and reports medians with the conditions they were measured under.
//!
//! ```sh
//! cargo run --release -p bench -- storm --json storm.json
//! ```

mod alone;
mod bare;
mod cases;
mod conditions;
mod cpu;
mod drive;
mod engine;
mod fill;
mod http;
mod low;
mod minilm;
mod numbers;
mod program;
mod receiver;
mod recipe;
mod resp;
mod servers;
mod stage;
mod subject;

use std::{
    env, fs,
    io::{Write as _, stdout},
    path::PathBuf,
    process::{self, ExitCode},
};

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    cases::{CASES, Case},
    numbers::{least, medians, most},
};

/// What the command line asks for.
struct Asked {
    case: &'static Case,
    runs: usize,
    most: Option<usize>,
    json: Option<PathBuf>,
}

fn asked() -> Option<Asked> {
    let mut arguments = env::args().skip(1);
    let name = arguments.next()?;
    let case = CASES.iter().find(|case| case.name == name)?;
    let mut asked = Asked { case, runs: 3, most: None, json: None };
    while let Some(argument) = arguments.next() {
        let mut positive = || arguments.next()?.parse().ok().filter(|number| *number > 0);
        match argument.as_str() {
            "--runs" => asked.runs = positive()?,
            "--most" => asked.most = Some(positive()?),
            "--json" => asked.json = Some(arguments.next()?.into()),
            _ => return None,
        }
    }
    Some(asked)
}

fn usage() -> String {
    let cases: String = CASES.iter().map(|case| format!("  {:<13}{}\n", case.name, case.about)).collect();
    format!(
        "bench CASE [--runs N] [--most N] [--json FILE]

cases:
{cases}
--runs N       repeat each measurement N times; medians are reported (3)
--most N       the most predictions of one measurement, if fewer than the case would take
--json FILE    write conditions, all runs and the medians there"
    )
}

/// One line for people.
fn say(line: &str) {
    // Whoever closed our output has read enough.
    let _ = writeln!(stdout(), "{line}");
}

/// Returns when this program is told to stop.
async fn stopped() {
    let mut terminate = signal(SignalKind::terminate()).expect("signals can be listened to");
    let mut interrupt = signal(SignalKind::interrupt()).expect("signals can be listened to");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let Some(asked) = asked() else {
        say(&usage());
        return ExitCode::from(2);
    };
    program::build().await;
    let conditions = conditions::measure().await;
    conditions.iter().for_each(|(what, value)| say(&format!("{what}: {value}")));
    let measured = tokio::select! {
        measured = (asked.case.measure)(asked.runs, asked.most.unwrap_or(usize::MAX)) => measured,
        // What was being measured has been dropped by now, and its processes are killed.
        () = stopped() => process::exit(1),
    };
    let medians = medians(&measured.runs);
    let (least, most) = (least(&measured.runs), most(&measured.runs));
    say(&format!("medians of {} runs (least to most):", asked.runs));
    for (what, value) in &medians {
        say(&format!("  {what}: {value} ({} to {})", least[what], most[what]));
    }
    measured.skipped.iter().for_each(|name| say(&format!("SKIPPED: {name}")));
    if let Some(file) = asked.json {
        let report = json!({
            "case": asked.case.name, "conditions": conditions, "runs": measured.runs, "medians": medians, "least": least,
            "most": most, "skipped": measured.skipped,
        });
        fs::write(&file, format!("{report:#}\n")).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
    if measured.skipped.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
