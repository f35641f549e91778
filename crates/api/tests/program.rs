//! The program `augur-api`: what it refuses, that it serves, that it stops.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use servers::Process;

const PATIENCE: Duration = Duration::from_secs(60);

/// Runs it to its end; returns the status and what it says last.
fn refusal(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_augur-api"));
    for name in ["DATABASE_URL", "REDIS_URL", "AUGUR_CONFIG"] {
        command.env_remove(name);
    }
    let output = command.args(arguments).arg("--listen=127.0.0.1:0").output().expect("the program runs");
    let said = String::from_utf8(output.stderr).expect("it prints text");
    (output.status.code(), said.lines().last().unwrap_or_default().to_owned())
}

#[test]
fn without_postgres_it_says_what_to_do() {
    let (status, said) = refusal(&[]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.starts_with("error: ") && said.contains("--database-url") && said.contains("augur serve"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_refuses_an_old_schema_and_serves_a_migrated_one() {
    let database = format!("--database-url={}", servers::database().await);
    let asked = Instant::now();
    let (status, said) = loop {
        let refused = refusal(&[&database]);
        // A new database may not let anybody in at once.
        if !refused.1.contains("does not answer") || asked.elapsed() > PATIENCE {
            break refused;
        }
    };
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("run `augur migrate` (or start with --migrate)"), "{said}");

    let command = [env!("CARGO_BIN_EXE_augur-api"), &database, "--migrate", "--listen=127.0.0.1:0"];
    let process = Process::new("augur-api", command.map(Into::into).to_vec());
    process.start().await;
    let address = process.line_that_begins("listening on ", PATIENCE).await;
    let health = reqwest::get(format!("{address}/health/live")).await.expect("it serves");
    assert_eq!(health.status(), 200);
    assert_eq!(process.end("TERM").await, Some(0), "{}", process.log());
}
