//! The case `pool`: how work spreads over more and more workers, when what takes the time is a model.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use sqlx::Row;
use tokio::time::sleep;

use crate::{
    cpu::Used,
    drive::{self, Until},
    numbers::{Numbers, number},
    program::Program,
    servers::Servers,
    stage::{Stage, migrated},
    subject::{AUGUR_SLEEPING, Subject},
};

const WORKERS: [usize; 6] = [1, 2, 4, 8, 16, 32];
/// So that all fit into Postgres' connections.
const FEW: [&str; 2] = ["--database-connections", "2"];
/// What a worker could finish in a second: the model takes 20 ms.
const PER_SECOND: usize = 50;
/// How many seconds the work would last, if it took no more than that.
const LASTS: usize = 10;
/// It begins to count once all workers are ready and have then finished so many on average; for so many seconds.
const SETTLED: usize = 10;
const COUNTED: f64 = 4.0;
const PERIOD: Duration = Duration::from_millis(50);

/// What ended between two moments.
const ENDED: &str = "SELECT count(*) FROM predictions
    WHERE status = 2 AND extract(epoch FROM completed_at) >= $1 AND extract(epoch FROM completed_at) < $2";

pub(super) async fn once(most: usize) -> Numbers {
    let servers = Arc::new(Servers::start().await);
    let database_url = migrated(&servers).await;
    let mut stage = Stage::on(servers, &database_url, &["--queue-unserved"]).await;
    // It has made its models known.
    stage.retire().await;
    let mut subject = stage.subject(&AUGUR_SLEEPING).await;
    let mut numbers = Numbers::new();
    let mut one = None;
    for workers in WORKERS {
        let rate = measure(&stage, &mut subject, workers, most, &mut numbers).await;
        let one = *one.get_or_insert(rate);
        numbers.insert(format!("{workers:2} workers: predictions/s"), rate);
        numbers.insert(format!("{workers:2} workers: share of {workers} × one worker"), rate / (number(workers) * one));
        let ideal = number(workers * PER_SECOND);
        numbers.insert(format!("{workers:2} workers: share of {PER_SECOND}/s each"), rate / ideal);
    }
    numbers
}

async fn measure(stage: &Stage, subject: &mut Subject, workers: usize, most: usize, numbers: &mut Numbers) -> f64 {
    let count = (workers * PER_SECOND * LASTS).min(most);
    let (dialect, address) = (subject.dialect, subject.address);
    let accepted = drive::apart(move || drive::submit_all(dialect, address, Until::Accepted, 64, count)).await;
    let pool: Vec<Program> = join_all((0..workers).map(|_| stage.another_worker(&FEW))).await;
    subject.processes.insert("the workers".into(), pool.iter().map(Program::id).collect());
    let ready = now(stage).await;
    while ended(stage, ready, f64::MAX).await < workers * SETTLED {
        sleep(PERIOD).await;
    }
    let before = Used::until_now(&subject.processes);
    let from = now(stage).await;
    sleep(Duration::from_secs_f64(COUNTED)).await;
    let used = Used::until_now(&subject.processes);
    subject.over().await;
    let last = drive::verify(subject, &accepted.ids).await;
    assert!(last > from + COUNTED, "the work must last as long as it is counted");
    let ended = ended(stage, from, from + COUNTED).await;
    numbers.insert(format!("{workers:2} workers: from ready until {SETTLED} are finished by each: s"), from - ready);
    numbers.extend(used.numbers(&before, &format!("{workers:2} workers"), ended, COUNTED));
    join_all(pool.into_iter().map(Program::end)).await;
    subject.clear().await;
    number(ended) / COUNTED
}

/// By the database's clock, in seconds since 1970.
async fn now(stage: &Stage) -> f64 {
    let now = sqlx::query("SELECT extract(epoch FROM clock_timestamp())::float8").fetch_one(&stage.database);
    now.await.expect("Postgres answers").get(0)
}

/// How many predictions ended between two moments.
async fn ended(stage: &Stage, from: f64, until: f64) -> usize {
    let ended = sqlx::query(ENDED).bind(from).bind(until).fetch_one(&stage.database).await.expect("Postgres answers");
    usize::try_from(ended.get::<i64, _>(0)).expect("counts are positive")
}
