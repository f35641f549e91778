//! What is left in Redis: nothing of finished work, and streams only as long as somebody uses them.

use super::{connect, consumers, key, open};
use crate::support::{Consumer, eventually, stream, tickets};
use prediction::{Priority, StreamKey};
use queue::Config;
use redis::{AsyncTypedCommands, IntegerReplyOrNoOp, aio::MultiplexedConnection};
use std::collections::HashSet;

/// The longest that a stream is kept unused, in seconds, as documented.
const DAY: usize = 86_400;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_finished_work() {
    let (url, namespace) = servers::redis().await;
    let queue = open(&url, &namespace, Config::default().lease).await;
    let streams = Priority::ALL.map(stream);
    let mut first = Consumer::done(&queue, &streams, 8);
    let mut second = Consumer::done(&queue, &streams, 8);
    for stream in &streams {
        assert!(queue.push(tickets(stream, 500)).await.is_empty());
    }
    for _ in 0..1500 {
        tokio::select! {
            _ = first.next() => {}
            _ = second.next() => {}
        }
    }
    first.finish().await;
    second.finish().await;

    let mut connection = connect(&url).await;
    for stream in &streams {
        let key = key(&namespace, stream);
        assert_eq!(connection.xlen(&key).await.expect("it answers"), 0);
        assert_eq!(connection.xpending(&key, "workers").await.expect("it answers").count(), 0);
        assert_eq!(consumers(&mut connection, &key).await, []);
    }
    let mut keys: HashSet<String> =
        connection.keys(format!("{namespace}:*")).await.expect("it answers").into_iter().collect();
    // The queue tries with it whether Redis takes anything; it lives for a millisecond.
    keys.remove(&format!("{namespace}:probe"));
    // What was last wanted in one entry is believed for three leases.
    for stream in &streams {
        let bundle = format!("{namespace}:bundle:{stream}");
        let ttl = connection.ttl(&bundle).await.expect("it answers");
        assert!(matches!(ttl, IntegerReplyOrNoOp::IntegerReply(seconds) if seconds <= 30));
        assert!(keys.remove(&bundle));
    }
    let expected =
        streams.iter().flat_map(|stream| ["tickets", "generation"].map(|kind| format!("{namespace}:{kind}:{stream}")));
    assert_eq!(keys, expected.collect());
}

fn keys(namespace: &str, stream: &StreamKey) -> [String; 2] {
    [key(namespace, stream), format!("{namespace}:generation:{stream}")]
}

/// Whether both keys were kept anew: about to expire, or never to, they are not.
async fn are_kept(connection: &MultiplexedConnection, keys: &[String; 2]) -> bool {
    let mut kept = true;
    for key in keys {
        let ttl = connection.clone().ttl(key).await.expect("it answers");
        kept &= matches!(ttl, IntegerReplyOrNoOp::IntegerReply(seconds) if (DAY / 2..=DAY).contains(&seconds));
    }
    kept
}

/// As if almost a day had passed.
async fn age(connection: &mut MultiplexedConnection, keys: &[String; 2]) {
    for key in keys {
        assert_eq!(connection.expire(key, 1000).await, Ok(true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_expires_unless_it_is_pushed_to_or_taken_from() {
    let (url, namespace) = servers::redis().await;
    let queue = open(&url, &namespace, Config::default().lease).await;
    let (mut connection, stream) = (connect(&url).await, stream(Priority::Normal));
    let keys = keys(&namespace, &stream);
    for _ in 0..2 {
        assert!(queue.push(tickets(&stream, 2)).await.is_empty());
        assert!(are_kept(&connection, &keys).await);
        age(&mut connection, &keys).await;
        assert!(!are_kept(&connection, &keys).await);
    }
    let mut consumer = Consumer::done(&queue, std::slice::from_ref(&stream), 1);
    consumer.take(4).await;
    for _ in 0..2 {
        eventually("the consumer keeps the stream", || are_kept(&connection, &keys)).await;
        age(&mut connection, &keys).await;
    }
    consumer.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_stream_is_a_new_generation() {
    let (url, namespace) = servers::redis().await;
    let queue = open(&url, &namespace, Config::default().lease).await;
    let (mut connection, stream) = (connect(&url).await, stream(Priority::Normal));
    let keys = keys(&namespace, &stream);
    assert!(queue.push(tickets(&stream, 3)).await.is_empty());
    let before = queue.depth(&stream).await.expect("it answers");
    for key in &keys {
        assert_eq!(connection.pexpire(key, 1).await, Ok(true));
    }
    eventually("both are gone", || {
        let (mut connection, keys) = (connection.clone(), keys.clone());
        async move { connection.exists(&keys[..]).await == Ok(false) }
    })
    .await;
    // The consumer makes it again, and what it makes expires as well.
    let mut consumer = Consumer::done(&queue, std::slice::from_ref(&stream), 1);
    eventually("the stream is back", || are_kept(&connection, &keys)).await;
    let after = queue.depth(&stream).await.expect("it answers");
    assert_eq!(after.undelivered + after.delivered, 0);
    assert_ne!(after.generation, before.generation);
    let pushed = tickets(&stream, 1);
    assert!(queue.push(pushed.clone()).await.is_empty());
    assert_eq!(consumer.next().await, pushed[0]);
    consumer.finish().await;
}
