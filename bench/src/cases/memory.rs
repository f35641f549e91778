//! A sender's memory with 100,000 due deliveries to a receiver that is dead, and to one that is slow.

use std::time::{Duration, Instant};

use crate::{numbers::Numbers, receiver::Receiver, stage::Stage};

const DUE: i32 = 100_000;
/// How long it is watched, and how often.
const WATCHED: Duration = Duration::from_secs(20);
const PERIOD: Duration = Duration::from_millis(100);
/// How long the slow receiver takes to answer.
const SLOW: Duration = Duration::from_secs(1);

pub(super) async fn measure(stage: &Stage) -> Numbers {
    let slow = Receiver::start(SLOW).await;
    // A port at which nobody listens.
    let dead = format!("http://127.0.0.1:{}/hook", ::servers::free_port());
    let mut numbers = Numbers::new();
    for (name, url) in [("dead", dead), ("slow", slow.url(0))] {
        numbers.extend(watch(stage, name, &url).await);
    }
    numbers
}

async fn watch(stage: &Stage, name: &str, url: &str) -> Numbers {
    let sender = stage.sender().await;
    let before = sender.resident_mib();
    let origin = url.trim_end_matches("/hook");
    let due = sqlx::query(
        "INSERT INTO deliveries (prediction_id, created_at, due_at, begun_at, event, tenant, url, endpoint, origin)
         SELECT gen_random_uuid(), now(), now(), now(), 0, '', $1, $1, $2 FROM generate_series(1, $3)",
    );
    due.bind(url).bind(origin).bind(DUE).execute(&stage.database).await.expect("the columns are known");
    let begun = Instant::now();
    let mut most = before;
    while begun.elapsed() < WATCHED {
        most = f64::max(most, sender.resident_mib());
        tokio::time::sleep(PERIOD).await;
    }
    sender.kill().await;
    stage.clear().await;
    let name = |when: &str| format!("sender's memory, 100,000 due to a {name} receiver, {when}: MiB");
    Numbers::from([(name("before"), before), (name("most in 20 s"), most)])
}
