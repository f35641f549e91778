//! What every database behind the store must do: each test runs on a real Postgres and on SQLite.

#![allow(clippy::unwrap_used)]

mod fixture;

/// Makes each of these functions a test on both databases.
macro_rules! on_both {
    ($($test:ident),+ $(,)?) => {
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test($crate::fixture::Fixture::postgres().await).await;
            })+
        }
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test($crate::fixture::Fixture::sqlite().await).await;
            })+
        }
    };
}

mod accept;
mod accepter;
mod actors;
mod admission;
mod api_keys;
mod ask;
mod claim;
mod complete;
mod constraints;
mod deliveries;
mod delivery_constraints;
mod dispatch;
mod endpoints;
mod finder;
mod models;
mod network;
mod outbox;
mod plans;
mod purge;
mod refused;
mod schema;
mod send;
mod state_machine;
mod sweep;
mod taker;
mod waiters;
