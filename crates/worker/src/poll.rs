//! Asks the store for work: when the queue is away, when it cannot carry other nodes' tickets, and now and then in any
//! case: whatever has become of tickets, work and suspects are found.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt, future::select_all};
use prediction::PredictionId;

use crate::{
    backoff::Backoff,
    claim,
    node::Node,
    outage::Trouble,
    refused::Refused,
    slots::{Slots, Taken},
};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How often a worker with a healthy queue asks all the same.
const EVERY_WHILE_HEALTHY: Duration = Duration::from_secs(2);

/// Polls until the worker stops.
pub(crate) async fn poll(node: Arc<Node>) {
    let (mut backoff, mut refused) = (Backoff::new(FIRST_PAUSE, LONGEST_PAUSE), Refused::default());
    let mut asked_at = Instant::now();
    loop {
        let needed = node.config.poll_store || !node.queue.is_healthy();
        let mut found = Found::Nothing;
        if needed || asked_at.elapsed() >= EVERY_WHILE_HEALTHY {
            found = take(&node, &mut refused).await;
            asked_at = Instant::now();
        }
        if found != Found::Nothing {
            backoff.reset();
        }
        let pause = match found {
            Found::All if needed => Duration::ZERO,
            _ if needed => backoff.next(),
            _ => LONGEST_PAUSE,
        };
        if !node.pause(pause).await {
            return;
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    Nothing,
    Some,
    /// As much as was asked for: there may be more.
    All,
}

/// Takes as much as there are free slots; waits for one.
async fn take(node: &Arc<Node>, refused: &mut Refused<PredictionId>) -> Found {
    let runnable = node.models.runnable();
    node.slots.retain(&runnable).await;
    let mut each = node.slots.each().await;
    each.retain(|slots| runnable.contains(slots.version()));
    if each.is_empty() || node.stop.run_until_cancelled(any_is_free(&each)).await.is_none() {
        return Found::Nothing;
    }
    // Versions with as many free slots are asked for together.
    let mut alike: BTreeMap<usize, Vec<Arc<Slots>>> = BTreeMap::new();
    for slots in each {
        alike.entry(slots.permits().available_permits()).or_default().push(slots);
    }
    let mut found = Found::Nothing;
    let mut together: Vec<_> = alike.into_iter().collect();
    while let Some((free, slots)) = together.pop() {
        // Only now: a consumer may have found a use for them meanwhile.
        let taken: Vec<Taken> = slots.iter().filter_map(|slots| Arc::clone(slots).free(free)).collect();
        let asked = taken.iter().map(Taken::len).min().unwrap_or(0);
        let (limit, claimed_at) = (u32::try_from(asked).unwrap_or(u32::MAX), Instant::now());
        let versions: Vec<_> = taken.iter().map(|taken| taken.version().clone()).collect();
        let passed_over = refused.recent(claimed_at);
        let next = node.store.claim_next(node.id, &versions, &passed_over, limit, node.config.lease);
        let claim = match node.ask(next).await {
            Ok(claim) => claim,
            // Not even what waits can be read: that is not the other versions' fault.
            Err(Trouble::Refused) if slots.len() > 1 => {
                together.extend(slots.into_iter().map(|slots| (free, vec![slots])));
                continue;
            }
            Err(Trouble::Refused) => continue,
            Err(Trouble::Away) => return found,
        };
        if !claim.refused.is_empty() {
            // Others stand behind them, and have their turns now.
            found = Found::All;
            refused.note(claim.refused, Instant::now());
        }
        if !claim.suspects.is_empty() {
            node.suspects.notify_one();
        }
        found = found.max(match claim.claimed.len() {
            0 => Found::Nothing,
            some if some < asked => Found::Some,
            _ => Found::All,
        });
        claim::start(node, claim.claimed, claimed_at, &mut claim::by_version(taken));
    }
    found
}

/// Returns once one version has a free slot. Nobody's is held meanwhile.
async fn any_is_free(each: &[Arc<Slots>]) {
    drop(select_all(each.iter().map(|slots| slots.permits().acquire().boxed())).await);
}
