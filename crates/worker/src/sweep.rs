//! Ends what is over, each second: expired leases go back to waiting, passed deadlines are canceled. The dispatcher does so, and any
//! worker that knows of none; those that know of another look after it less often.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use store::Sweep;
use tokio::time::sleep;

use crate::{node::Node, outage::Trouble, renew};

const EVERY: Duration = Duration::from_secs(1);
const EVERY_WHILE_ANOTHER: Duration = Duration::from_secs(4);
/// The most predictions of each kind in one statement.
const LIMIT: u32 = 500;

/// Sweeps until the worker is over: as long as it drains, it may be the dispatcher. While the store was away nobody could renew: once it is back, everybody has one lease's
/// time to do so before anything is taken away.
pub(crate) async fn sweep(node: Arc<Node>) {
    let mut away_at: Option<Instant> = None;
    let pause = || sleep(if node.another_leads.load(Ordering::Relaxed) { EVERY_WHILE_ANOTHER } else { EVERY });
    while node.over.run_until_cancelled(pause()).await.is_some() {
        let mut more = true;
        while more {
            let leases = away_at.is_none_or(|at| at.elapsed() >= node.config.lease);
            more = sweep_once(&node, leases).await.unwrap_or_else(|trouble| {
                if trouble == Trouble::Away {
                    away_at = Some(Instant::now());
                }
                false
            });
        }
    }
}

/// Whether there may be more.
async fn sweep_once(node: &Node, leases: bool) -> Result<bool, Trouble> {
    if !node.store.is_shared() {
        // Nobody else can have lost these leases: the machine slept, or its clock was set.
        renew::renew_once(node, &node.store).await?;
    }
    let sweep = Sweep { lease: node.config.lease, max_crashes: node.config.max_crashes, limit: LIMIT, leases };
    let swept = node.ask(node.store.sweep(sweep)).await?;
    let full = |ids: &[_]| ids.len() >= LIMIT as usize;
    let more = full(&swept.requeued) || full(&swept.ended);
    if !swept.requeued.is_empty() {
        tracing::warn!(predictions = swept.requeued.len(), "leases ended: to be run again, alone");
        node.suspects.notify_one();
    }
    if !swept.ended.is_empty() {
        node.due.notify_one();
    }
    node.finished.tell(swept.ended);
    Ok(more && !node.over.is_cancelled())
}
