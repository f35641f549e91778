//! What every scenario needs: a store, a queue, predictions and deliveries in them, workers and senders beside them.

use std::{collections::HashSet, future::Future, path::Path, sync::Arc, time::Duration};

use inference::Models;
use prediction::{
    DeliveryId, DeliveryStatus, Event, ModelName, ModelSpec, Prediction, PredictionId, Priority, Status, StreamKey,
    Ticket, Version,
};
use queue::Queue;
use serde_json::{Value, json, value::to_raw_value};
use store::{Companion, Delivery, NewPrediction, Store, StoreError, Taker, Waiters, Webhook};
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle, time};
use tokio_util::sync::CancellationToken;
use webhook::{Guard, Policy, Sealer};
use worker::{Config, DeliveryConfig};

/// Longer than anything takes; a scenario that waits longer has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A store and a queue of one test's own.
pub(crate) struct Stage {
    pub(crate) store: Store,
    pub(crate) queue: Queue,
    _dir: TempDir,
}

/// A worker or a sender that runs.
pub(crate) struct Worker {
    /// What an API in its process would give it new predictions by; a sender has none.
    pub(crate) taker: Option<Taker>,
    /// Whom it tells of ends; a sender nobody.
    pub(crate) waiters: Waiters,
    stop: CancellationToken,
    task: JoinHandle<Result<(), StoreError>>,
}

impl Stage {
    pub(crate) async fn embedded() -> Self {
        Self::on_sqlite(queue::Location::InProcess).await
    }

    pub(crate) async fn without_queue() -> Self {
        Self::on_sqlite(queue::Location::Absent).await
    }

    pub(crate) async fn servers() -> Self {
        let (url, namespace) = servers::redis().await;
        Self::on_postgres(servers::database().await, queue::Location::Redis { url, namespace }).await
    }

    async fn on_sqlite(queue: queue::Location) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("augur.db");
        Self::open(store::Location::Sqlite { path }, queue, dir).await
    }

    pub(crate) async fn on_postgres(url: String, queue: queue::Location) -> Self {
        let location = store::Location::Postgres { url, max_connections: 8 };
        Self::open(location, queue, tempfile::tempdir().unwrap()).await
    }

    async fn open(store: store::Location, queue: queue::Location, dir: TempDir) -> Self {
        let store = Store::open(&store).await.unwrap();
        store.migrate().await.unwrap();
        Self { store, queue: Queue::open(&queue, queue::Config::default()).await.unwrap(), _dir: dir }
    }

    /// Stores predictions for echo and queues their tickets; `change` says what is special about them.
    pub(crate) async fn send(&self, inputs: Vec<Value>, change: impl Fn(&mut NewPrediction)) -> Vec<PredictionId> {
        let (ids, tickets) = self.store_for_echo(inputs, change).await;
        let refused: Vec<_> = self.queue.push(tickets).await.iter().map(|ticket| ticket.id).collect();
        self.store.mark_unqueued(&refused).await.unwrap();
        ids
    }

    /// Stores predictions for echo and pushes their tickets until the queue has taken them all.
    pub(crate) async fn send_with_tickets(&self, inputs: Vec<Value>) -> Vec<PredictionId> {
        let (ids, mut tickets) = self.store_for_echo(inputs, |_| {}).await;
        let pushed = async {
            while !tickets.is_empty() {
                tickets = self.queue.push(tickets).await;
                time::sleep(Duration::from_millis(20)).await;
            }
        };
        time::timeout(PATIENCE, pushed).await.unwrap();
        ids
    }

    async fn store_for_echo(
        &self,
        inputs: Vec<Value>,
        change: impl Fn(&mut NewPrediction),
    ) -> (Vec<PredictionId>, Vec<Ticket>) {
        let echo = echo();
        let news: Vec<_> = inputs.iter().map(|input| new(&echo, input, &change)).collect();
        let tickets = news.iter().filter(|new| new.queued).map(ticket).collect();
        let ids = news.iter().map(|new| new.id).collect();
        self.store.accept(news).await.unwrap();
        (ids, tickets)
    }

    /// Tickets for echo that nobody has taken, if the queue answers.
    pub(crate) async fn undelivered(&self) -> Option<usize> {
        let echo = echo();
        let depth = self.queue.depth(&stream(echo.name, echo.version, Priority::Normal)).await;
        depth.ok().map(|depth| depth.undelivered)
    }

    /// One that sleeps for so long.
    pub(crate) async fn send_sleeper(&self, sleep_ms: u64) -> PredictionId {
        self.send(vec![json!({"value": "slept", "sleep_ms": sleep_ms})], |_| {}).await[0]
    }

    /// The predictions, in the order of `ids`.
    pub(crate) async fn get(&self, ids: &[PredictionId]) -> Vec<Prediction> {
        let mut found = self.store.get("", ids).await.unwrap();
        assert_eq!(found.len(), ids.len());
        found.sort_by_key(|prediction| ids.iter().position(|id| *id == prediction.id));
        found
    }

    /// Waits until all of them have the status.
    pub(crate) async fn wait_for(&self, ids: &[PredictionId], status: Status) -> Vec<Prediction> {
        let all = async || match self.store.get("", ids).await {
            Ok(found) => found.len() == ids.len() && found.iter().all(|prediction| prediction.status == status),
            Err(StoreError::Unavailable(_)) => false,
            Err(error) => panic!("{error}"),
        };
        if time::timeout(PATIENCE, until(all)).await.is_err() {
            let statuses: Vec<_> = self.get(ids).await.iter().map(|found| (found.status, found.attempt)).collect();
            panic!("not all {status}: {statuses:?}");
        }
        self.get(ids).await
    }

    /// Starts a worker that serves echo, and waits until it is ready.
    pub(crate) async fn worker(&self, change: impl FnOnce(&mut Config)) -> Worker {
        self.worker_of(inference::Config { enable_echo: true, ..inference::Config::default() }, change).await
    }

    pub(crate) async fn worker_of(&self, models: inference::Config, change: impl FnOnce(&mut Config)) -> Worker {
        let mut config = Config {
            lease: Duration::from_secs(10),
            slots: 64,
            grace: Duration::from_secs(30),
            max_crashes: 3,
            poll_store: false,
            keys_for: Duration::from_secs(3600),
            host: "test".to_owned(),
            look: Arc::default(),
        };
        change(&mut config);
        let models = tokio::task::spawn_blocking(move || Models::load(&models).unwrap()).await.unwrap();
        let (stop, (ready, is_ready)) = (CancellationToken::new(), oneshot::channel());
        let tell_ready = move |companion: Companion| assert!(ready.send(companion).is_ok(), "it is waited for");
        let run = worker::run(self.store.clone(), self.queue.clone(), models, config, tell_ready, stop.clone());
        let task = tokio::spawn(run);
        let Companion { taker, waiters } = is_ready.await.unwrap();
        Worker { taker: Some(taker), waiters, stop, task }
    }

    /// Starts a sender that may send to loopback.
    pub(crate) fn sender(&self, change: impl FnOnce(&mut DeliveryConfig)) -> Worker {
        let mut config = DeliveryConfig {
            guard: Guard::new(Policy { allowed: vec!["127.0.0.0/8".parse().unwrap()] }),
            sealer: sealer(),
            in_flight: 256,
            grace: PATIENCE,
            public_url: None,
        };
        change(&mut config);
        let stop = CancellationToken::new();
        let task = tokio::spawn(worker::deliver(self.store.clone(), self.queue.clone(), config, stop.clone()));
        Worker { taker: None, waiters: Waiters::default(), stop, task }
    }

    /// Adds a delivery of a test.
    pub(crate) async fn test(&self, webhook: &Webhook) -> DeliveryId {
        self.store.add_test("", PredictionId::generate(), webhook).await.unwrap().id
    }

    pub(crate) async fn delivery(&self, id: DeliveryId) -> Delivery {
        self.store.delivery("", id).await.unwrap().unwrap()
    }

    /// Waits until the delivery stands so, with so many attempts.
    pub(crate) async fn wait_for_delivery(&self, id: DeliveryId, status: DeliveryStatus, attempts: u32) -> Delivery {
        let stands_so = async || match self.store.delivery("", id).await {
            Ok(delivery) => delivery.is_some_and(|found| found.status == status && found.attempts == attempts),
            Err(StoreError::Unavailable(_)) => false,
            Err(error) => panic!("{error}"),
        };
        if time::timeout(PATIENCE, until(stands_so)).await.is_err() {
            panic!("not {status:?} after {attempts} attempts: {:?}", self.store.delivery("", id).await);
        }
        self.delivery(id).await
    }
}

impl Worker {
    /// Stops it gracefully.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        time::timeout(PATIENCE, self.task).await.unwrap().unwrap().unwrap();
    }

    /// As if its process was killed.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

/// Asks again and again until the answer is yes.
pub(crate) async fn until<F: Future<Output = bool>>(mut is_so: impl FnMut() -> F) {
    let waiting = async {
        while !is_so().await {
            time::sleep(Duration::from_millis(20)).await;
        }
    };
    time::timeout(PATIENCE * 2, waiting).await.unwrap();
}

/// The digits that are shipped, and nothing else.
pub(crate) fn digits() -> inference::Config {
    inference::Config {
        models_dir: Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")),
        only: vec![ModelName::local("digits").unwrap()],
        ..inference::Config::default()
    }
}

/// What echo publishes.
pub(crate) fn echo() -> ModelSpec {
    let config = inference::Config { enable_echo: true, ..inference::Config::default() };
    Models::load(&config).unwrap().specs().pop().unwrap()
}

/// What the shipped digits publish.
pub(crate) async fn spec_of_digits() -> ModelSpec {
    let load = || Models::load(&digits()).unwrap().specs().pop().unwrap();
    tokio::task::spawn_blocking(load).await.unwrap()
}

/// A prediction with its ticket about to be queued.
pub(crate) fn new(spec: &ModelSpec, input: &Value, change: impl Fn(&mut NewPrediction)) -> NewPrediction {
    let mut new = NewPrediction {
        id: PredictionId::generate(),
        tenant: String::new(),
        model: spec.name.clone(),
        version: spec.version.clone(),
        input: to_raw_value(input).unwrap(),
        priority: Priority::Normal,
        deadline: None,
        metadata: None,
        fingerprint: [0; 32],
        idempotency_key: None,
        max_retries: 3,
        retention: Duration::from_secs(3600),
        queued: true,
        webhook: None,
        claimant: None,
    };
    change(&mut new);
    new
}

fn ticket(new: &NewPrediction) -> Ticket {
    Ticket { id: new.id, stream: stream(new.model.clone(), new.version.clone(), new.priority) }
}

pub(crate) fn stream(model: ModelName, version: Version, priority: Priority) -> StreamKey {
    StreamKey { model, version, priority }
}

/// The output, read.
pub(crate) fn output(prediction: &Prediction) -> Value {
    serde_json::from_str(prediction.output.as_ref().unwrap().get()).unwrap()
}

/// What senders read secrets with, unless told otherwise.
pub(crate) fn sealer() -> Sealer {
    Sealer::new([7; 32])
}

/// The delivery of this event.
pub(crate) fn of(prediction: PredictionId, event: Event) -> DeliveryId {
    DeliveryId { prediction, event }
}

/// The ids as a set.
pub(crate) fn set(ids: &[PredictionId]) -> HashSet<PredictionId> {
    ids.iter().copied().collect()
}
