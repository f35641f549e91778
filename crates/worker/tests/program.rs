//! The program `augur-worker`: what it refuses, that it gets ready, that it stops.

use std::{process::Command, time::Duration};

use servers::Process;

const PATIENCE: Duration = Duration::from_secs(60);

/// Runs it to its end; returns the status and what it says last.
fn refusal(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_augur-worker"));
    for name in ["DATABASE_URL", "REDIS_URL", "AUGUR_CONFIG"] {
        command.env_remove(name);
    }
    let output = command.args(arguments).output().expect("the program runs");
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
async fn it_refuses_an_old_schema_and_broken_models_else_it_gets_ready() {
    let database = format!("--database-url={}", servers::database().await);
    let (status, said) = refusal(&[&database, "--enable-echo", "--models-dir=none"]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("run `augur migrate` (or start with --migrate)"), "{said}");

    let (status, said) = refusal(&[&database, "--migrate", "--models-dir=/nonexistent/models"]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.starts_with("error: ") && said.contains("/nonexistent/models"), "{said}");

    let (status, said) = refusal(&[&database, "--only=deliveries"]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("there is nothing to do") && said.contains("AUGUR_WEBHOOK_KEY"), "{said}");

    let command = [env!("CARGO_BIN_EXE_augur-worker"), &database, "--enable-echo", "--models-dir=none"];
    let process = Process::new("augur-worker", command.map(Into::into).to_vec());
    process.start().await;
    process.line_that_begins("ready", PATIENCE).await;
    assert_eq!(process.end("TERM").await, Some(0), "{}", process.log());
}
