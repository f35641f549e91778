//! The servers themselves: they answer, lose what they should lose, keep what they should keep, and are gone afterwards.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    time::Duration,
};

use servers::{Postgres, Process, Redis};
use sqlx::{Connection, PgConnection, Row};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

const PATIENCE: Duration = Duration::from_secs(60);

async fn redis_says(url: &str, command: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address(url)).await?;
    stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn address(url: &str) -> SocketAddr {
    let port = url.rsplit(':').next().and_then(|rest| rest.split('/').next()).expect("a port");
    SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse().expect("a port is a number")))
}

async fn until_refused(url: &str) {
    let refused = async {
        while TcpStream::connect(address(url)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("the server is gone");
}

#[tokio::test]
async fn what_postgres_acknowledged_survives_an_immediate_stop() {
    let mut postgres = Postgres::start().await;
    let url = postgres.create_database().await;
    let mut connection = PgConnection::connect(&url).await.expect("it answers");
    sqlx::query("CREATE TABLE kept (number integer)").execute(&mut connection).await.expect("a table");
    sqlx::query("INSERT INTO kept VALUES (7)").execute(&mut connection).await.expect("a row");

    postgres.stop_immediately().await;
    assert!(PgConnection::connect(&url).await.is_err(), "it is stopped");
    postgres.start_again().await;

    let mut connection = PgConnection::connect(&url).await.expect("it answers again");
    let row = sqlx::query("SELECT number FROM kept").fetch_one(&mut connection).await.expect("the row is there");
    assert_eq!(row.get::<i32, _>(0), 7);
    drop(postgres);
    until_refused(&url).await;
}

#[tokio::test]
async fn shared_databases_are_new_and_empty() {
    let (first, second) = tokio::join!(servers::database(), servers::database());
    assert_ne!(first, second);
    for url in [first, second] {
        let mut connection = PgConnection::connect(&url).await.expect("it answers");
        let tables = sqlx::query("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'");
        let row = tables.fetch_one(&mut connection).await.expect("a count");
        assert_eq!(row.get::<i64, _>(0), 0);
    }
}

#[tokio::test]
async fn redis_loses_its_contents_when_flushed_and_when_stopped() {
    let mut redis = Redis::start().await;
    let url = redis.url();
    redis_says(&url, "SET key value").await.expect("it answers");
    redis.flush_all().await;
    assert!(redis_says(&url, "GET key").await.expect("it answers").starts_with("$-1"), "flushed");

    redis_says(&url, "SET key value").await.expect("it answers");
    assert!(redis_says(&url, "GET key").await.expect("it answers").contains("value"));
    redis.stop().await;
    assert!(redis_says(&url, "PING").await.is_err(), "it is stopped");
    redis.start_again().await;
    assert!(redis_says(&url, "GET key").await.expect("it answers").starts_with("$-1"), "started empty");
}

#[tokio::test]
async fn a_paused_redis_hangs_until_resumed_and_can_be_dropped() {
    let redis = Redis::start().await;
    let url = redis.url();
    redis.pause();
    let asked = tokio::spawn({
        let url = url.clone();
        async move { redis_says(&url, "PING").await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!asked.is_finished(), "it does not answer");
    redis.resume();
    let answer = tokio::time::timeout(PATIENCE, asked).await.expect("it goes on").expect("no panic");
    assert!(answer.expect("it answers").contains("PONG"));
    redis.pause();
    drop(redis);
    until_refused(&url).await;
}

#[tokio::test]
async fn namespaces_differ_on_one_shared_redis() {
    let ((url, namespace), (same_url, other)) = tokio::join!(servers::redis(), servers::redis());
    assert_eq!(url, same_url);
    assert_ne!(namespace, other);
}

/// Names the process that the next test starts and kills.
const CHILD: &str = "AUGUR_TEST_SERVERS_CHILD";

#[tokio::test]
async fn servers_die_with_a_killed_process() {
    let program = std::env::current_exe().expect("our own program");
    let mut child = tokio::process::Command::new(program)
        .args(["--exact", "child_that_is_killed", "--nocapture"])
        .env(CHILD, "yes")
        .stdout(Stdio::piped())
        .spawn()
        .expect("ourselves can be started");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut urls = Vec::new();
    while urls.len() < 2 {
        let line = lines.next_line().await.expect("readable").expect("it says its addresses");
        // The test runner's own words may stand before it on the same line.
        if let Some((_, url)) = line.split_once("address ") {
            urls.push(url.to_owned());
        }
    }
    for url in &urls {
        TcpStream::connect(address(url)).await.expect("it runs");
    }
    child.kill().await.expect("it is killed");
    for url in &urls {
        until_refused(url).await;
    }
}

#[tokio::test]
async fn child_that_is_killed() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let (postgres, redis) = tokio::join!(Postgres::start(), Redis::start());
    tell(&format!("address {}", postgres.url()));
    tell(&format!("address {}", redis.url()));
    tokio::time::sleep(PATIENCE).await;
}

#[allow(clippy::print_stdout, reason = "the parent process reads it")]
fn tell(line: &str) {
    println!("{line}");
}

#[tokio::test]
async fn a_process_says_lines_dies_and_is_noticed() {
    let command = ["sh", "-c", "echo trouble >&2; echo ready at noon; exec sleep 600"].map(Into::into).to_vec();
    let process = Process::new("augur-test", command);
    assert!(!process.is_alive().await, "not started yet");
    process.start().await;
    assert_eq!(process.line_that_begins("ready ", PATIENCE).await, "at noon");
    assert_eq!(process.end("TERM").await, Some(128 + 15));
    assert!(!process.is_alive().await);
    assert!(process.log().contains("trouble"));

    let short = Process::new("augur-test", ["sh", "-c", "exit 7"].map(Into::into).to_vec());
    short.start().await;
    let gone = async {
        while short.is_alive().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the end is noticed");
    assert_eq!(short.end("TERM").await, None, "it had ended already");
}
