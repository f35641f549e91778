//! Entries of several tickets, where those who take them have room for many.

use super::{SHORT_LEASE, connect, key, open, open_with};
use crate::support::{Consumer, PATIENCE, config, eventually, stream, tickets};
use futures::FutureExt;
use prediction::{Priority, StreamKey, Ticket};
use queue::{Config, Depth, Handled, Queue};
use redis::{AsyncTypedCommands, IntegerReplyOrNoOp, aio::MultiplexedConnection};
use std::{collections::HashSet, time::Duration};

/// Consumers with so many slots want entries of four tickets, and of sixteen.
const FOR_FOUR: u32 = 112;
const FOR_SIXTEEN: u32 = 256;

fn bundle(namespace: &str, stream: &StreamKey) -> String {
    format!("{namespace}:bundle:{stream}")
}

/// How many tickets those who push put into an entry.
async fn wanted(mut connection: MultiplexedConnection, bundle: &str) -> Option<usize> {
    let said = connection.get(bundle).await.ok()??;
    said.split(' ').next()?.parse().ok()
}

/// A stream that a consumer with so many slots was at and has left, and a connection to its Redis.
async fn left_by(slots: u32) -> (Queue, StreamKey, MultiplexedConnection, String) {
    let (url, namespace) = servers::redis().await;
    // What it wants is believed for three times as long.
    let queue = open(&url, &namespace, PATIENCE).await;
    let (stream, connection) = (stream(Priority::Normal), connect(&url).await);
    let consumer = Consumer::done(&queue, std::slice::from_ref(&stream), slots);
    let bundle = bundle(&namespace, &stream);
    eventually("it says what it wants", || async { wanted(connection.clone(), &bundle).await.is_some() }).await;
    consumer.finish().await;
    let key = key(&namespace, &stream);
    (queue, stream, connection, key)
}

async fn depth(queue: &Queue, stream: &StreamKey) -> (usize, usize) {
    let Depth { undelivered, delivered, .. } = queue.depth(stream).await.expect("it answers");
    (undelivered, delivered)
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_for_many_slots_share_entries_and_keep_their_order() {
    let (queue, stream, mut connection, key) = left_by(FOR_FOUR).await;
    let pushed = tickets(&stream, 10);
    assert_eq!(queue.push(pushed[..9].to_vec()).await, []);
    assert_eq!(queue.push(pushed[9..].to_vec()).await, []);
    // Four, four, one and one.
    assert_eq!(connection.xlen(&key).await, Ok(4));
    let mut consumer = Consumer::done(&queue, std::slice::from_ref(&stream), FOR_FOUR);
    assert_eq!(consumer.take(10).await, pushed);
    eventually("nothing is left", || async { depth(&queue, &stream).await == (0, 0) }).await;
    assert_eq!(consumer.finish().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_is_of_entries() {
    let (url, namespace) = servers::redis().await;
    let (stream, connection) = (stream(Priority::Normal), connect(&url).await);
    let queue = open_with(&url, &namespace, Config { window: 2, lease: PATIENCE, ..config() }).await;
    let consumer = Consumer::done(&queue, std::slice::from_ref(&stream), 100);
    let bundle = bundle(&namespace, &stream);
    eventually("it says what it wants", || async { wanted(connection.clone(), &bundle).await == Some(3) }).await;
    consumer.finish().await;
    let pushed = tickets(&stream, 8);
    assert_eq!(queue.push(pushed.clone()).await, pushed[6..]);
    assert_eq!(depth(&queue, &stream).await, (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_is_settled_once_all_its_tickets_are() {
    let (queue, stream, ..) = left_by(FOR_FOUR).await;
    let pushed = tickets(&stream, 4);
    assert_eq!(queue.push(pushed.clone()).await, []);
    // One slot: the tickets of the entry come one after the other.
    let (mut consumer, gate) = Consumer::gated(&queue, std::slice::from_ref(&stream), 1);
    for ticket in &pushed {
        assert_eq!(consumer.next().await, *ticket);
        assert_eq!(depth(&queue, &stream).await, (0, 1));
        gate.add_permits(1);
    }
    eventually("nothing is left", || async { depth(&queue, &stream).await == (0, 0) }).await;
    assert_eq!(consumer.finish().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_which_one_ticket_is_returned_goes_to_another() {
    let (queue, stream, ..) = left_by(FOR_FOUR).await;
    let pushed = tickets(&stream, 4);
    assert_eq!(queue.push(pushed.clone()).await, []);
    let second = pushed[1].clone();
    let handle = move |ticket: Ticket| {
        let handled = if ticket == second { Handled::Returned } else { Handled::Done };
        async move { handled }.boxed()
    };
    let mut first = Consumer::start(&queue, std::slice::from_ref(&stream), 1, handle);
    assert_eq!(first.take(4).await, pushed);
    first.stop.cancel();
    // It may have come back to the first one before that stopped.
    let mut other = Consumer::done(&queue, std::slice::from_ref(&stream), FOR_FOUR);
    assert_eq!(other.take(4).await, pushed);
    first.finish().await;
    other.finish().await;
    assert_eq!(depth(&queue, &stream).await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_returns_the_rest_of_an_entry() {
    let (queue, stream, ..) = left_by(FOR_FOUR).await;
    let pushed = tickets(&stream, 4);
    assert_eq!(queue.push(pushed.clone()).await, []);
    let (mut first, gate) = Consumer::gated(&queue, std::slice::from_ref(&stream), 1);
    assert_eq!(first.next().await, pushed[0]);
    first.stop.cancel();
    gate.add_permits(10);
    assert_eq!(first.finish().await, []);
    let mut other = Consumer::done(&queue, std::slice::from_ref(&stream), FOR_FOUR);
    assert_eq!(other.take(4).await, pushed);
    other.finish().await;
    assert_eq!(depth(&queue, &stream).await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_few_slots_takes_little_of_what_was_meant_for_many() {
    let (queue, stream, ..) = left_by(FOR_SIXTEEN).await;
    let pushed = tickets(&stream, 256);
    assert_eq!(queue.push(pushed.clone()).await, []);
    let mut few = Consumer::stuck(&queue, std::slice::from_ref(&stream), 20);
    few.take(20).await;
    // It has an entry that fits, and what is left of one that does not.
    let mut many = Consumer::done(&queue, std::slice::from_ref(&stream), FOR_SIXTEEN);
    assert_eq!(many.take(256 - 32).await, pushed[32..]);
    few.task.abort();
    many.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_many_slots_takes_many_entries_of_one_ticket() {
    let (url, namespace) = servers::redis().await;
    let queue = open(&url, &namespace, PATIENCE).await;
    let stream = stream(Priority::Normal);
    let pushed = tickets(&stream, 256);
    assert_eq!(queue.push(pushed.clone()).await, []);
    assert_eq!(depth(&queue, &stream).await, (256, 0));
    let mut consumer = Consumer::stuck(&queue, std::slice::from_ref(&stream), FOR_SIXTEEN);
    assert_eq!(consumer.take(256).await, pushed);
    consumer.task.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_entries_of_the_dead_go_to_others() {
    let (url, namespace) = servers::redis().await;
    let queue = open(&url, &namespace, SHORT_LEASE).await;
    let stream = stream(Priority::Normal);
    let connection = connect(&url).await;
    let mut dead = Consumer::stuck(&queue, std::slice::from_ref(&stream), FOR_SIXTEEN);
    let bundle = bundle(&namespace, &stream);
    eventually("it says what it wants", || async { wanted(connection.clone(), &bundle).await == Some(16) }).await;
    let pushed = tickets(&stream, 100);
    assert_eq!(queue.push(pushed.clone()).await, []);
    assert_eq!(dead.take(100).await, pushed);
    dead.task.abort();
    let mut heir = Consumer::done(&queue, std::slice::from_ref(&stream), 20);
    let mut handed = HashSet::new();
    while handed.len() < pushed.len() {
        handed.insert(heir.next().await);
    }
    assert_eq!(handed, pushed.into_iter().collect());
    heir.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_one_with_the_fewest_slots_is_believed_while_it_is_there() {
    let (url, namespace) = servers::redis().await;
    // Each says every three seconds what it wants.
    let lease = Duration::from_secs(9);
    let queue = open(&url, &namespace, lease).await;
    let stream = stream(Priority::Normal);
    let mut connection = connect(&url).await;
    let bundle = bundle(&namespace, &stream);
    let consumer = |slots| Consumer::done(&queue, std::slice::from_ref(&stream), slots);
    let asking = connection.clone();
    let wants = async |most| {
        eventually("it is what is wanted", || async { wanted(asking.clone(), &bundle).await == Some(most) }).await;
    };
    let most = consumer(1000);
    wants(16).await;
    let mut fewest = Consumer::stuck(&queue, std::slice::from_ref(&stream), 1);
    wants(1).await;
    while fewest.handed.is_empty() {
        queue.push(tickets(&stream, 1)).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Without a free slot it goes on saying so, and the other one says nothing to it.
    let said = connection.get(&bundle).await;
    for _ in 0..3 {
        assert_eq!(connection.expire(&bundle, 1000).await, Ok(true));
        while matches!(connection.ttl(&bundle).await, Ok(IntegerReplyOrNoOp::IntegerReply(seconds)) if seconds > 100) {
            assert_eq!(connection.get(&bundle).await, said);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    fewest.handed.close();
    fewest.task.abort();
    // As if three leases had passed.
    connection.del(&bundle).await.expect("it answers");
    wants(16).await;
    most.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_wants_is_not_believed() {
    let (queue, stream, mut connection, key) = left_by(FOR_FOUR).await;
    let bundle = key.replace(":tickets:", ":bundle:");
    for said in ["", "0 x", "-1 x", "many x", "4"] {
        connection.set(&bundle, said).await.expect("it answers");
        let before = connection.xlen(&key).await.expect("it answers");
        assert_eq!(queue.push(tickets(&stream, 3)).await, []);
        assert_eq!(connection.xlen(&key).await, Ok(before + 3), "{said}");
    }
    connection.set(&bundle, "1000 x").await.expect("it answers");
    let before = connection.xlen(&key).await.expect("it answers");
    assert_eq!(queue.push(tickets(&stream, 33)).await, []);
    assert_eq!(connection.xlen(&key).await, Ok(before + 3), "an entry has sixteen at most");
    connection.del(&bundle).await.expect("it answers");
    connection.lpush(&bundle, "4 x").await.expect("it answers");
    assert_eq!(queue.push(tickets(&stream, 3)).await, []);
    let consumer = Consumer::done(&queue, std::slice::from_ref(&stream), FOR_FOUR);
    eventually("what it wants is believed", || async { wanted(connection.clone(), &bundle).await == Some(4) }).await;
    consumer.finish().await;
}
