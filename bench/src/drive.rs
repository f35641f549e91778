//! The driver: submits predictions from many connections, each as soon as the one before is answered, and makes sure of every
//! answer.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use sqlx::Row;
use tokio::task::JoinSet;

use crate::{
    cpu::Used,
    http::{self, Answer, Connection},
    numbers::{Numbers, number, percentile},
    subject::{Dialect, Subject},
};

/// What a value ends with: its number. Always this wide, so that requests differ in nothing else.
const DIGITS: usize = 9;
/// The field of a request whose caller prefers to wait for the result.
pub(crate) const PREFER: &str = "prefer: wait=30\r\n";

/// What a caller waits for before it submits the next.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// That its prediction is accepted.
    Accepted,
    /// Its result, with which it is answered.
    Finished,
}

/// What was accepted from one or more connections.
#[derive(Default)]
pub(crate) struct Accepted {
    /// The ids, each with the number of the value that was sent.
    pub(crate) ids: Vec<(String, usize)>,
    milliseconds: Vec<f64>,
}

/// Submits so many predictions from so many connections, waits until all are stored with their results, and verifies each.
pub(crate) async fn storm(
    subject: &mut Subject,
    until: Until,
    connections: usize,
    count: usize,
    prefix: &str,
) -> Numbers {
    let before = Used::until_now(&subject.processes);
    let begun = seconds_since_1970();
    let (dialect, address) = (subject.dialect, subject.address);
    let accepted = apart(move || submit_all(dialect, address, until, connections, count)).await;
    let submitted = seconds_since_1970();
    subject.over().await;
    let used = Used::until_now(&subject.processes);
    let over = seconds_since_1970();
    let ended = verify(subject, &accepted.ids).await;
    let name = |what: &str| format!("{prefix}: {what}");
    let what = if until == Until::Accepted { "submit" } else { "submit and wait" };
    let mut numbers = Numbers::from([
        (name(&format!("{what}/s")), number(count) / (submitted - begun)),
        (name("stored/s"), number(count) / (ended - begun)),
        (name(&format!("{what} p50: ms")), percentile(&accepted.milliseconds, 0.5)),
        (name(&format!("{what} p99: ms")), percentile(&accepted.milliseconds, 0.99)),
    ]);
    numbers.extend(used.numbers(&before, prefix, count, over - begun));
    numbers
}

/// Runs this on a thread of its own, whose runtime wakes nobody else.
pub(crate) async fn apart<F: Future>(work: impl FnOnce() -> F + Send + 'static) -> F::Output
where
    F::Output: Send + 'static,
{
    let driver = thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
        runtime.block_on(async { work().await })
    });
    let join = tokio::task::spawn_blocking(move || driver.join().expect("the driver does not panic"));
    join.await.expect("the driver does not panic")
}

/// Submits so many predictions from so many connections, each as soon as the one before is answered.
pub(crate) async fn submit_all(
    dialect: &'static Dialect,
    address: SocketAddr,
    until: Until,
    connections: usize,
    count: usize,
) -> Accepted {
    let (begin, end) = dialect.around;
    let fields = if until == Until::Finished { PREFER } else { "" };
    let request = http::request("POST", dialect.path, fields, &format!("{begin}\"{}\"{end}", value(0)));
    let digits = request.len() - end.len() - 1 - DIGITS;
    let write = move |number: usize, room: &mut Vec<u8>| {
        room.clone_from(&request);
        room[digits..digits + DIGITS].copy_from_slice(format!("{number:0DIGITS$}").as_bytes());
    };
    submit_with(address, until, connections, count, Arc::new(write)).await
}

/// The same for requests that are ready, each once and answered when it is accepted.
pub(crate) async fn submit_each(address: SocketAddr, connections: usize, requests: Arc<[Vec<u8>]>) -> Accepted {
    let count = requests.len();
    let write = move |number: usize, room: &mut Vec<u8>| room.clone_from(&requests[number]);
    submit_with(address, Until::Accepted, connections, count, Arc::new(write)).await
}

/// Writes the request of a number.
type Write = dyn Fn(usize, &mut Vec<u8>) + Send + Sync;

async fn submit_with(
    address: SocketAddr,
    until: Until,
    connections: usize,
    count: usize,
    write: Arc<Write>,
) -> Accepted {
    let next = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..connections {
        callers.spawn(submit(address, until, Arc::clone(&next), count, Arc::clone(&write)));
    }
    let mut all = Accepted::default();
    for accepted in callers.join_all().await {
        all.ids.extend(accepted.ids);
        all.milliseconds.extend(accepted.milliseconds);
    }
    all
}

/// One connection, until the numbers have run out.
async fn submit(
    address: SocketAddr,
    until: Until,
    next: Arc<AtomicUsize>,
    count: usize,
    write: Arc<Write>,
) -> Accepted {
    let (mut accepted, mut request) = (Accepted::default(), Vec::new());
    let mut connection = Connection::open(address).await;
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= count {
            return accepted;
        }
        write(number, &mut request);
        let begun = Instant::now();
        let answer = connection.exchange(&request).await;
        accepted.milliseconds.push(begun.elapsed().as_secs_f64() * 1e3);
        match until {
            Until::Accepted => assert_eq!(answer.status, 202, "{}", String::from_utf8_lossy(answer.body)),
            Until::Finished => assert!(is_result(&answer, &value(number)), "who waits is answered with the result"),
        }
        accepted.ids.push((answer.text("\"id").expect("an accepted prediction has an id").to_owned(), number));
    }
}

/// What is sent under this number.
pub(crate) fn value(number: usize) -> String {
    format!("what the service is to answer with, number {number:0DIGITS$}")
}

/// Whether an answer has the result, and that is right.
pub(crate) fn is_result(answer: &Answer<'_>, value: &str) -> bool {
    assert!([200, 201].contains(&answer.status), "{}", String::from_utf8_lossy(answer.body));
    let status = answer.text("\"status").expect("a prediction has a status");
    assert!(!["failed", "canceled"].contains(&status), "{}", String::from_utf8_lossy(answer.body));
    let is_over = status == "succeeded";
    assert!(!is_over || answer.text("\"output") == Some(value), "the output is the input");
    is_over
}

/// Every id that was answered is that of a prediction which succeeded with what was sent with it, and there are no others.
/// Returns when the last one ended, in seconds since 1970.
pub(crate) async fn verify(subject: &Subject, ids: &[(String, usize)]) -> f64 {
    let right = right(subject, ids).await;
    let ends = sqlx::query(subject.dialect.ends).fetch_one(&subject.database).await.expect("Postgres answers");
    let (last, all): (f64, i64) = (ends.get(0), ends.get(1));
    let sent = i64::try_from(ids.len()).expect("few enough");
    assert_eq!((right, all), (sent, sent), "right results and predictions in all, of those that were sent");
    last
}

/// How many of these ids are those of predictions which succeeded with what was sent with them.
pub(crate) async fn right(subject: &Subject, ids: &[(String, usize)]) -> i64 {
    let values: Vec<String> = ids.iter().map(|(_, number)| value(*number)).collect();
    let right = sqlx::query(subject.dialect.right)
        .bind(ids.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>())
        .bind(values)
        .fetch_one(&subject.database);
    right.await.expect("Postgres answers").get(0)
}

/// By this machine's clock.
pub(crate) fn seconds_since_1970() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}
