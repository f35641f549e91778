//! The harness of the system tests: a [`Cluster`] of real programs on real servers, a [`Load`] of predictions whose results are
//! known beforehand, an audit kept by the database, and a [`Verdict`] on what came of it all.

mod audit;
mod cluster;
mod load;
mod outbox;
mod programs;
mod receiver;
mod recovery;
mod seed;
mod senders;
mod tripwire;
mod verdict;

pub use cluster::{Cluster, Plan};
pub use load::{EVENTS, Entry, Journal, Load};
pub use outbox::{Outbox, Recorded};
pub use programs::program;
pub use receiver::{Conduct, Received, Receiver};
pub use recovery::{Kill, percentile};
pub use seed::seed;
pub use senders::{KEY, Webhooks};
pub use servers::answered;
pub use tripwire::{Catch, Tripwire};
pub use verdict::Verdict;

use std::time::Duration;

/// How long a test waits for something that normally takes seconds: only a fault makes it wait so long.
pub const PATIENCE: Duration = Duration::from_secs(180);
