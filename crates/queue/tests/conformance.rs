//! What every queue does, Redis's and the one in the process.

mod support;

use futures::FutureExt;
use prediction::{PredictionId, Priority, Ticket};
use queue::{Config, Handled, Location, Notice, Queue, QueueError, Room};
use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use support::{Consumer, PATIENCE, config, eventually, stream, tickets};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Two handles on one queue: of two processes where it can be shared, else clones.
struct Handles {
    first: Queue,
    second: Queue,
}

async fn redis(window: usize) -> Handles {
    let config = Config { window, ..config() };
    let (url, namespace) = servers::redis().await;
    let location = Location::Redis { url, namespace };
    let first = Queue::open(&location, config).await.expect("a good URL");
    let second = Queue::open(&location, config).await.expect("a good URL");
    Handles { first, second }
}

async fn in_process(window: usize) -> Handles {
    let config = Config { window, ..config() };
    let first = Queue::open(&Location::InProcess, config).await.expect("nothing to fail");
    Handles { second: first.clone(), first }
}

macro_rules! conformance {
    ($($name:ident, window $window:literal;)+) => {
        mod redis_streams {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(super::redis($window).await).await;
            })+
        }
        mod in_process_streams {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(super::in_process($window).await).await;
            })+
        }
    };
}

conformance! {
    tickets_come_in_order, window 10_000;
    earlier_streams_go_first, window 10_000;
    a_stream_is_full_at_its_window, window 5;
    one_full_stream_leaves_room_in_another, window 2;
    several_consumers_handle_every_ticket_once, window 10_000;
    a_returned_ticket_goes_to_another, window 10_000;
    returned_tickets_go_before_new_ones, window 10_000;
    slots_bound_what_runs, window 10_000;
    a_panicking_handler_harms_no_other, window 10_000;
    stop_waits_for_handlers_and_returns_the_rest, window 10_000;
    stopped_before_it_started_it_ends, window 10_000;
    depth_counts_tickets, window 10_000;
    notices_reach_listeners_once, window 10_000;
}

async fn tickets_come_in_order(Handles { first, second }: Handles) {
    let stream = stream(Priority::Normal);
    let pushed = tickets(&stream, 300);
    assert!(first.push(pushed[..150].to_vec()).await.is_empty());
    let mut consumer = Consumer::done(&second, &[stream], 1);
    assert!(first.push(pushed[150..].to_vec()).await.is_empty());
    assert_eq!(consumer.take(300).await, pushed);
    assert_eq!(consumer.finish().await, []);
}

async fn earlier_streams_go_first(Handles { first, second }: Handles) {
    let streams = Priority::ALL.map(stream);
    let [high, normal, low] = streams.each_ref().map(|stream| tickets(stream, 20));
    for pushed in [&low, &normal, &high] {
        assert!(first.push(pushed.clone()).await.is_empty());
    }
    let mut consumer = Consumer::done(&second, &streams, 1);
    assert_eq!(consumer.take(60).await, [high, normal, low].concat());
    consumer.finish().await;
}

async fn a_stream_is_full_at_its_window(Handles { first, .. }: Handles) {
    let stream = stream(Priority::Normal);
    assert!(first.has_room(&stream));
    let pushed = tickets(&stream, 8);
    assert_eq!(first.push(pushed.clone()).await, pushed[5..]);
    assert!(!first.has_room(&stream));
    assert_eq!(first.push(pushed[5..].to_vec()).await, pushed[5..]);
    assert_eq!(first.depth(&stream).await.expect("it answers").undelivered, 5);

    let mut consumer = Consumer::done(&first, std::slice::from_ref(&stream), 2);
    assert_eq!(consumer.take(5).await.len(), 5);
    eventually("the stream is empty", || async {
        let depth = first.depth(&stream).await.expect("it answers");
        depth.undelivered + depth.delivered == 0
    })
    .await;
    assert!(first.has_room(&stream));
    assert!(first.push(pushed[5..].to_vec()).await.is_empty());
    assert_eq!(consumer.take(3).await.len(), 3);
    consumer.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_queue_in_the_process_knows_that_nothing_waits() {
    let Handles { first: shared, .. } = redis(10).await;
    let Handles { first: queue, .. } = in_process(10).await;
    let streams = [stream(Priority::High), stream(Priority::Normal)];
    assert!(!shared.has_none(&streams) && queue.has_none(&streams));
    assert!(queue.push(tickets(&streams[1], 2)).await.is_empty());
    assert!(!queue.has_none(&streams));
    assert!(queue.has_none(&streams[..1]), "a stream that is not asked of does not count");
    let mut consumer = Consumer::stuck(&queue, &streams, 2);
    consumer.take(2).await;
    assert!(queue.has_none(&streams), "what somebody was handed waits no more");
}

async fn one_full_stream_leaves_room_in_another(Handles { first, .. }: Handles) {
    let (high, low) = (tickets(&stream(Priority::High), 3), tickets(&stream(Priority::Low), 2));
    let mixed = vec![high[0].clone(), low[0].clone(), high[1].clone(), high[2].clone(), low[1].clone()];
    assert_eq!(first.push(mixed).await, high[2..]);
    assert!(!first.has_room(&stream(Priority::High)) && first.has_room(&stream(Priority::Normal)));
}

async fn several_consumers_handle_every_ticket_once(Handles { first, second }: Handles) {
    let streams = Priority::ALL.map(stream);
    let handed: Vec<_> = [&first, &second, &first, &second]
        .map(|queue| {
            Consumer::start(queue, &streams, 7, |_| {
                async {
                    tokio::task::yield_now().await;
                    Handled::Done
                }
                .boxed()
            })
        })
        .into_iter()
        .collect();
    let pushed: Vec<Ticket> = streams.iter().flat_map(|stream| tickets(stream, 700)).collect();
    for some in pushed.chunks(97) {
        assert!(first.push(some.to_vec()).await.is_empty());
    }
    eventually("everything is handled", || async {
        let mut left = 0;
        for stream in &streams {
            let depth = second.depth(stream).await.expect("it answers");
            left += depth.undelivered + depth.delivered;
        }
        left == 0
    })
    .await;
    let mut all = Vec::new();
    for consumer in handed {
        all.extend(consumer.finish().await);
    }
    assert_eq!(all.len(), pushed.len());
    assert_eq!(all.into_iter().collect::<HashSet<_>>(), pushed.into_iter().collect());
}

async fn a_returned_ticket_goes_to_another(Handles { first, second }: Handles) {
    let stream = stream(Priority::Normal);
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    // As a worker does that stops: it looks at nothing any more.
    let mut leaver = Consumer::start(&first, std::slice::from_ref(&stream), 4, move |_| {
        stopping.cancel();
        async { Handled::Returned }.boxed()
    });
    let pushed = tickets(&stream, 1);
    assert!(first.push(pushed.clone()).await.is_empty());
    assert_eq!(leaver.next().await, pushed[0]);
    tokio::time::timeout(PATIENCE, stop.cancelled()).await.expect("it is returned");
    leaver.finish().await;
    let mut other = Consumer::done(&second, &[stream], 4);
    assert_eq!(other.next().await, pushed[0]);
    assert_eq!(other.finish().await, []);
}

async fn returned_tickets_go_before_new_ones(Handles { first, second }: Handles) {
    let stream = stream(Priority::Normal);
    let pushed = tickets(&stream, 50);
    assert!(first.push(pushed.clone()).await.is_empty());
    let leave = CancellationToken::new();
    let leaving = leave.clone();
    let mut leaver = Consumer::start(&first, std::slice::from_ref(&stream), 1, move |_| {
        leaving.clone().cancelled_owned().map(|()| Handled::Returned).boxed()
    });
    let returned = leaver.next().await;
    leaver.stop.cancel();
    leave.cancel();
    leaver.finish().await;
    let mut other = Consumer::done(&second, &[stream], 1);
    assert_eq!(other.next().await, returned);
    assert_eq!(other.take(49).await.len(), 49);
    assert_eq!(other.finish().await, []);
}

async fn slots_bound_what_runs(Handles { first, .. }: Handles) {
    let streams = Priority::ALL.map(stream);
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let gate = Arc::new(Semaphore::new(0));
    let (run, seen, closed) = (Arc::clone(&running), Arc::clone(&most), Arc::clone(&gate));
    let mut consumer = Consumer::start(&first, &streams, 3, move |_| {
        let (running, most, gate) = (Arc::clone(&run), Arc::clone(&seen), Arc::clone(&closed));
        async move {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            gate.acquire().await.expect("it stays open").forget();
            running.fetch_sub(1, Ordering::SeqCst);
            Handled::Done
        }
        .boxed()
    });
    for stream in &streams {
        assert!(first.push(tickets(stream, 10)).await.is_empty());
    }
    consumer.take(3).await;
    for _ in 0..27 {
        // One leaves, so one may come.
        gate.add_permits(1);
        consumer.next().await;
    }
    gate.add_permits(3);
    assert_eq!(most.load(Ordering::SeqCst), 3);
    consumer.finish().await;
}

async fn a_panicking_handler_harms_no_other(Handles { first, .. }: Handles) {
    let stream = stream(Priority::Normal);
    let pushed = tickets(&stream, 10);
    let bad = pushed[4].id;
    let mut consumer = Consumer::start(&first, std::slice::from_ref(&stream), 2, move |ticket| {
        async move {
            assert_ne!(ticket.id, bad, "this panic is the test's own");
            Handled::Done
        }
        .boxed()
    });
    assert!(first.push(pushed.clone()).await.is_empty());
    assert_eq!(consumer.take(10).await.into_iter().collect::<HashSet<_>>(), pushed.into_iter().collect());
    eventually("the stream is empty", || async {
        let depth = first.depth(&stream).await.expect("it answers");
        depth.undelivered + depth.delivered == 0
    })
    .await;
    assert_eq!(consumer.finish().await, []);
}

async fn stop_waits_for_handlers_and_returns_the_rest(Handles { first, second }: Handles) {
    let stream = stream(Priority::Normal);
    let pushed = tickets(&stream, 20);
    assert!(first.push(pushed.clone()).await.is_empty());
    let (mut consumer, gate) = Consumer::gated(&first, std::slice::from_ref(&stream), 4);
    let running = consumer.take(4).await;
    consumer.stop.cancel();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!consumer.task.is_finished(), "handlers run, so it must not have ended");
    gate.add_permits(4);
    assert_eq!(consumer.finish().await, [], "nothing is handed out once it stops");
    let depth = second.depth(&stream).await.expect("it answers");
    assert_eq!(depth.undelivered + depth.delivered, 16);

    let mut other = Consumer::done(&second, &[stream], 4);
    let rest: HashSet<_> = other.take(16).await.into_iter().chain(running).collect();
    assert_eq!(rest, pushed.into_iter().collect());
    other.finish().await;
}

async fn stopped_before_it_started_it_ends(Handles { first, .. }: Handles) {
    let stop = CancellationToken::new();
    stop.cancel();
    let handler: queue::Handler = Arc::new(|_, _| async { Handled::Done }.boxed());
    let consume = first.consume(vec![stream(Priority::Normal)], Room::of(1), handler, stop);
    tokio::time::timeout(PATIENCE, consume).await.expect("it ends");
}

async fn depth_counts_tickets(Handles { first, second }: Handles) {
    let stream = stream(Priority::High);
    let empty = first.depth(&stream).await.expect("it answers");
    assert_eq!((empty.undelivered, empty.delivered), (0, 0));
    assert_ne!(empty.generation, 0);
    assert!(first.push(tickets(&stream, 10)).await.is_empty());
    let waiting = second.depth(&stream).await.expect("it answers");
    assert_eq!((waiting.undelivered, waiting.delivered), (10, 0));
    let mut consumer = Consumer::stuck(&first, std::slice::from_ref(&stream), 3);
    consumer.take(3).await;
    let running = second.depth(&stream).await.expect("it answers");
    assert_eq!((running.undelivered, running.delivered), (7, 3));
    assert_eq!([waiting.generation, running.generation], [empty.generation; 2]);
    consumer.task.abort();
}

async fn notices_reach_listeners_once(Handles { first, second }: Handles) {
    let mut listeners = [first.listen(), second.listen()];
    let ids = || -> Arc<[PredictionId]> { (0..3).map(|_| PredictionId::generate()).collect() };
    let (finished, canceled, last) = (ids(), ids(), ids());
    first.tell(Notice::Finished(Arc::clone(&finished))).await;
    first.tell(Notice::Canceled(Arc::clone(&canceled))).await;
    first.tell(Notice::DeliveriesDue).await;
    for listener in &mut listeners {
        let mut heard = Vec::new();
        for _ in 0..3 {
            heard.push(tokio::time::timeout(PATIENCE, listener.recv()).await.expect("told").expect("open"));
        }
        let told = [Notice::Finished(Arc::clone(&finished)), Notice::Canceled(Arc::clone(&canceled))];
        assert_eq!((&heard[..2], &heard[2]), (&told[..], &Notice::DeliveriesDue));
    }
    // What was heard twice would be heard before this.
    second.tell(Notice::Finished(Arc::clone(&last))).await;
    for listener in &mut listeners {
        let heard = tokio::time::timeout(PATIENCE, listener.recv()).await.expect("told").expect("open");
        assert_eq!(heard, Notice::Finished(Arc::clone(&last)));
    }
}

#[tokio::test]
async fn an_absent_queue_takes_nothing_and_tells_its_own_process() {
    let queue = Queue::open(&Location::Absent, Config::default()).await.expect("nothing to fail");
    let stream = stream(Priority::Normal);
    let pushed = tickets(&stream, 3);
    assert!(!queue.is_healthy() && !queue.has_room(&stream));
    assert_eq!(queue.push(pushed.clone()).await, pushed);
    assert!(queue.depth(&stream).await.is_err());
    let mut listener = queue.listen();
    let notice = Notice::Finished(pushed.iter().map(|ticket| ticket.id).collect());
    queue.clone().tell(notice.clone()).await;
    assert_eq!(tokio::time::timeout(PATIENCE, listener.recv()).await.expect("told"), Ok(notice));
    assert_eq!(Consumer::done(&queue, &[stream], 1).finish().await, []);
}

#[tokio::test]
async fn an_unreadable_url_is_refused() {
    let location = Location::Redis { url: "nonsense".to_owned(), namespace: "augur".to_owned() };
    assert!(matches!(Queue::open(&location, Config::default()).await, Err(QueueError::Url)));
}
