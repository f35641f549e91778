//! The case `waiting`: how fast callers get results who wait for each before they submit the next.

use crate::{
    drive::{self, Until},
    numbers::Numbers,
    stage::Stage,
    subject::AUGUR,
};

/// Callers at once, each with a connection.
const CALLERS: [usize; 3] = [16, 64, 256];
/// Predictions of all of them, and of those before that warm everything up.
const COUNT: usize = 30_000;
const WARM_UP: usize = 5_000;

/// At most so many predictions.
pub(super) async fn once(most: usize) -> Numbers {
    let stage = Stage::start().await;
    let mut subject = stage.subject(&AUGUR).await;
    let mut numbers = Numbers::new();
    for callers in CALLERS {
        drive::storm(&mut subject, Until::Finished, callers, WARM_UP.min(most), "warm-up").await;
        subject.clear().await;
        let prefix = format!("{callers} callers");
        numbers.extend(drive::storm(&mut subject, Until::Finished, callers, COUNT.min(most), &prefix).await);
        subject.clear().await;
    }
    stage.end().await;
    numbers
}
