//! The solo lane: predictions that were held when a worker died run alone, so that the next crash, if there is one, has one cause.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::timeout;

use crate::{node::Node, run};

/// How often a worker with nothing to do looks for suspects that nobody told it of.
const EVERY_WHILE_IDLE: Duration = Duration::from_secs(1);
/// No further suspect is begun after this long.
const LONGEST_SESSION: Duration = Duration::from_secs(2);
/// How long other work has to show itself after a session.
const SHORTEST_REST: Duration = Duration::from_millis(100);

/// Runs suspects until the worker stops. When there is other work, it has as long as the last session took, the wait for
/// what was held included, so that both go on.
pub(crate) async fn run_suspects(node: Arc<Node>) {
    let mut more = false;
    loop {
        if !more && !wanted(&node).await {
            return;
        }
        let begun = Instant::now();
        more = session(&node).await;
        let took = begun.elapsed();
        if !node.pause(SHORTEST_REST).await || (!node.held.is_empty() && !node.pause(took).await) {
            return;
        }
    }
}

/// Waits for a reason to look for suspects; false when the worker stops.
async fn wanted(node: &Node) -> bool {
    loop {
        let told = timeout(EVERY_WHILE_IDLE, node.suspects.notified());
        match node.stop.run_until_cancelled(told).await {
            None => return false,
            Some(Ok(())) => return true,
            Some(Err(_)) if node.held.is_empty() => return true,
            Some(Err(_)) => {}
        }
    }
}

/// Takes every slot, which waits for all that is held and lets nothing else begin, then runs one suspect after the other;
/// whether there may be more.
async fn session(node: &Node) -> bool {
    let slots = u32::try_from(node.config.slots).unwrap_or(u32::MAX);
    let all = node.stop.run_until_cancelled(node.slots.acquire_many(slots)).await;
    let Some(Ok(_all)) = all else { return false };
    let begun = Instant::now();
    while begun.elapsed() < LONGEST_SESSION && !node.stop.is_cancelled() {
        let claimed_at = Instant::now();
        match node.ask(node.store.claim_suspect(node.id, &node.serves, node.config.lease)).await {
            Ok(Some(claimed)) => {
                tracing::info!(prediction = %claimed.run.id, "runs alone");
                run::run(node, claimed, claimed_at).await;
            }
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
    true
}
