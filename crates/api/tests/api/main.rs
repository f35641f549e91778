//! The API over real sockets, on a real store and queue: what workers do is done by the tests through the store.
#![allow(clippy::unwrap_used)]

mod cancel;
mod connections;
mod create;
mod deliveries;
mod documents;
mod endpoints;
mod harness;
mod idempotency;
mod keys;
mod large;
mod list;
mod models;
mod names;
mod overload;
mod postgres;
mod refusals;
mod resolver;
mod secrets;
mod shares;
mod state;
mod stop;
mod stream;
mod versions;
mod vetting;
mod wait;
