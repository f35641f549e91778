//! Real Postgres and Redis servers for tests, and programs of ours: started on free ports in temporary directories, gone with the
//! test process. `AUGUR_TEST_DATABASE_URL` (or `DATABASE_URL`) and `AUGUR_TEST_REDIS_URL` (or `REDIS_URL`) name servers to
//! share instead; tests that stop or flush a server always start one of their own.

mod answered;
mod port;
mod postgres;
mod process;
mod programs;
mod redis;
mod user;

use std::env;

use tokio::sync::OnceCell;
use uuid::Uuid;

pub use answered::answered;
pub use port::free_port;
pub use postgres::{Postgres, execute};
pub use process::Process;
pub use redis::Redis;

/// A new empty database on a server shared by the tests of this process, or on `AUGUR_TEST_DATABASE_URL` or
/// `DATABASE_URL`, where it stays.
///
/// # Panics
/// When there is no server and none can be started; says why.
pub async fn database() -> String {
    static SHARED: OnceCell<Postgres> = OnceCell::const_new();
    match named("AUGUR_TEST_DATABASE_URL", "DATABASE_URL") {
        Some(url) => postgres::create_database(&url).await,
        None => SHARED.get_or_init(Postgres::start).await.create_database().await,
    }
}

/// A Redis shared by the tests of this process, or `AUGUR_TEST_REDIS_URL` or `REDIS_URL`, and a namespace of the
/// caller's own.
///
/// # Panics
/// When there is no server and none can be started; says why.
pub async fn redis() -> (String, String) {
    static SHARED: OnceCell<Redis> = OnceCell::const_new();
    let url = match named("AUGUR_TEST_REDIS_URL", "REDIS_URL") {
        Some(url) => url,
        None => SHARED.get_or_init(Redis::start).await.url(),
    };
    (url, format!("test-{}", Uuid::new_v4().simple()))
}

fn named(first: &str, second: &str) -> Option<String> {
    [first, second].into_iter().find_map(|name| env::var(name).ok().filter(|value| !value.is_empty()))
}
