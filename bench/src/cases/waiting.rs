//! The case `waiting`: how fast callers get results who wait for each before they submit the next.

use super::storm::Deployments;
use crate::{
    drive::{self, Until},
    numbers::Numbers,
};

/// Callers at once, each with a connection.
const CALLERS: [usize; 3] = [16, 64, 256];
/// Predictions of all of them, and of those before that warm everything up.
const COUNT: usize = 30_000;
const WARM_UP: usize = 5_000;

/// At most so many predictions.
pub(super) async fn once(most: usize) -> Numbers {
    let mut deployments = Deployments::start().await;
    let mut numbers = Numbers::new();
    for callers in CALLERS {
        for (prefix, subject) in &mut deployments.subjects {
            drive::storm(subject, Until::Finished, callers, WARM_UP.min(most), "warm-up").await;
            subject.clear().await;
            let prefix = format!("{prefix}{callers} callers");
            numbers.extend(drive::storm(subject, Until::Finished, callers, COUNT.min(most), &prefix).await);
            subject.clear().await;
        }
    }
    numbers
}
