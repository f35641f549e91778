//! Keeps leases: on a thread, a runtime and a connection of its own, so that neither inference at full load nor a full
//! connection pool ever loses one.

use std::time::{Duration, Instant};

use store::{Renewed, Store, renewed_for};
use tokio::time::sleep;

use crate::{node::Node, outage::Trouble};

/// The longest pause between renewals, so that a cancel that nobody told us of is noticed soon. Few of them extend a lease.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Renews until the worker is over; blocks its thread.
pub(crate) fn renew(node: &Node) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime of one thread needs only a few file descriptors");
    runtime.block_on(node.over.run_until_cancelled(renew_all(node)));
    // Not waited for: a look-up of the database's name may hang.
    runtime.shutdown_background();
}

/// Renews again and again.
async fn renew_all(node: &Node) {
    let lease = node.config.lease;
    let pause = (lease / 10).min(LONGEST_PAUSE);
    // A connection belongs to the runtime in which it was made; after any trouble the next one is new.
    let mut own: Option<Store> = None;
    loop {
        let store = match own.take() {
            Some(store) => store,
            None => match node.ask_within(lease / 3, node.store.dedicated()).await {
                Ok(store) => store,
                Err(_) => {
                    sleep(pause).await;
                    continue;
                }
            },
        };
        sleep(pause).await;
        if renew_once(node, &store).await.is_ok() {
            own = Some(store);
        }
    }
}

/// Renews everything held, in one statement unless the database refuses that.
pub(crate) async fn renew_once(node: &Node, store: &Store) -> Result<(), Trouble> {
    let lease = node.config.lease;
    let (asked_at, mut runs) = (Instant::now(), node.held.runs());
    if !runs.is_empty() {
        let Renewed { lost, not_tried } = node.ask_within(lease / 3, store.renew(node.id, &runs, lease)).await?;
        if !not_tried.is_empty() {
            runs.retain(|run| !not_tried.contains(&run.id));
        }
        node.held.renew(&runs, &lost, asked_at, asked_at + renewed_for(lease));
    }
    Ok(())
}
