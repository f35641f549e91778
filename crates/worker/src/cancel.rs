//! Hears of cancels, so that a running prediction's slot is free at once; what is missed here the next renewal finds.

use std::sync::Arc;

use queue::Notice;
use tokio::sync::broadcast::error::RecvError;

use crate::node::Node;

/// Listens until the worker is over or the queue has nothing to tell.
pub(crate) async fn hear_cancels(node: Arc<Node>) {
    let mut notices = node.queue.listen();
    while let Some(notice) = node.over.run_until_cancelled(notices.recv()).await {
        match notice {
            Ok(Notice::Canceled(ids)) => node.held.give_up(&ids),
            Ok(Notice::Finished(_) | Notice::DeliveriesDue | Notice::Asked(_)) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}
