//! How a batch is formed, and whose turn it is to form the next.

use std::{future::Future, time::Duration};

use tokio::{
    pin,
    time::{sleep, timeout},
};

/// From so many on a batch waits for more: they come so fast that soon there are as many again.
const CROWD: usize = 8;
/// How long it waits: about as long as a statement takes that carries next to nothing.
const PAUSE: Duration = Duration::from_millis(1);

/// How long one batch is worked at alone: two small transactions cost more than one large one, and a hung one must not hold up
/// all others.
const ALONE: Duration = Duration::from_millis(20);

/// Takes the first and what else there is, until there is enough by size.
pub(crate) fn take<T>(first: T, next: impl FnMut() -> Option<T>, size: impl Fn(&T) -> usize, enough: usize) -> Vec<T> {
    let mut batch = vec![first];
    fill(&mut batch, next, size, enough);
    batch
}

/// The same, but a crowd waits a moment for more, since fewer statements cost less; who is nearly alone waits for nobody. For work
/// that nobody's next request waits for: callers who are answered one after the other would only come back later.
pub async fn gather<T>(
    first: T,
    mut next: impl FnMut() -> Option<T>,
    size: impl Fn(&T) -> usize,
    enough: usize,
) -> Vec<T> {
    let mut batch = take(first, &mut next, &size, enough);
    if (CROWD..enough).contains(&batch.iter().map(&size).sum()) {
        sleep(PAUSE).await;
        fill(&mut batch, next, size, enough);
    }
    batch
}

fn fill<T>(batch: &mut Vec<T>, mut next: impl FnMut() -> Option<T>, size: impl Fn(&T) -> usize, enough: usize) {
    let mut gathered: usize = batch.iter().map(&size).sum();
    while gathered < enough
        && let Some(item) = next()
    {
        gathered += size(&item);
        batch.push(item);
    }
}

/// Works at a batch and gives the turn on when that is done or takes long: until then what arrives gathers for the next.
pub async fn take_turn<T>(turn: T, work: impl Future<Output = ()>) {
    pin!(work);
    let is_done = timeout(ALONE, &mut work).await.is_ok();
    drop(turn);
    if !is_done {
        work.await;
    }
}
