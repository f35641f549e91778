//! The case `growth`: what 10,000 to 10,000,000 finished predictions in the store, or a million waiting ones, cost those who come
//! later.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{Connection as _, PgConnection, Row};
use tokio::time::{MissedTickBehavior, interval};

use super::{Measured, say_run};
use crate::{
    cpu::Used,
    drive::{apart, right, value},
    fill,
    http::{Connection, request},
    numbers::{Numbers, percentile},
    say,
    servers::Servers,
    stage::{MEMORIES, Stage, migrated},
    subject::{AUGUR, Dialect},
};

/// Finished predictions in each store, each with its payloads.
const FINISHED: [usize; 4] = [10_000, 100_000, 1_000_000, 10_000_000];
/// Waiting predictions in the last store.
const WAITING: usize = 1_000_000;
/// Requests of each kind that count, as many again before them that do not, and how many there are per second.
const REQUESTS: usize = 1_000;
const ALL_REQUESTS: usize = 2 * REQUESTS;
const RATE: u32 = 200;
/// How long a worker works at the backlog.
const WORKED: Duration = Duration::from_secs(15);
const PERIOD: Duration = Duration::from_millis(100);

/// Has Postgres time each statement.
const TIMED: [(&str, &str); 1] = [("shared_preload_libraries", "pg_stat_statements")];
/// Milliseconds of a claim: in the mean and at most, as Postgres sees it.
const CLAIMS: &str = "
    SELECT sum(total_exec_time) / sum(calls), max(max_exec_time) FROM pg_stat_statements
    WHERE query LIKE '%attempts = attempts + $%' AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())";
/// Milliseconds from acceptance to claim of the latest ones.
const CLAIMED: &str = "
    SELECT extract(epoch FROM started_at - created_at)::float8 * 1000
    FROM predictions WHERE tenant = '' AND started_at IS NOT NULL ORDER BY created_at DESC LIMIT $1";

/// One filled store.
struct Filled {
    name: String,
    database_url: String,
    /// Predictions that are in it, others for each run.
    ids: Vec<String>,
    is_backlog: bool,
}

pub(super) async fn measure(runs: usize, most: usize) -> Measured {
    let servers = Arc::new(Servers::with(&TIMED).await);
    let mut stores = Vec::new();
    for count in FINISHED.into_iter().filter(|count| *count <= most) {
        stores.push(filled(&servers, count, false, runs * ALL_REQUESTS).await);
    }
    let backlog = filled(&servers, WAITING.min(most), true, runs * ALL_REQUESTS).await;
    let mut all = Vec::new();
    for run in 1..=runs {
        let mut numbers = Numbers::new();
        // Every second run begins with the fullest, so that a machine whose speed changes meanwhile favours neither end.
        let mut in_turn: Vec<&Filled> = stores.iter().collect();
        if run % 2 == 0 {
            in_turn.reverse();
        }
        for store in in_turn.into_iter().chain([&backlog]) {
            numbers.extend(once(&servers, store, run).await);
        }
        if let [first, .., last] = stores.as_slice() {
            for what in ["submit", "poll", "first page", "accepted to claimed"] {
                let p50 = |store: &Filled| numbers[&format!("{}, {what}, p50: ms", store.name)];
                numbers.insert(format!("{what}, p50: most finished ÷ fewest"), p50(last) / p50(first));
            }
        }
        say_run(run, &numbers);
        all.push(numbers);
    }
    Measured { runs: all, skipped: Vec::new() }
}

/// Of its predictions, so many are to be asked for.
async fn filled(servers: &Arc<Servers>, count: usize, is_backlog: bool, wanted: usize) -> Filled {
    let database_url = migrated(servers).await;
    // A worker makes its models known; without it there would be nothing to fill in.
    Stage::on(Arc::clone(servers), &database_url, &[]).await.end().await;
    let begun = Instant::now();
    let mut database = PgConnection::connect(&database_url).await.expect("Postgres answers");
    if is_backlog {
        fill::waiting(&mut database, count).await;
    } else {
        fill::finished(&mut database, count).await;
    }
    let ids = fill::some(&mut database, count, wanted).await;
    let create = "CREATE EXTENSION pg_stat_statements";
    sqlx::query(create).execute(&mut database).await.expect("Postgres has its contributed modules");
    let name = format!("{count:8} {}", if is_backlog { "waiting" } else { "finished" });
    say(&format!("filled with {name} in {:.0} s", begun.elapsed().as_secs_f64()));
    Filled { name, database_url, ids, is_backlog }
}

/// One store, with programs of its own that have just been started.
async fn once(servers: &Arc<Servers>, store: &Filled, run: usize) -> Numbers {
    // A limit that the backlog and what is submitted stay below.
    let limit = (2 * WAITING).to_string();
    let api = ["--queue-unserved", "--queue-limit", &limit];
    let mut stage = Stage::on(Arc::clone(servers), &store.database_url, &api).await;
    if store.is_backlog {
        // With nobody at work, the backlog alone is what requests meet.
        stage.retire().await;
    }
    let mut subject = stage.subject(&AUGUR).await;
    reset(&stage).await;
    let mut numbers = Numbers::new();
    let (before, begun) = (Used::until_now(&subject.processes), Instant::now());
    let (timed, submitted) = requests(&stage, store, run).await;
    numbers.extend(timed);
    let used = Used::until_now(&subject.processes);
    numbers.extend(used.numbers(&before, &store.name, submitted.len(), begun.elapsed().as_secs_f64()));
    if store.is_backlog {
        numbers.extend(work(&stage, store).await);
    } else {
        subject.over().await;
        let sent = i64::try_from(submitted.len()).expect("few enough");
        assert_eq!(right(&subject, &submitted).await, sent, "right results, of those that were submitted");
        let rows = sqlx::query(CLAIMED).bind(i64::try_from(REQUESTS).expect("few enough")).fetch_all(&stage.database);
        let rows = rows.await.expect("Postgres answers");
        let milliseconds: Vec<f64> = rows.iter().map(|row| row.get(0)).collect();
        numbers.extend(shares(store, "accepted to claimed", &milliseconds));
        numbers.extend(claims(&stage, store).await);
        numbers.extend(memories(store, stage.memories_mib(stage.worker()).await));
    }
    stage.end().await;
    numbers
}

async fn reset(stage: &Stage) {
    sqlx::query("SELECT pg_stat_statements_reset()").execute(&stage.database).await.expect("the extension is there");
}

/// Submits, polls what nobody has asked for if there is as much, and lists, evenly in time and in turn; also the ids of what was
/// submitted, with their numbers.
async fn requests(stage: &Stage, store: &Filled, run: usize) -> (Numbers, Vec<(String, usize)>) {
    let of_earlier_runs = (run - 1) * ALL_REQUESTS;
    let ids: Vec<String> = store.ids.iter().cycle().skip(of_earlier_runs).take(ALL_REQUESTS).cloned().collect();
    let (address, is_backlog) = (stage.address, store.is_backlog);
    let timed = apart(move || async move {
        let mut connection = Connection::open(address).await;
        let mut ticks = interval(Duration::from_secs(1) / RATE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut timed, mut submitted): ([Vec<f64>; 3], _) = (Default::default(), Vec::new());
        let Dialect { path, read, around: (begin, end), .. } = AUGUR;
        for (number, id) in ids.iter().enumerate() {
            let submit = request("POST", path, "", &format!("{begin}\"{}\"{end}", value(number)));
            let poll = request("GET", &format!("{read}{id}"), "", "");
            let list = request("GET", "/v1/predictions", "", "");
            for (kind, request) in [submit, poll, list].iter().enumerate() {
                ticks.tick().await;
                let begun = Instant::now();
                let answer = connection.exchange(request).await;
                let is_right = match (kind, answer.status) {
                    (0, 202) => {
                        let id = answer.text("\"id").expect("an accepted prediction has an id");
                        submitted.push((id.to_owned(), number));
                        true
                    }
                    // Some of a backlog have been worked off in earlier runs.
                    (1, 200) => match answer.text("\"status") {
                        Some("succeeded") => true,
                        Some("starting") => is_backlog,
                        _ => false,
                    },
                    (2, 200) => answer.text("\"id").is_some(),
                    _ => false,
                };
                assert!(is_right, "{}", String::from_utf8_lossy(answer.body));
                if number >= ALL_REQUESTS - REQUESTS {
                    timed[kind].push(begun.elapsed().as_secs_f64() * 1e3);
                }
            }
        }
        (timed, submitted)
    });
    let (timed, submitted) = timed.await;
    let numbers = ["submit", "poll", "first page"].iter().zip(&timed);
    (numbers.flat_map(|(what, values)| shares(store, what, values)).collect(), submitted)
}

/// A worker at the backlog for a while: how long its claims take, and how much memory everything needs.
async fn work(stage: &Stage, store: &Filled) -> Numbers {
    reset(stage).await;
    let worker = stage.another_worker(&[]).await;
    let begun = Instant::now();
    let mut most = [0.0; 3];
    while begun.elapsed() < WORKED {
        let now = stage.memories_mib(&worker).await;
        most = std::array::from_fn(|place| f64::max(most[place], now[place]));
        tokio::time::sleep(PERIOD).await;
    }
    let mut numbers = memories(store, most);
    numbers.extend(claims(stage, store).await);
    worker.end().await;
    numbers
}

async fn claims(stage: &Stage, store: &Filled) -> Numbers {
    let row = sqlx::query(CLAIMS).fetch_one(&stage.database).await.expect("the extension is there");
    let (mean, most): (Option<f64>, Option<f64>) = (row.get(0), row.get(1));
    let (Some(mean), Some(most)) = (mean, most) else { panic!("no statement looks like a claim") };
    let name = |which: &str| format!("{}, statement of a claim, {which}: ms", store.name);
    Numbers::from([(name("mean"), mean), (name("most"), most)])
}

fn shares(store: &Filled, what: &str, milliseconds: &[f64]) -> Numbers {
    let name = |share: &str| format!("{}, {what}, {share}: ms", store.name);
    [("p50", 0.5), ("p99", 0.99)].map(|(share, of)| (name(share), percentile(milliseconds, of))).into()
}

fn memories(store: &Filled, mib: [f64; 3]) -> Numbers {
    MEMORIES.iter().zip(mib).map(|(what, mib)| (format!("{}, {what}: MiB", store.name), mib)).collect()
}
