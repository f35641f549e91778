//! Predictions through workers and their events through senders, on real parts: SQLite with the in-process queue, and Postgres with Redis.

#![allow(clippy::unwrap_used)]

/// Runs each scenario, an async function of a stage, on both kinds of parts.
macro_rules! on_both {
    ($($scenario:ident),+ $(,)?) => {$(
        mod $scenario {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn embedded() {
                super::$scenario(crate::stage::Stage::embedded().await).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn servers() {
                super::$scenario(crate::stage::Stage::servers().await).await;
            }
        }
    )+};
}

mod delivering;
mod ending;
mod finishing;
mod leases;
mod outages;
mod receiver;
mod refused;
mod secrets;
mod stage;
mod taker;
mod tickets;
mod undelivered;
mod versions;
