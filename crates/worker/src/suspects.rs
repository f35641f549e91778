//! The solo lane: predictions that were held when a worker died run alone, so that the next crash, if there is one, has one cause.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use store::Claimed;
use tokio::time::timeout;

use crate::{backoff::Backoff, node::Node, outage::Trouble, run};

/// No further suspect is begun after this long.
const LONGEST_SESSION: Duration = Duration::from_secs(2);
/// How long other work has to show itself after a session.
const SHORTEST_REST: Duration = Duration::from_millis(100);
/// How long a worker first waits, taking nothing new, for what it holds to end; twice as long each time that it does not, so
/// that workers with short runs come first and those with long ones stand still only if nobody else can.
const FIRST_PATIENCE: Duration = Duration::from_secs(1);
const LONGEST_PATIENCE: Duration = Duration::from_secs(600);
/// The pauses after the store has refused to give the next suspect: whoever asks again stops all other work for it.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(60);

/// After so long without a suspect (a worker with free slots is told of the same one each two seconds), earlier ones count no more.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

/// How a session ended.
enum Session {
    /// There may be more suspects.
    More,
    /// There are none for now.
    Done,
    /// What was held did not end in time.
    NotAlone,
    /// The store refused to give one.
    Refused,
}

/// Runs suspects until the worker stops, whenever somebody saw one: the sweep, a claim, or [`poll`](crate::poll), which looks now and
/// then. When there is other work, it has as long as the last session took, the wait for what was held included, so that both go on.
pub(crate) async fn run_suspects(node: Arc<Node>) {
    let mut wait = true;
    let mut patience = FIRST_PATIENCE;
    let mut rest = Backoff::new(FIRST_REST, LONGEST_REST);
    loop {
        if wait {
            let since = Instant::now();
            if node.stop.run_until_cancelled(node.suspects.notified()).await.is_none() {
                return;
            }
            if since.elapsed() >= FORGOTTEN_AFTER {
                patience = FIRST_PATIENCE;
                rest.reset();
            }
        }
        let begun = Instant::now();
        let session = session(&node, patience).await;
        let took = begun.elapsed();
        // Not alone in time, it waits to be told again: by then others may have run them all.
        wait = !matches!(session, Session::More);
        patience = match session {
            Session::NotAlone => (patience * 2).min(LONGEST_PATIENCE),
            Session::More | Session::Done | Session::Refused => FIRST_PATIENCE,
        };
        match session {
            Session::Refused if !node.pause(rest.next()).await => return,
            Session::More | Session::Done => rest.reset(),
            Session::Refused | Session::NotAlone => {}
        }
        if !node.pause(SHORTEST_REST).await || (!node.held.is_empty() && !node.pause(took).await) {
            return;
        }
    }
}

/// Takes every slot, which waits for all that runs and lets nothing else begin, then runs one suspect after the other.
async fn session(node: &Node, patience: Duration) -> Session {
    let everything = timeout(patience, node.slots.everything());
    let _everything = match node.stop.run_until_cancelled(everything).await {
        Some(Ok(everything)) => everything,
        Some(Err(_)) => return Session::NotAlone,
        None => return Session::Done,
    };
    let begun = Instant::now();
    while begun.elapsed() < LONGEST_SESSION && !node.stop.is_cancelled() {
        let claimed_at = Instant::now();
        match next(node).await {
            Ok(Some(claimed)) => {
                tracing::info!(prediction = %claimed.run.id, "runs alone");
                run::run(node, vec![claimed], claimed_at, None).await;
            }
            Ok(None) => return Session::Done,
            Err(Trouble::Away) => return Session::More,
            Err(Trouble::Refused) => return Session::Refused,
        }
    }
    Session::More
}

/// Claims the next suspect. One that the store refuses to give is not the other versions' fault.
async fn next(node: &Node) -> Result<Option<Claimed>, Trouble> {
    let claim = |versions| node.ask(node.store.claim_suspect(node.id, versions, node.config.lease));
    let versions = node.models.runnable();
    let claimed = claim(&versions).await;
    if !matches!(claimed, Err(Trouble::Refused)) {
        return claimed;
    }
    for version in versions.chunks(1) {
        match claim(version).await {
            Ok(None) | Err(Trouble::Refused) => {}
            other => return other,
        }
    }
    Err(Trouble::Refused)
}
