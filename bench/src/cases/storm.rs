//! The case `storm`: how fast predictions are accepted, and how fast their results are stored, when all that callers do is submit.

use crate::{
    drive::{self, Until},
    numbers::Numbers,
    stage::Stage,
    subject::{AUGUR, Subject},
};

/// Connections that submit at once.
pub(super) const CONNECTIONS: [usize; 2] = [64, 256];
/// Predictions of one storm, and of the one before it that warms everything up.
const COUNT: usize = 150_000;
const WARM_UP: usize = 20_000;

pub(super) async fn once(most: usize) -> Numbers {
    let stage = Stage::start().await;
    let mut subject = stage.subject(&AUGUR).await;
    let mut numbers = Numbers::new();
    for connections in CONNECTIONS {
        numbers.extend(measure(&mut subject, connections, most).await);
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
