//! The case `overload`: for ten minutes forty times as much as a worker can do. How much is let in and how soon it is answered, how soon
//! the rest is refused, and how much memory everything takes meanwhile.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{
    drive::{self, apart, value},
    http::{Connection, request},
    numbers::{Numbers, number, percentile},
    servers::Servers,
    stage::{MEMORIES, Stage, migrated},
    subject::{AUGUR_SLEEPING, Dialect},
};

/// What the worker can do in a second: the model takes 20 ms, and one prediction at a time.
const PER_SECOND: usize = 50;
/// Few, so that what is accepted waits in the store.
const SLOTS: &str = "4";
/// How much more is asked for, for how long, over how many connections.
const TIMES: usize = 40;
const LASTS: Duration = Duration::from_secs(600);
const CONNECTIONS: usize = 64;
/// The most predictions that wait, which is 100 seconds of work.
const QUEUE_LIMIT: &str = "5000";
/// How often memory is read; how long the first while lasts, which later ones are compared with.
const PERIOD: Duration = Duration::from_secs(1);
const SETTLED: Duration = Duration::from_secs(60);

/// What one connection came to.
#[derive(Default)]
struct Answered {
    ids: Vec<(String, usize)>,
    accepted: Vec<f64>,
    refused: Vec<f64>,
}

/// At most so many requests.
pub(super) async fn once(most: usize) -> Numbers {
    let servers = Arc::new(Servers::start().await);
    let database_url = migrated(&servers).await;
    let mut stage = Stage::on(servers, &database_url, &["--queue-unserved", "--queue-limit", QUEUE_LIMIT]).await;
    // It has made its models known.
    stage.retire().await;
    let worker = stage.another_worker(&["--slots", SLOTS]).await;
    let mut subject = stage.subject(&AUGUR_SLEEPING).await;
    let begun = Instant::now();
    let asking = tokio::spawn(apart({
        let (dialect, address) = (subject.dialect, subject.address);
        move || ask(dialect, address, most)
    }));
    let (mut settled, mut most) = ([0.0; 3], [0.0; 3]);
    while !asking.is_finished() {
        let now = stage.memories_mib(&worker).await;
        most = std::array::from_fn(|place| f64::max(most[place], now[place]));
        if begun.elapsed() < SETTLED {
            settled = most;
        }
        sleep(PERIOD).await;
    }
    let (seconds, answered) = (begun.elapsed().as_secs_f64(), asking.await.expect("the driver does not panic"));
    subject.over().await;
    drive::verify(&subject, &answered.ids).await;
    worker.end().await;
    stage.end().await;
    let mut numbers = Numbers::from([
        ("asked for: s".to_owned(), seconds),
        ("asked for/s".to_owned(), number(answered.accepted.len() + answered.refused.len()) / seconds),
        ("accepted/s".to_owned(), number(answered.accepted.len()) / seconds),
    ]);
    let answers = [("accepted", &answered.accepted), ("refused", &answered.refused)];
    for (what, milliseconds) in answers.into_iter().filter(|(_, milliseconds)| !milliseconds.is_empty()) {
        numbers.insert(format!("{what}, p50: ms"), percentile(milliseconds, 0.5));
        numbers.insert(format!("{what}, p99: ms"), percentile(milliseconds, 0.99));
    }
    for (place, name) in MEMORIES.iter().enumerate() {
        numbers.insert(format!("{name}, most in the first minute: MiB"), settled[place]);
        numbers.insert(format!("{name}, most: MiB"), most[place]);
    }
    numbers
}

/// Asks over all connections at once, again and again at a steady rate, or as fast as answers come.
async fn ask(dialect: &'static Dialect, address: SocketAddr, most: usize) -> Answered {
    let (next, until) = (Arc::new(AtomicUsize::new(0)), Instant::now() + LASTS);
    let mut callers = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let next = Arc::clone(&next);
        callers.spawn(async move {
            let (mut answered, mut connection) = (Answered::default(), Connection::open(address).await);
            let every = Duration::from_secs_f64(number(CONNECTIONS) / number(TIMES * PER_SECOND));
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let (begin, end) = dialect.around;
            while Instant::now() < until {
                ticks.tick().await;
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= most {
                    break;
                }
                let post = request("POST", dialect.path, "", &format!("{begin}\"{}\"{end}", value(number)));
                let begun = Instant::now();
                let answer = connection.exchange(&post).await;
                let milliseconds = begun.elapsed().as_secs_f64() * 1e3;
                match answer.status {
                    202 => {
                        let id = answer.text("\"id").expect("an accepted prediction has an id");
                        answered.ids.push((id.to_owned(), number));
                        answered.accepted.push(milliseconds);
                    }
                    503 if answer.text("\"code") == Some("queue_full") => answered.refused.push(milliseconds),
                    _ => panic!("{}", String::from_utf8_lossy(answer.body)),
                }
            }
            answered
        });
    }
    let mut all = Answered::default();
    for answered in callers.join_all().await {
        all.ids.extend(answered.ids);
        all.accepted.extend(answered.accepted);
        all.refused.extend(answered.refused);
    }
    all
}
