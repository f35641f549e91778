//! Tells Redis what became of tickets: many at once, and until it has heard.

use super::{
    connection::Backoff,
    consumer::{Consumer, Settled},
    link::Link,
    names::{GROUP, RETURNED, RETURNED_SILENCE},
};
use crate::Handled;
use redis::{Pipeline, Value};
use std::sync::Arc;
use tokio::sync::mpsc;

/// The most deliveries settled by one call.
const MOST_SETTLED: usize = 8;

/// Settles until nobody is left who could settle anything.
pub(crate) async fn settle(consumer: Arc<Consumer>, link: Arc<Link>, mut settled: mpsc::UnboundedReceiver<Settled>) {
    let mut batch = Vec::with_capacity(MOST_SETTLED);
    let mut backoff = Backoff::new();
    while settled.recv_many(&mut batch, MOST_SETTLED).await > 0 {
        let pipeline = pipeline(&consumer, &batch);
        while let Err(error) = link.query::<Value>(&pipeline).await {
            tracing::debug!(%error, count = batch.len(), "tickets not settled yet");
            backoff.wait().await;
            link.up().await;
        }
        backoff.reset();
        let mut held = consumer.held();
        for entry in batch.drain(..).flat_map(|settled| settled.entries) {
            held.remove(&entry);
        }
    }
}

/// One transaction: an entry acknowledged but not deleted would fill the window for ever. Errors of single commands
/// are ignored, since the one that happens is that stream or group, and with them the entries, are gone.
fn pipeline(consumer: &Consumer, batch: &[Settled]) -> Pipeline {
    let mut pipeline = redis::pipe();
    pipeline.atomic().ignore_errors();
    for (number, stream) in consumer.tickets().enumerate() {
        let ids = |handled| -> Vec<&str> {
            let settled =
                batch.iter().filter(|settled| settled.handled == handled).flat_map(|settled| &settled.entries);
            settled.filter(|entry| entry.stream == number).map(|entry| entry.id.as_str()).collect()
        };
        let done = ids(Handled::Done);
        if !done.is_empty() {
            pipeline.cmd("XACK").arg(stream).arg(GROUP).arg(&done).ignore();
            pipeline.cmd("XDEL").arg(stream).arg(&done).ignore();
        }
        let returned = ids(Handled::Returned);
        if !returned.is_empty() {
            let claim = pipeline.cmd("XCLAIM").arg(stream).arg(GROUP).arg(RETURNED).arg(0).arg(&returned);
            claim.arg("IDLE").arg(RETURNED_SILENCE).arg("JUSTID").ignore();
        }
    }
    pipeline
}
