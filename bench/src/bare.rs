//! What Postgres and Redis can do at all: the rows and tickets of predictions through bare statements of many rows and bare
//! pipelines, without a service around them.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use sqlx::{Connection as _, PgConnection, Row, postgres::PgConnectOptions};
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinSet,
};
use uuid::Uuid;

use crate::{drive::value, resp::Stream};

/// Batches that may wait between two steps: enough that none starves, few enough that all run at once.
const BETWEEN: usize = 8;
/// So that no plan depends on what was known of tables when they were empty: rows are found by their ids, by indexes.
const SESSION: [(&str, &str); 6] = [
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("plan_cache_mode", "force_generic_plan"),
    ("jit", "off"),
];

/// Makes a version for the rows to belong to.
const VERSION: &str = "INSERT INTO versions (model, version) VALUES ('bench/bare', '0')
    ON CONFLICT (model, version) DO UPDATE SET version = '0' RETURNING id";
const INSERT: &str = "
    WITH new AS MATERIALIZED (
        SELECT * FROM UNNEST($1::uuid[], $2::text[], $3::bytea[]) AS new (id, input, fingerprint)
    ),
    payloads AS (
        INSERT INTO inputs (prediction_id, tenant, created_at, input, fingerprint) SELECT id, '', now(), input, fingerprint FROM new
    )
    INSERT INTO predictions (id, tenant, version_id, priority, max_retries, created_at, not_before, queued_at, retention)
    SELECT id, '', $4, 0, 2, now(), now(), now(), interval '7 days' FROM new";
/// As ours, it does not wait for the disk.
const CLAIM: &str = "
    WITH clock AS MATERIALIZED (SELECT now() AS at, set_config('synchronous_commit', 'off', true)),
    taken AS (
        UPDATE predictions
        SET status = 1, epoch = epoch + 1, attempts = attempts + 1, worker = $2,
            lease_until = (SELECT at FROM clock) + interval '10 s', claimed_at = now(), started_at = now()
        WHERE id = ANY($1)
        RETURNING id
    )
    SELECT id, input FROM taken JOIN inputs ON prediction_id = id";
/// $1 is in order, so that an id's place in it is found by halves.
const COMPLETE: &str = "
    UPDATE predictions
    SET status = 2, worker = NULL, lease_until = NULL, completed_at = now(), expires_at = now() + retention,
        output = ($2::text[])[width_bucket(id, $1::uuid[])], predict_seconds = 0.00001, batch_size = cardinality($1)
    WHERE id = ANY($1) AND epoch = 1";

/// Predictions on their way: ids, payloads, and places in the stream when there is one.
pub(crate) type Batch = (Vec<Uuid>, Vec<String>, Vec<String>);

/// Where the work is done, and how.
#[derive(Clone)]
pub(crate) struct Bare {
    pub(crate) database_url: String,
    pub(crate) redis_url: String,
    /// Rows of one statement.
    pub(crate) batch: usize,
    /// Connections of each step.
    pub(crate) connections: usize,
    /// Whether tickets go through Redis between insert and claim.
    pub(crate) streams: bool,
}

/// What one connection does to a batch; what it returns goes to the next step.
type Step = for<'a> fn(&'a mut Hand, Batch) -> Pin<Box<dyn Future<Output = Batch> + Send + 'a>>;

/// One connection of a step.
struct Hand {
    postgres: PgConnection,
    redis: Option<Stream>,
    version: i32,
}

impl Bare {
    /// So many predictions through insert, claim and complete, all three at once. Returns the ids with their numbers.
    pub(crate) async fn pipeline(&self, count: usize) -> Vec<(String, usize)> {
        if self.streams {
            Stream::open(&self.redis_url).await.make().await;
        }
        let mut steps = JoinSet::new();
        let inserted =
            self.step(&mut steps, batches(count, self.batch), |hand, batch| Box::pin(hand.insert(batch))).await;
        let inserted = if self.streams { self.read_tickets(&mut steps, inserted, count).await } else { inserted };
        let claimed = self.step(&mut steps, inserted, |hand, batch| Box::pin(hand.claim(batch))).await;
        let mut completed = self.step(&mut steps, claimed, |hand, batch| Box::pin(hand.complete(batch))).await;
        let mut ids = Vec::with_capacity(count);
        while let Some((batch, _, _)) = completed.recv().await {
            ids.extend(batch.iter().map(|id| (id.to_string(), number_of(*id))));
        }
        steps.join_all().await;
        ids
    }

    /// The steps one after the other, each with nothing else going on; `done` is called after each.
    pub(crate) async fn one_by_one(&self, count: usize, mut done: impl FnMut(&'static str)) {
        let mut batches = batches(count, self.batch);
        let steps: [(&'static str, Step); 3] = [
            ("insert", |hand, batch| Box::pin(hand.insert(batch))),
            ("claim", |hand, batch| Box::pin(hand.claim(batch))),
            ("complete", |hand, batch| Box::pin(hand.complete(batch))),
        ];
        for (name, step) in steps {
            let mut tasks = JoinSet::new();
            let mut results = self.step(&mut tasks, batches, step).await;
            let mut collected = Vec::new();
            while let Some(batch) = results.recv().await {
                collected.push(batch);
            }
            done(name);
            let (send, receive) = mpsc::channel(collected.len().max(1));
            for batch in collected {
                send.try_send(batch).expect("there is room for all");
            }
            batches = receive;
        }
    }

    /// Puts the connections of one step between two channels.
    async fn step(&self, tasks: &mut JoinSet<()>, batches: mpsc::Receiver<Batch>, step: Step) -> mpsc::Receiver<Batch> {
        let (done, next) = mpsc::channel(BETWEEN);
        let batches = Arc::new(Mutex::new(batches));
        for _ in 0..self.connections {
            let mut hand = self.hand().await;
            let (batches, done) = (Arc::clone(&batches), done.clone());
            tasks.spawn(async move {
                loop {
                    let batch = batches.lock().await.recv().await;
                    let Some(batch) = batch else { break };
                    let batch = step(&mut hand, batch).await;
                    // Who receives goes on until the last sender is gone.
                    let _ = done.send(batch).await;
                }
            });
        }
        next
    }

    /// Puts the stream between two steps: what was inserted is read back as tickets, in whatever batches they come.
    async fn read_tickets(
        &self,
        tasks: &mut JoinSet<()>,
        mut inserted: mpsc::Receiver<Batch>,
        count: usize,
    ) -> mpsc::Receiver<Batch> {
        let (done, next) = mpsc::channel(BETWEEN);
        // Their tickets are in the stream.
        tasks.spawn(async move { while inserted.recv().await.is_some() {} });
        let read = Arc::new(AtomicUsize::new(0));
        for _ in 0..self.connections {
            let (mut stream, most) = (Stream::open(&self.redis_url).await, self.batch);
            let (done, read) = (done.clone(), Arc::clone(&read));
            tasks.spawn(async move {
                while read.load(Ordering::Relaxed) < count {
                    let tickets = stream.read(most).await;
                    read.fetch_add(tickets.len(), Ordering::Relaxed);
                    if !tickets.is_empty() {
                        let (ids, places) = tickets.into_iter().map(|ticket| (uuid(&ticket.id), ticket.place)).unzip();
                        let _ = done.send((ids, Vec::new(), places)).await;
                    }
                }
            });
        }
        next
    }

    async fn hand(&self) -> Hand {
        let options: PgConnectOptions = self.database_url.parse().expect("an address of Postgres");
        let mut postgres = PgConnection::connect_with(&options.options(SESSION)).await.expect("Postgres answers");
        let version = sqlx::query(VERSION).fetch_one(&mut postgres).await.expect("the schema is ours").get(0);
        let redis = if self.streams { Some(Stream::open(&self.redis_url).await) } else { None };
        Hand { postgres, redis, version }
    }
}

impl Hand {
    async fn insert(&mut self, batch: Batch) -> Batch {
        let fingerprints: Vec<[u8; 32]> = batch.0.iter().map(|id| [id.as_bytes()[15]; 32]).collect();
        let fingerprints: Vec<&[u8]> = fingerprints.iter().map(<[u8; 32]>::as_slice).collect();
        let insert = sqlx::query(INSERT).bind(&batch.0).bind(&batch.1).bind(fingerprints).bind(self.version);
        insert.execute(&mut self.postgres).await.expect("the schema is ours");
        if let Some(stream) = &mut self.redis {
            stream.add(batch.0.iter().map(Uuid::to_string)).await;
        }
        batch
    }

    async fn claim(&mut self, (ids, _, places): Batch) -> Batch {
        let rows = sqlx::query(CLAIM).bind(&ids).bind(Uuid::from_u128(1)).fetch_all(&mut self.postgres);
        let rows = rows.await.expect("the schema is ours");
        let mut claimed: Vec<(Uuid, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        claimed.sort_unstable();
        let (ids, inputs) = claimed.into_iter().unzip();
        (ids, inputs, places)
    }

    async fn complete(&mut self, (ids, inputs, places): Batch) -> Batch {
        let outputs: Vec<&str> =
            inputs.iter().map(|input| &input[AROUND.0.len()..input.len() - AROUND.1.len()]).collect();
        let complete = sqlx::query(COMPLETE).bind(&ids).bind(outputs).execute(&mut self.postgres);
        complete.await.expect("the schema is ours");
        if let Some(stream) = &mut self.redis {
            stream.settle(&places).await;
        }
        (ids, inputs, places)
    }
}

/// What an input is around the value.
const AROUND: (&str, &str) = (r#"{"value":"#, "}");

/// Batches of new predictions.
fn batches(count: usize, batch: usize) -> mpsc::Receiver<Batch> {
    let (send, receive) = mpsc::channel(BETWEEN);
    tokio::spawn(async move {
        for first in (0..count).step_by(batch) {
            let numbers = first..count.min(first + batch);
            let inputs =
                numbers.clone().map(|number| format!("{}\"{}\"{}", AROUND.0, value(number), AROUND.1)).collect();
            // Nobody receives any more when a step has panicked, which is told elsewhere.
            let _ = send.send((numbers.map(id_of).collect(), inputs, Vec::new())).await;
        }
    });
    receive
}

/// Ids that grow in time, as ours do (`UUIDv7`), and that tell their number.
fn id_of(number: usize) -> Uuid {
    Uuid::from_u128((0x0190_0000_0000_7000_8000 << 48) + number as u128)
}

#[allow(clippy::cast_possible_truncation)]
fn number_of(id: Uuid) -> usize {
    (id.as_u128() & 0xffff_ffff_ffff) as usize
}

fn uuid(text: &str) -> Uuid {
    text.parse().expect("tickets carry ids")
}

/// So many tickets through the stream alone: added, read, acknowledged and deleted, adding and reading at once.
pub(crate) async fn tickets(redis_url: &str, count: usize, batch: usize) {
    let (mut adding, mut reading) = (Stream::open(redis_url).await, Stream::open(redis_url).await);
    adding.make().await;
    let add = async {
        for first in (0..count).step_by(batch) {
            adding.add((first..count.min(first + batch)).map(|number| id_of(number).to_string())).await;
        }
    };
    let read = async {
        let mut settled = 0;
        while settled < count {
            let places: Vec<String> = reading.read(batch).await.into_iter().map(|ticket| ticket.place).collect();
            if !places.is_empty() {
                reading.settle(&places).await;
            }
            settled += places.len();
        }
    };
    tokio::join!(add, read);
}
