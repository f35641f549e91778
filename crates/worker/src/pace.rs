//! Fits how many slots are in use to the pace of the models: a worker with a slow one does not hold what others could run, and one
//! with a fast one claims many at a time.

use std::{sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval};

use crate::node::Node;

/// How often the number is fitted to what has run since.
const EVERY: Duration = Duration::from_millis(50);

/// Fits the slots of every version, until the worker is over.
pub(crate) async fn keep(node: Arc<Node>) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while node.over.run_until_cancelled(ticks.tick()).await.is_some() {
        node.slots.fit().await;
    }
}
