//! The parts of a program that run as long as it does, and what becomes of it when one of them panics.

use std::{
    future::{Future, pending},
    panic::resume_unwind,
    pin::pin,
};

use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// Runs `main` beside its parts. A part that panics takes the rest with it, since half a program would go on looking well: `stop`
/// is cancelled, and once `main` has ended because of that, the panic goes on.
///
/// # Panics
/// When a part has panicked before `main` ended.
pub async fn run_beside<T>(parts: &mut JoinSet<()>, stop: &CancellationToken, main: impl Future<Output = T>) -> T {
    let mut main = pin!(main);
    tokio::select! {
        biased;
        ended = &mut main => ended,
        panicked = panicked(parts) => {
            tracing::error!("stopping, because a part of this program panicked");
            stop.cancel();
            main.await;
            resume_unwind(panicked.into_panic())
        }
    }
}

/// Returns when one of them has panicked.
async fn panicked(parts: &mut JoinSet<()>) -> JoinError {
    while let Some(ended) = parts.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            return error;
        }
    }
    pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_panics_stops_all_the_rest_and_is_heard_of() {
        let stop = CancellationToken::new();
        let (of_main, drained) = (stop.clone(), CancellationToken::new());
        let draining = drained.clone();
        let running = tokio::spawn(async move {
            let mut parts = JoinSet::new();
            parts.spawn(pending());
            // One that ends is no reason to stop, nor to look away from the others.
            parts.spawn(async {});
            parts.spawn(async {
                tokio::task::yield_now().await;
                panic!("as the test wants it");
            });
            run_beside(&mut parts, &of_main, async {
                of_main.cancelled().await;
                tokio::task::yield_now().await;
                draining.cancel();
            })
            .await;
        });
        let panic = running.await.expect_err("it panicked").into_panic();
        assert_eq!(panic.downcast_ref(), Some(&"as the test wants it"));
        assert!(stop.is_cancelled() && drained.is_cancelled());
    }

    #[tokio::test]
    async fn parts_that_are_well_end_nothing() {
        let (mut parts, stop) = (JoinSet::new(), CancellationToken::new());
        parts.spawn(pending());
        parts.spawn(async {});
        let main = async {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            7
        };
        assert_eq!(run_beside(&mut parts, &stop, main).await, 7);
        assert!(!stop.is_cancelled());
    }
}
