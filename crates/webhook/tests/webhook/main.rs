//! The whole crate against receivers, resolvers and certificates of the tests' own.

mod dial;
mod hostile;
mod interoperability;
mod receiver;
mod receiving;
mod sender;
mod table;
mod tls;
