//! The case `expiry`: how fast a worker removes records that have expired.

use std::{sync::Arc, time::Duration};

use sqlx::{Connection as _, PgConnection, Row};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    cpu::Used,
    fill,
    numbers::{Numbers, number},
    servers::Servers,
    stage::{Stage, migrated},
    subject::AUGUR,
};

/// Records that have expired.
const EXPIRED: usize = 300_000;
/// How often it is looked at how many are left: each look is counted as Postgres' time, too.
const PERIOD: Duration = Duration::from_secs(1);
/// A worker begins within a minute.
const PATIENCE: Duration = Duration::from_secs(300);

const EXPIRE: &str = "UPDATE predictions SET expires_at = now()";
const LEFT: &str = "SELECT count(*) FROM predictions WHERE status >= 2";

pub(super) async fn once(most: usize) -> Numbers {
    let servers = Arc::new(Servers::start().await);
    let database_url = migrated(&servers).await;
    // A worker makes its models known; without it there would be nothing to fill in.
    Stage::on(Arc::clone(&servers), &database_url, &[]).await.end().await;
    let count = EXPIRED.min(most);
    let mut database = PgConnection::connect(&database_url).await.expect("Postgres answers");
    fill::finished(&mut database, count).await;
    for statement in [EXPIRE, "VACUUM ANALYZE predictions", "CHECKPOINT"] {
        sqlx::query(statement).execute(&mut database).await.expect("the schema is ours");
    }
    let stage = Stage::on(servers, &database_url, &[]).await;
    let subject = stage.subject(&AUGUR).await;
    let removing = async {
        let (mut before, mut begun) = (Used::until_now(&subject.processes), Instant::now());
        loop {
            let left = sqlx::query(LEFT).fetch_one(&mut database).await.expect("Postgres answers").get::<i64, _>(0);
            match usize::try_from(left).expect("counts are positive") {
                0 => {
                    let seconds = begun.elapsed().as_secs_f64();
                    let used = Used::until_now(&subject.processes).numbers(&before, "expiry", count, seconds);
                    return (seconds, used);
                }
                left if left == count => (before, begun) = (Used::until_now(&subject.processes), Instant::now()),
                _ => {}
            }
            sleep(PERIOD).await;
        }
    };
    let (seconds, mut numbers) = timeout(PATIENCE, removing).await.expect("what has expired is removed");
    numbers.insert("records removed/s".into(), number(count) / seconds);
    stage.end().await;
    numbers
}
