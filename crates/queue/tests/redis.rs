//! What only Redis can do to the queue: lose everything, go away, hang, hold the tickets of the dead, and garbage.

#[path = "redis/bundles.rs"]
mod bundles;
#[path = "redis/kept.rs"]
mod kept;
mod support;

use futures::FutureExt;
use prediction::{PredictionId, Priority, StreamKey, Ticket};
use queue::{Config, Handled, Location, Notice, Queue, QueueError};
use redis::{AsyncTypedCommands, aio::MultiplexedConnection};
use servers::Redis;
use std::{collections::HashSet, time::Duration};
use support::{Consumer, PATIENCE, config, eventually, stream, tickets};
use tokio::sync::broadcast;

const SHORT_LEASE: Duration = Duration::from_millis(300);

async fn open(url: &str, namespace: &str, lease: Duration) -> Queue {
    open_with(url, namespace, Config { lease, ..config() }).await
}

async fn open_with(url: &str, namespace: &str, config: Config) -> Queue {
    let location = Location::Redis { url: url.to_owned(), namespace: namespace.to_owned() };
    Queue::open(&location, config).await.expect("a good URL")
}

async fn connect(url: &str) -> MultiplexedConnection {
    let client = redis::Client::open(url).expect("a good URL");
    client.get_multiplexed_async_connection().await.expect("Redis answers")
}

fn key(namespace: &str, stream: &StreamKey) -> String {
    format!("{namespace}:tickets:{stream}")
}

/// The names in the group, with how many entries each holds.
async fn consumers(connection: &mut MultiplexedConnection, key: &str) -> Vec<(String, usize)> {
    let reply = connection.xinfo_consumers(key, "workers").await.expect("the group is there");
    reply.consumers.into_iter().map(|consumer| (consumer.name, consumer.pending)).collect()
}

/// Starts a consumer whose handlers take their time.
fn start_slow(queue: &Queue, stream: &StreamKey, time: Duration) -> Consumer {
    let handle = move |_| tokio::time::sleep(time).map(|()| Handled::Done).boxed();
    Consumer::start(queue, std::slice::from_ref(stream), 2, handle)
}

/// Pushes one ticket until it is handed out.
async fn pushed_is_consumed(queue: &Queue, consumer: &mut Consumer, stream: &StreamKey) {
    let ticket = tickets(stream, 1);
    eventually("a ticket is queued", || async { queue.push(ticket.clone()).await.is_empty() }).await;
    while consumer.next().await != ticket[0] {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_sees_nothing_of_another() {
    let (url, namespace) = servers::redis().await;
    let (_, other_namespace) = servers::redis().await;
    let (queue, other) = (open(&url, &namespace, SHORT_LEASE).await, open(&url, &other_namespace, SHORT_LEASE).await);
    let stream = stream(Priority::Normal);
    let mut listener = other.listen();
    assert!(queue.push(tickets(&stream, 3)).await.is_empty());
    queue.tell(Notice::Finished([PredictionId::generate()].into())).await;
    assert_eq!(other.depth(&stream).await.expect("it answers").undelivered, 0);
    pushed_is_consumed(&other, &mut Consumer::done(&other, std::slice::from_ref(&stream), 1), &stream).await;
    assert_eq!(queue.depth(&stream).await.expect("it answers").undelivered, 3);
    let own = Notice::Canceled([PredictionId::generate()].into());
    open(&url, &other_namespace, SHORT_LEASE).await.tell(own.clone()).await;
    assert_eq!(tokio::time::timeout(PATIENCE, listener.recv()).await.expect("told"), Ok(own));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_is_noticed_and_survived() {
    let server = Redis::start().await;
    let queue = open(&server.url(), "augur", Config::default().lease).await;
    let stream = stream(Priority::Normal);
    let mut consumer = Consumer::done(&queue, std::slice::from_ref(&stream), 4);
    let mut generations = HashSet::new();
    for _ in 0..3 {
        pushed_is_consumed(&queue, &mut consumer, &stream).await;
        let generation = queue.depth(&stream).await.expect("it answers").generation;
        assert!(generations.insert(generation), "a flush renews the generation");
        server.flush_all().await;
    }
    // While tickets are held, and with a group that is recreated by whoever comes first.
    let mut stuck = Consumer::stuck(&queue, std::slice::from_ref(&stream), 1);
    eventually("a ticket is stuck", || async {
        queue.push(tickets(&stream, 1)).await;
        !stuck.handed.is_empty()
    })
    .await;
    server.flush_all().await;
    pushed_is_consumed(&queue, &mut consumer, &stream).await;
    assert!(generations.insert(queue.depth(&stream).await.expect("it answers").generation));
    stuck.handed.close();
    stuck.task.abort();
    consumer.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evicted_stream_gets_a_new_generation() {
    let (url, namespace) = servers::redis().await;
    let queue = open(&url, &namespace, Config::default().lease).await;
    let stream = stream(Priority::Low);
    assert!(queue.push(tickets(&stream, 3)).await.is_empty());
    let before = queue.depth(&stream).await.expect("it answers");
    assert_eq!(connect(&url).await.del(key(&namespace, &stream)).await, Ok(1));
    // The reader, not a push, makes the stream again.
    let consumer = Consumer::done(&queue, std::slice::from_ref(&stream), 1);
    let mut connection = connect(&url).await;
    let key = key(&namespace, &stream);
    eventually("the stream is back", || {
        let (mut connection, key) = (connection.clone(), key.clone());
        async move { connection.exists(key).await == Ok(true) }
    })
    .await;
    let after = queue.depth(&stream).await.expect("it answers");
    assert_eq!(after.undelivered, 0);
    assert_ne!(after.generation, before.generation);
    consumer.finish().await;
    assert_eq!(consumers(&mut connection, &key).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_pushes_are_refused_until_it_is_back() {
    let mut server = Redis::start().await;
    let (queue, other) =
        (open(&server.url(), "augur", SHORT_LEASE).await, open(&server.url(), "augur", SHORT_LEASE).await);
    let stream = stream(Priority::Normal);
    let mut consumer = Consumer::done(&queue, std::slice::from_ref(&stream), 4);
    // It finishes its ticket while Redis is away.
    let mut slow = start_slow(&queue, &self::stream(Priority::High), Duration::from_secs(1));
    assert!(queue.push(tickets(&self::stream(Priority::High), 1)).await.is_empty());
    slow.next().await;
    pushed_is_consumed(&queue, &mut consumer, &stream).await;
    assert!(queue.is_healthy());

    server.stop().await;
    let refused = tickets(&stream, 3);
    eventually("the outage is noticed", || async {
        queue.push(refused.clone()).await;
        !queue.is_healthy()
    })
    .await;
    assert!(!queue.has_room(&stream));
    let refusals = async {
        for _ in 0..10_000 {
            assert_eq!(queue.push(refused.clone()).await, refused);
        }
    };
    tokio::time::timeout(PATIENCE, refusals).await.expect("no refusal waits for Redis");
    assert!(matches!(queue.depth(&stream).await, Err(QueueError::Unavailable(_))));
    queue.tell(Notice::Finished([PredictionId::generate()].into())).await;

    server.start_again().await;
    pushed_is_consumed(&queue, &mut consumer, &stream).await;
    assert!(queue.is_healthy());
    let mut listener = other.listen();
    hears_again(&queue, &mut listener).await;
    consumer.finish().await;
    slow.finish().await;
}

/// Tells until the listener hears of it.
async fn hears_again(teller: &Queue, listener: &mut broadcast::Receiver<Notice>) {
    let notice = Notice::Canceled([PredictionId::generate()].into());
    let heard = async {
        loop {
            teller.tell(notice.clone()).await;
            match tokio::time::timeout(Duration::from_millis(100), listener.recv()).await {
                Ok(heard) if heard.as_ref() == Ok(&notice) => return,
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, heard).await.expect("notices come again");
}

#[tokio::test(flavor = "multi_thread")]
async fn opened_without_redis_it_works_once_there_is_one() {
    let mut server = Redis::start().await;
    server.stop().await;
    let queue = open(&server.url(), "augur", SHORT_LEASE).await;
    let stream = stream(Priority::Normal);
    assert!(!queue.is_healthy());
    let refused = tickets(&stream, 2);
    assert_eq!(queue.push(refused.clone()).await, refused);
    // A consumer that stops before there is a Redis ends all the same.
    Consumer::done(&queue, std::slice::from_ref(&stream), 2).finish().await;
    let mut consumer = Consumer::done(&queue, std::slice::from_ref(&stream), 2);
    server.start_again().await;
    pushed_is_consumed(&queue, &mut consumer, &stream).await;
    consumer.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_waits_for_a_hung_redis() {
    let server = Redis::start().await;
    let queue = open_with(&server.url(), "augur", Config::default()).await;
    let stream = stream(Priority::Normal);
    let mut consumer = Consumer::done(&queue, std::slice::from_ref(&stream), 4);
    let mut stuck = Consumer::stuck(&queue, std::slice::from_ref(&self::stream(Priority::High)), 4);
    let held = tickets(&self::stream(Priority::High), 2);
    eventually("tickets are queued", || async { queue.push(held.clone()).await.is_empty() }).await;
    stuck.take(2).await;
    pushed_is_consumed(&queue, &mut consumer, &stream).await;

    server.pause();
    let refused = tickets(&stream, 3);
    let bounded = async {
        assert_eq!(queue.push(refused.clone()).await, refused);
        assert!(queue.depth(&stream).await.is_err());
        queue.tell(Notice::Finished([PredictionId::generate()].into())).await;
        Consumer::done(&queue, std::slice::from_ref(&stream), 4).finish().await;
        // Opening waits for one attempt.
        assert!(!open_with(&server.url(), "augur", Config::default()).await.is_healthy());
    };
    tokio::time::timeout(PATIENCE, bounded).await.expect("every call ends although Redis hangs");
    assert!(!queue.is_healthy());

    server.resume();
    pushed_is_consumed(&queue, &mut consumer, &stream).await;
    consumer.finish().await;
    stuck.task.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_queue_notices_a_hung_redis() {
    let server = Redis::start().await;
    let queue = open_with(&server.url(), "augur", Config::default()).await;
    eventually("it is healthy", || async { queue.is_healthy() }).await;
    server.pause();
    eventually("it is unhealthy", || async { !queue.is_healthy() }).await;
    server.resume();
    eventually("it is healthy", || async { queue.is_healthy() }).await;
}

async fn limit_memory(connection: &mut MultiplexedConnection, bytes: u64) {
    redis::cmd("CONFIG").arg(&["SET", "maxmemory"]).arg(bytes).exec_async(connection).await.expect("it answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_redis_is_unhealthy() {
    let server = Redis::start().await;
    let queue = open(&server.url(), "augur", SHORT_LEASE).await;
    let mut connection = connect(&server.url()).await;
    limit_memory(&mut connection, 1).await;
    eventually("it is unhealthy", || async { !queue.is_healthy() }).await;
    let refused = tickets(&stream(Priority::Normal), 1);
    assert_eq!(queue.push(refused.clone()).await, refused);
    limit_memory(&mut connection, 0).await;
    eventually("it is healthy", || async { queue.is_healthy() }).await;
    assert_eq!(queue.push(refused).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_of_a_lost_reply_are_found_again() {
    let server = Redis::start().await;
    let queue = open(&server.url(), "augur", Duration::from_secs(3600)).await;
    let stream = stream(Priority::Normal);
    let key = key("augur", &stream);
    let (mut consumer, gate) = Consumer::gated(&queue, std::slice::from_ref(&stream), 1);
    let pushed = tickets(&stream, 2);
    assert!(queue.push(pushed.clone()).await.is_empty());
    assert_eq!(consumer.next().await, pushed[0]);
    // While it has no slot free, somebody else reads in its name.
    let mut connection = connect(&server.url()).await;
    let name = consumers(&mut connection, &key).await.remove(0).0;
    let options = redis::streams::StreamReadOptions::default().group("workers", name);
    let read = connection.xread_options(&[&key], &[">"], &options).await.expect("it answers");
    assert_eq!(read.map(|read| read.keys[0].ids.len()), Some(1));
    redis::cmd("CLIENT")
        .arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"])
        .exec_async(&mut connection)
        .await
        .expect("it answers");
    gate.add_permits(10);
    // The first may come again: its reader may ask for what it holds before Redis knows that it is finished.
    while consumer.next().await != pushed[1] {}
    assert!(!consumer.finish().await.contains(&pushed[1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tickets_of_the_dead_go_to_others_and_their_names_go() {
    let (url, namespace) = servers::redis().await;
    let queue = open(&url, &namespace, SHORT_LEASE).await;
    let stream = stream(Priority::Normal);
    let key = key(&namespace, &stream);
    let pushed = tickets(&stream, 9);
    assert!(queue.push(pushed.clone()).await.is_empty());
    let mut connection = connect(&url).await;
    // One that died with its machine,
    let options = redis::streams::StreamReadOptions::default().group("workers", "dead").count(3);
    let read = connection.xread_options(&[&key], &[">"], &options).await.expect("it answers");
    assert_eq!(read.map(|read| read.keys[0].ids.len()), Some(3));
    // and one that was dropped without being stopped.
    let mut dropped = Consumer::stuck(&queue, std::slice::from_ref(&stream), 3);
    dropped.take(3).await;
    dropped.task.abort();

    let mut heir = Consumer::done(&queue, std::slice::from_ref(&stream), 4);
    // On a busy machine its own may be silent for so long that they come to it again.
    let mut handed: HashSet<Ticket> = HashSet::new();
    while handed.len() < pushed.len() {
        handed.insert(heir.next().await);
    }
    assert_eq!(handed, pushed.into_iter().collect());
    eventually("only the living one has a name", || {
        let (mut connection, key) = (connection.clone(), key.clone());
        async move {
            let consumers = consumers(&mut connection, &key).await;
            consumers.len() == 1 && consumers[0].1 == 0
        }
    })
    .await;
    heir.finish().await;
    assert_eq!(consumers(&mut connection, &key).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_living_consumer_keeps_its_tickets_past_the_lease() {
    let (url, namespace) = servers::redis().await;
    // Longer than this process is ever kept from renewing it.
    let lease = Duration::from_secs(4);
    let queue = open(&url, &namespace, lease).await;
    let stream = stream(Priority::Normal);
    let mut slow = start_slow(&queue, &stream, lease * 3 / 2);
    assert!(queue.push(tickets(&stream, 2)).await.is_empty());
    slow.take(2).await;
    let idle = Consumer::done(&queue, std::slice::from_ref(&stream), 2);
    eventually("the slow one is done", || async {
        let depth = queue.depth(&stream).await.expect("it answers");
        depth.undelivered + depth.delivered == 0
    })
    .await;
    assert_eq!(idle.finish().await, []);
    assert_eq!(slow.finish().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_dropped() {
    let (url, namespace) = servers::redis().await;
    let queue = open(&url, &namespace, Config::default().lease).await;
    let stream = stream(Priority::Normal);
    let key = key(&namespace, &stream);
    let mut listener = queue.listen();
    let mut connection = connect(&url).await;
    queue.depth(&stream).await.expect("it answers");
    for fields in [
        vec![("id", "short")],
        vec![("id", "0123456789abcdef01234567")],
        vec![("id", "")],
        vec![("id", &"0123456789abcdef".repeat(17))],
        vec![("payload", "0123456789abcdef")],
        vec![("id", "0123456789abcdef"), ("x", "")],
    ] {
        connection.xadd(&key, "*", &fields).await.expect("it answers");
    }
    let mut consumer = Consumer::done(&queue, std::slice::from_ref(&stream), 1);
    pushed_is_consumed(&queue, &mut consumer, &stream).await;
    eventually("the garbage is gone", || {
        let (mut connection, key) = (connection.clone(), key.clone());
        async move { connection.xlen(key).await == Ok(0) }
    })
    .await;
    assert_eq!(consumer.finish().await, []);

    for message in ["", "f", "garbage", "f0123456789abcdef", "x0123456789abcdef0123456789abcdef"] {
        connection.publish(format!("{namespace}:notices"), message).await.expect("it answers");
    }
    let notice = Notice::Finished([PredictionId::generate()].into());
    open(&url, &namespace, SHORT_LEASE).await.tell(notice.clone()).await;
    assert_eq!(tokio::time::timeout(PATIENCE, listener.recv()).await.expect("told"), Ok(notice));
}
