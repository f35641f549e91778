//! API keys on two APIs that share a database: both heed what `augur keys` does, and neither the database nor any log holds a key.

use std::time::Duration;

use reqwest::{Client, RequestBuilder};
use serde_json::json;
use servers::Process;
use sqlx::{AssertSqlSafe, PgPool};
use tests::{PATIENCE, answered, program};
use tokio::time::{sleep, timeout};

const PREDICTIONS: &str = "/v1/models/augur/echo/predictions";

/// Runs `augur` on this database to its end; returns what it prints.
async fn augur(database: &str, arguments: &[&str]) -> String {
    let mut command = tokio::process::Command::new(program("augur"));
    let output =
        command.args(arguments).args(["--database-url", database]).output().await.expect("augur can be started");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it prints text").trim_end().to_owned()
}

async fn start(name: &str, database: &str, arguments: &[&str], ready: &str) -> (Process, String) {
    let mut command = vec!["env".into(), "AUGUR_LOG=trace".into(), program(name).into_os_string()];
    command.extend(["--database-url", database].iter().chain(arguments).map(Into::into));
    let process = Process::new(name, command);
    process.start().await;
    let said = process.line_that_begins(ready, PATIENCE).await;
    (process, said)
}

async fn status(request: RequestBuilder) -> u16 {
    answered(request).await.0
}

/// Asks until that is the answer.
async fn until(mut request: impl FnMut() -> RequestBuilder, expected: u16) {
    let asking = async {
        while status(request()).await != expected {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, asking).await.expect("it is heeded");
}

/// Every row of every table as text, as a dump has it: bytes in hexadecimal.
async fn dump(database: &str) -> String {
    let pool = PgPool::connect(database).await.expect("Postgres answers");
    let tables = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'";
    let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&pool).await.expect("tables");
    let mut dump = String::new();
    for table in tables {
        let rows = AssertSqlSafe(format!("SELECT row::text FROM {table} AS row"));
        let rows: Vec<String> = sqlx::query_scalar(rows).fetch_all(&pool).await.expect("rows");
        dump.extend(rows);
    }
    dump
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_api_heeds_keys_that_nothing_holds() {
    let database = servers::database().await;
    augur(&database, &["migrate"]).await;
    let worker = ["--enable-echo", "--models-dir=none", "--only=predictions"];
    let (worker, _) = start("augur-worker", &database, &worker, "ready").await;
    let listen = ["--listen=127.0.0.1:0"];
    let (one, address) = start("augur-api", &database, &listen, "listening on ").await;
    let (other, other_address) = start("augur-api", &database, &listen, "listening on ").await;
    let http = Client::new();
    let send = |address: &str| http.post(format!("{address}{PREDICTIONS}")).json(&json!({"input": {"value": 7}}));
    until(|| send(&address), 202).await;

    let web = augur(&database, &["keys", "create", "web"]).await;
    let batch = augur(&database, &["keys", "create", "batch", "--share=0.1"]).await;
    for address in [&address, &other_address] {
        until(|| send(address), 401).await;
        for key in [&web, &batch] {
            until(|| send(address).bearer_auth(key), 202).await;
        }
    }
    let (status_of_made, made) = answered(send(&address).bearer_auth(&web).header("Prefer", "wait")).await;
    assert_eq!(status_of_made, 201, "{made}");
    let get = |key: &str| {
        let id = made["id"].as_str().expect("an id");
        http.get(format!("{other_address}/v1/predictions/{id}")).bearer_auth(key)
    };
    let (_, read) = answered(get(&web)).await;
    assert_eq!((&read["status"], &read["output"]), (&json!("succeeded"), &json!(7)), "{read}");
    assert_eq!(status(get(&batch)).await, 404);

    augur(&database, &["keys", "revoke", "web"]).await;
    for address in [&address, &other_address] {
        until(|| send(address).bearer_auth(&web), 401).await;
        assert_eq!(status(send(address).bearer_auth(&batch)).await, 202);
    }

    let dump = dump(&database).await;
    assert!(dump.contains("batch") && dump.contains("augur/echo"), "it is read");
    let logs = [&one, &other, &worker].map(Process::log).concat();
    assert!(logs.contains("answered"), "requests are logged");
    let listed = augur(&database, &["keys", "ls", "--json"]).await;
    for key in [web, batch] {
        let hexadecimal: String = key.bytes().map(|byte| format!("{byte:02x}")).collect();
        for text in [&key["augur_".len()..], &hexadecimal] {
            for (place, said) in [("database", &dump), ("log", &logs), ("list", &listed)] {
                assert!(!said.contains(text), "a key is in the {place}");
            }
        }
    }
    for process in [one, other, worker] {
        assert_eq!(process.end("TERM").await, Some(0));
    }
}
