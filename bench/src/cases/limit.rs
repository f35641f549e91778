//! The case `limit`: storms beside what Postgres and Redis can do at all with the same rows, on the same servers.

use std::{sync::Arc, time::Instant};

use super::storm::{self, Deployments, ONE_PROCESS};
use crate::{
    bare::{self, Bare},
    cpu::Used,
    drive,
    numbers::{Numbers, number},
    stage::migrated,
    subject::{AUGUR, Subject},
};

/// Predictions of one measurement, and tickets.
const COUNT: usize = 100_000;
/// Rows of a statement and connections of each step; the best one is the limit.
const SETTINGS: [(usize, usize); 4] = [(256, 1), (256, 2), (512, 2), (1024, 2)];

pub(super) async fn once(most: usize) -> Numbers {
    let count = COUNT.min(most);
    let mut augur = Deployments::start().await;
    let servers = Arc::clone(&augur.stage.servers);
    let database_url = migrated(&servers).await;
    let processes = servers.processes().await;
    // Nobody is asked for anything here.
    let subject = Subject::new(&AUGUR, augur.stage.address, &database_url, processes).await;
    let redis_url = servers.redis_url();
    let bare = Bare { database_url, redis_url, batch: 256, connections: 1, streams: false };

    let mut numbers = Numbers::new();
    numbers.extend(augur.measure(64, most).await);
    let mut limit: f64 = 0.0;
    for (batch, connections) in SETTINGS {
        let bare = Bare { batch, connections, ..bare.clone() };
        let prefix = format!("bare SQL, {connections} connections a step, {batch} rows");
        limit = limit.max(pipeline(&bare, &subject, count, &prefix, &mut numbers).await);
    }
    numbers.extend(augur.measure(256, most).await);
    let streams = Bare { batch: 256, connections: 2, streams: true, ..bare.clone() };
    let with_stream = pipeline(&streams, &subject, count, "bare SQL and stream", &mut numbers).await;
    let rates = drive::apart(move || async move { alone(&Bare { connections: 2, ..bare }, count).await }).await;
    numbers.extend(rates);
    subject.clear().await;
    for connections in storm::CONNECTIONS {
        for prefix in ["", ONE_PROCESS] {
            let prefix = format!("{prefix}{connections} connections");
            let stored = numbers[&format!("{prefix}: stored/s")];
            numbers.insert(format!("{prefix}: stored ÷ bare SQL"), stored / limit);
            numbers.insert(format!("{prefix}: stored ÷ bare SQL and stream"), stored / with_stream);
        }
    }
    numbers
}

/// Rows per second through insert, claim and complete at once.
async fn pipeline(bare: &Bare, subject: &Subject, count: usize, prefix: &str, numbers: &mut Numbers) -> f64 {
    subject.clear().await;
    let before = Used::until_now(&subject.processes);
    let begun = Instant::now();
    let bare = bare.clone();
    let ids = drive::apart(move || async move { bare.pipeline(count).await }).await;
    let seconds = begun.elapsed().as_secs_f64();
    let used = Used::until_now(&subject.processes);
    drive::verify(subject, &ids).await;
    numbers.insert(format!("{prefix}: stored/s"), number(count) / seconds);
    numbers.extend(used.numbers(&before, prefix, count, seconds));
    subject.clear().await;
    number(count) / seconds
}

/// Per second: each step with nothing else going on, and tickets through the stream.
async fn alone(bare: &Bare, count: usize) -> Numbers {
    let mut numbers = Numbers::new();
    let mut begun = Instant::now();
    bare.one_by_one(count, |step| {
        numbers.insert(format!("bare SQL, {step} alone: rows/s"), number(count) / begun.elapsed().as_secs_f64());
        begun = Instant::now();
    })
    .await;
    let begun = Instant::now();
    bare::tickets(&bare.redis_url, count, bare.batch).await;
    numbers.insert("bare stream alone: tickets/s".into(), number(count) / begun.elapsed().as_secs_f64());
    numbers
}
