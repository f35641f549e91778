//! Fits how many slots are in use to the pace of the models: a worker with a slow one does not hold what others could run, and one
//! with a fast one claims many at a time.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::node::Node;

/// How often the number is fitted to what has run since.
const EVERY: Duration = Duration::from_millis(50);

/// Fits the slots of every version whenever something runs, until the worker is over.
pub(crate) async fn keep(node: Arc<Node>) {
    let fit = async {
        loop {
            node.slots.unfit().await;
            sleep(EVERY).await;
            node.slots.fit().await;
        }
    };
    node.over.run_until_cancelled(fit).await;
}
