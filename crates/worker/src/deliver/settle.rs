//! What became of deliveries is written by a combiner: attempts that end while the store answers form the next statement.

use std::sync::Arc;

use store::{Settled, Written};
use tokio::{
    sync::{
        OwnedSemaphorePermit,
        mpsc::{self, UnboundedReceiver, UnboundedSender},
    },
    time::sleep,
};

use super::sender::Sender;
use crate::{backoff::Backoff, outage::Trouble};

/// The most deliveries in one statement, each with up to 16 KiB of its answer.
const MAX_BATCH: usize = 256;

/// What is to be written of one delivery, and its slot, which is free once it is.
pub(super) struct Item {
    pub(super) settled: Settled,
    pub(super) _slot: OwnedSemaphorePermit,
}

/// Unbounded here, because each has a slot.
pub(super) fn channel() -> (UnboundedSender<Item>, UnboundedReceiver<Item>) {
    mpsc::unbounded_channel()
}

/// Writes until the sender is over.
pub(super) async fn settle(sender: Arc<Sender>, mut items: UnboundedReceiver<Item>) {
    let over = sender.over.clone();
    let settling = async {
        let mut batch = Vec::new();
        while items.recv_many(&mut batch, MAX_BATCH).await > 0 {
            let mut batches = vec![std::mem::take(&mut batch)];
            while let Some(batch) = batches.pop() {
                batches.extend(write(&sender, batch).await);
            }
        }
    };
    over.run_until_cancelled(settling).await;
}

/// Writes one batch, however long the store is away. A refused one comes back in halves, until the delivery that the store
/// refuses stands alone.
async fn write(sender: &Sender, mut batch: Vec<Item>) -> Vec<Vec<Item>> {
    let mut backoff = Backoff::for_store();
    let settled: Vec<_> = batch.iter().map(|item| item.settled.clone()).collect();
    loop {
        match sender.ask(sender.store.settle_deliveries(&settled)).await {
            Ok(written) => {
                let stale = settled.iter().zip(&written).filter(|(_, written)| **written == Written::Stale);
                for (settled, _) in stale {
                    tracing::debug!(delivery = %settled.sending.id, "its lease had ended: it is sent again");
                }
                return Vec::new();
            }
            Err(Trouble::Away) => sleep(backoff.next()).await,
            Err(Trouble::Refused) if batch.len() > 1 => {
                let rest = batch.split_off(batch.len() / 2);
                return vec![batch, rest];
            }
            Err(Trouble::Refused) => {
                tracing::error!(delivery = ?settled[0].sending, "what became of it cannot be stored; its lease will end");
                return Vec::new();
            }
        }
    }
}
