//! The case `storm`: how fast predictions are accepted, and how fast their results are stored, when all that callers do is submit.

use crate::{
    alone::Alone,
    drive::{self, Until},
    numbers::Numbers,
    stage::{Stage, migrated},
    subject::{AUGUR, Subject},
};

/// Connections that submit at once.
pub(super) const CONNECTIONS: [usize; 2] = [64, 256];
/// Predictions of one storm, and of the one before it that warms everything up.
const COUNT: usize = 150_000;
const WARM_UP: usize = 20_000;
/// What the numbers of everything in one process begin with.
pub(super) const ONE_PROCESS: &str = "one process, ";

/// The same work deployed in two ways on the same servers, each with a database of its own.
pub(super) struct Deployments {
    pub(super) stage: Stage,
    _alone: Alone,
    /// With Redis, an API and a worker; and with everything but Postgres in one process: each with what its numbers begin with.
    pub(super) subjects: [(&'static str, Subject); 2],
}

impl Deployments {
    pub(super) async fn start() -> Self {
        let stage = Stage::start().await;
        let subject = stage.subject(&AUGUR).await;
        let database_url = migrated(&stage.servers).await;
        let alone = Alone::start(Some(&database_url)).await;
        let one_process = alone.subject(&stage.servers, &database_url).await;
        Self { stage, _alone: alone, subjects: [("", subject), (ONE_PROCESS, one_process)] }
    }

    /// A storm on each.
    pub(super) async fn measure(&mut self, connections: usize, most: usize) -> Numbers {
        let mut numbers = Numbers::new();
        for (prefix, subject) in &mut self.subjects {
            let measured = measure(subject, connections, most).await;
            numbers.extend(measured.into_iter().map(|(name, value)| (format!("{prefix}{name}"), value)));
        }
        numbers
    }
}

pub(super) async fn once(most: usize) -> Numbers {
    let mut deployments = Deployments::start().await;
    let mut numbers = Numbers::new();
    for connections in CONNECTIONS {
        numbers.extend(deployments.measure(connections, most).await);
    }
    numbers
}

/// One storm on a store that has been emptied, by programs that are warm.
pub(super) async fn measure(subject: &mut Subject, connections: usize, most: usize) -> Numbers {
    drive::storm(subject, Until::Accepted, connections, WARM_UP.min(most), "warm-up").await;
    subject.clear().await;
    let prefix = format!("{connections} connections");
    let numbers = drive::storm(subject, Until::Accepted, connections, COUNT.min(most), &prefix).await;
    subject.clear().await;
    numbers
}
