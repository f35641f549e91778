//! Whose turn it is to form a batch.

use std::{future::Future, time::Duration};

use tokio::{pin, time::timeout};

/// How long one batch is worked at alone: two small transactions cost more than one large one, and a hung one must not hold up
/// all others.
const ALONE: Duration = Duration::from_millis(20);

/// Works at a batch and gives the turn on when that is done or takes long: until then what arrives gathers for the next.
pub async fn take_turn<T>(turn: T, work: impl Future<Output = ()>) {
    pin!(work);
    let is_done = timeout(ALONE, &mut work).await.is_ok();
    drop(turn);
    if !is_done {
        work.await;
    }
}
