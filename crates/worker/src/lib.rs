//! Tickets in, results out: claims predictions, runs them, writes their outcomes, renews leases, sweeps, tops windows up.
//! And events out: [`deliver`] sends the webhooks that tell of them.
//!
//! One [`run`] is one worker. Its parts share a `Node` and meet in three places: `slots` bound what of each version runs or is next to run,
//! `held` says what is held, and the outcome writer combines what ends at the same time. Nothing here decides what is true: a
//! lease, an outcome or an end counts once the store has said so, and every write is fenced by the run's epoch.

mod backoff;
mod cancel;
mod claim;
mod complete;
mod consume;
mod deliver;
mod dispatch;
mod drafts;
mod follow;
mod held;
mod node;
mod outage;
mod pace;
mod poll;
mod publish;
mod purge;
mod refused;
mod renew;
mod run;
mod slots;
mod sparingly;
mod stop;
mod suspects;
mod sweep;
mod take;
mod tell;

pub use deliver::{DeliveryConfig, deliver};

use std::{sync::Arc, time::Duration};

use futures::FutureExt as _;
use inference::Models;
use node::Node;
use queue::Queue;
use settings::run_beside;
use store::{Companion, Store, StoreError, Waiters};
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// How a worker works.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long a claim is held without being renewed.
    pub lease: Duration,
    /// The most predictions of one version that run or are next to run, when its model is fast: more than 64 only as far as they run
    /// within a moment. (What has run waits to be written apart from them.)
    pub slots: usize,
    /// How long a stopping worker lets runs finish before it hands them back.
    pub grace: Duration,
    /// Solo crashes after which a prediction fails as poison.
    pub max_crashes: u32,
    /// Whether to ask the store for work even while the queue is healthy (other nodes cannot reach an in-process queue).
    pub poll_store: bool,
    /// How long idempotency keys are kept.
    pub keys_for: Duration,
    /// For people: the host's name.
    pub host: String,
    /// Told when the directories of models shall be looked at, and what is in them be trusted to be whole.
    pub look: Arc<Notify>,
}

/// Works until `stop`, then drains. `ready` is called once its models are published and it takes work, with what it gives an API in
/// the same process.
///
/// Dropping the future is like the death of the process: nothing more is written, and what was held waits for its lease to end.
///
/// # Errors
/// When the store refuses this worker at the start (its schema, its lock). A store that is away is waited for, then and later.
///
/// # Panics
/// When a part of the worker panicked.
pub async fn run(
    store: Store,
    queue: Queue,
    models: Models,
    config: Config,
    ready: impl FnOnce(Companion) + Send,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    let (outcomes, outcomes_in) = complete::channel();
    let (finished, finished_in) = tell::channel();
    let (tickets, tickets_in) = claim::channel();
    let waiters = Waiters::default();
    let node = Arc::new(Node::new(store.telling(&waiters), queue, models, config, outcomes, finished, stop));
    let _over = node.over.clone().drop_guard();

    if !publish::first(&node).await? {
        return Ok(());
    }
    let mut parts = JoinSet::new();
    {
        let node = Arc::clone(&node);
        parts.spawn_blocking(move || renew::renew(&node));
    }
    for _ in 0..complete::WRITERS {
        parts.spawn(complete::write_outcomes(Arc::clone(&node), Arc::clone(&outcomes_in)));
    }
    parts.spawn(tell::tell_finished(Arc::clone(&node), finished_in));
    parts.spawn(tell::tell_due(Arc::clone(&node)));
    parts.spawn(cancel::hear_cancels(Arc::clone(&node)));
    parts.spawn(drafts::send_drafts(Arc::clone(&node)));
    parts.spawn(publish::keep_published(Arc::clone(&node)));
    parts.spawn(pace::keep(Arc::clone(&node)));
    parts.spawn(sweep::sweep(Arc::clone(&node)));
    parts.spawn(purge::purge(Arc::clone(&node)));
    parts.spawn(dispatch::top_up(Arc::clone(&node)));
    parts.spawn(node.awaited(claim::claim_tickets(Arc::clone(&node), tickets_in)));
    parts.spawn(node.awaited(poll::poll(Arc::clone(&node))));
    parts.spawn(node.awaited(suspects::run_suspects(Arc::clone(&node))));
    parts.spawn(consume::consume(Arc::clone(&node), tickets));
    parts.spawn(follow::follow(Arc::clone(&node)));
    parts.spawn(run::end_when_broken(Arc::clone(&node)));
    parts.spawn(node.over.clone().run_until_cancelled_owned(node.queue.clone().watch()).map(drop));
    ready(Companion { taker: take::taker(&node), waiters });

    run_beside(&mut parts, &node.stop, node.stop.cancelled()).await;
    stop::drain(&node, parts).await;
    Ok(())
}
