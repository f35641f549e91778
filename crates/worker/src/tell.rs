//! Tells those who wait that predictions are finished, and senders that deliveries are due, beside the writers and not in
//! their way: a hung Redis delays only this.

use std::sync::Arc;

use prediction::PredictionId;
use queue::Notice;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use crate::node::Node;

/// The most notices made one.
const MAX_MERGED: usize = 256;

/// Where the ids of finished predictions are handed in.
pub(crate) struct Finished(UnboundedSender<Vec<PredictionId>>);

pub(crate) fn channel() -> (Finished, UnboundedReceiver<Vec<PredictionId>>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Finished(sender), receiver)
}

impl Finished {
    /// They became terminal.
    pub(crate) fn tell(&self, ids: Vec<PredictionId>) {
        if !ids.is_empty() {
            // Nobody is told after the end; whoever waits asks the store as well.
            let _ = self.0.send(ids);
        }
    }
}

/// Passes on what is handed in, merged while the queue is slow, until the worker is over and nothing is left.
pub(crate) async fn tell_finished(node: Arc<Node>, mut finished: UnboundedReceiver<Vec<PredictionId>>) {
    let mut ids = Vec::new();
    loop {
        tokio::select! {
            biased;
            _ = finished.recv_many(&mut ids, MAX_MERGED) => {}
            () = node.over.cancelled() => return,
        }
        node.queue.tell(Notice::Finished(ids.drain(..).flatten().collect())).await;
    }
}

/// Passes on that deliveries are due, once for all that became so while the queue was slow, until the worker is over.
pub(crate) async fn tell_due(node: Arc<Node>) {
    loop {
        tokio::select! {
            biased;
            () = node.due.notified() => node.queue.tell(Notice::DeliveriesDue).await,
            () = node.over.cancelled() => return,
        }
    }
}
