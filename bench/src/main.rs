//! Measures the release programs: each case starts Postgres, Redis and the programs as processes of its own, does everything
//! several times, and reports medians with the conditions they were measured under.
//!
//! ```sh
//! cargo build --release -p bench -p api -p worker -p cli && target/release/bench deliveries --json deliveries.json
//! ```

mod conditions;
mod deliveries;
mod memory;
mod numbers;
mod receiver;
mod stage;

use std::{
    env, fs,
    io::{Write as _, stdout},
    path::PathBuf,
    process::ExitCode,
};

use serde_json::json;

const USAGE: &str = "bench CASE [--runs N] [--json FILE]

cases:
  deliveries   webhooks per second, how long after its end a prediction's webhook arrives, and a sender's memory
               beside receivers that are dead or slow

--runs N       repeat each measurement N times; medians are reported (3)
--json FILE    write conditions, all runs and the medians there";

/// What the command line asks for.
struct Asked {
    runs: usize,
    json: Option<PathBuf>,
}

fn asked() -> Option<Asked> {
    let mut arguments = env::args().skip(1);
    if arguments.next()? != "deliveries" {
        return None;
    }
    let mut asked = Asked { runs: 3, json: None };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--runs" => asked.runs = arguments.next()?.parse().ok().filter(|runs| *runs > 0)?,
            "--json" => asked.json = Some(arguments.next()?.into()),
            _ => return None,
        }
    }
    Some(asked)
}

/// One line for people.
fn say(line: &str) {
    // Whoever closed our output has read enough.
    let _ = writeln!(stdout(), "{line}");
}

#[tokio::main]
async fn main() -> ExitCode {
    let Some(asked) = asked() else {
        say(USAGE);
        return ExitCode::from(2);
    };
    let conditions = conditions::measure().await;
    conditions.iter().for_each(|(what, value)| say(&format!("{what}: {value}")));
    let (runs, medians) = deliveries::measure(asked.runs).await;
    say(&format!("medians of {} runs:", asked.runs));
    medians.iter().for_each(|(what, value)| say(&format!("  {what}: {value}")));
    if let Some(file) = asked.json {
        let report = json!({ "case": "deliveries", "conditions": conditions, "runs": runs, "medians": medians });
        fs::write(&file, format!("{report:#}\n")).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
    ExitCode::SUCCESS
}
