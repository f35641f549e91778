//! Claimed in the transaction that stores them: held like anything that is claimed, and no more of them than there is room for.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, channel},
    },
    time::{Duration, Instant},
};

use futures::{FutureExt, future::join_all};
use prediction::{Event, PredictionId, Priority, Status, WorkerId};
use store::{
    Accepted, Accepter, Claimant, Claimed, Due, NewPrediction, Outcome, Places, Run, RunMetrics, StoreError, Taker,
    Written,
};

use crate::{
    accepter::remembering,
    fixture::{Fixture, LEASE, SPENT, SWEEP, eventually, json, new, serves, stream, told},
};

on_both!(
    what_is_claimed_when_it_is_stored_is_held,
    its_lease_ends_like_any_other,
    one_whose_start_is_told_waits,
    a_repetition_claims_nothing,
    no_more_is_taken_than_there_is_room_for,
    a_refused_one_is_not_run,
    what_may_have_been_stored_is_given_back,
);

fn claimed_by(worker: WorkerId, lease: Duration) -> NewPrediction {
    NewPrediction { claimant: Some(Claimant { worker, lease }), ..new() }
}

async fn what_is_claimed_when_it_is_stored_is_held(fixture: Fixture) {
    let sent = NewPrediction { deadline: Some(LEASE), ..claimed_by(fixture.worker, LEASE) };
    let other = new();
    // In one statement with one that waits.
    fixture.accept([sent.clone(), other.clone()]).await;
    let found = fixture.store.get("", &[sent.id]).await.unwrap().remove(0);
    assert_eq!((found.status, found.attempt), (Status::Processing, 1));
    assert_eq!((found.started_at, found.metrics.queue_time), (Some(found.created_at), Some(0.0)));
    assert_eq!(fixture.store.get("", &[other.id]).await.unwrap()[0].status, Status::Starting);

    let stranger = WorkerId::generate();
    let claim = fixture.store.claim(stranger, &[sent.id], LEASE).await.unwrap();
    assert!(claim.claimed.is_empty() && claim.suspects.is_empty(), "{claim:?}");
    assert_eq!(fixture.store.take_due(&stream(), Due::default(), 10).await.unwrap(), [other.id]);
    let next = fixture.store.claim_next(stranger, &serves(), &[], 10, LEASE).await.unwrap();
    assert_eq!(next.claimed.iter().map(|claimed| claimed.run.id).collect::<Vec<_>>(), [other.id]);
    assert!(fixture.store.sweep(SWEEP).await.unwrap().requeued.is_empty());

    let run = Run { id: sent.id, epoch: 1 };
    assert!(fixture.store.renew(fixture.worker, &[run], LEASE).await.unwrap().lost.is_empty());
    assert_eq!(fixture.store.renew(stranger, &[run], LEASE).await.unwrap().lost, [sent.id]);
    let outcome = || Outcome::Succeeded { run, output: json("1"), metrics: RunMetrics::default() };
    assert_eq!(fixture.store.complete(stranger, [outcome()]).await.unwrap(), [Written::Stale]);
    assert_eq!(fixture.store.complete(fixture.worker, [outcome()]).await.unwrap(), [Written::Applied]);
}

async fn its_lease_ends_like_any_other(fixture: Fixture) {
    let id = fixture.accept([claimed_by(fixture.worker, SPENT)]).await[0];
    let swept = async || Some(fixture.store.sweep(SWEEP).await.unwrap().requeued).filter(|swept| !swept.is_empty());
    assert_eq!(eventually(swept).await, [id]);
    let alone = fixture.claim_suspect(LEASE).await.unwrap();
    assert_eq!((alone.run.id, alone.run.epoch, alone.is_first), (id, 3, false));
}

async fn one_whose_start_is_told_waits(fixture: Fixture) {
    let claimant = Some(Claimant { worker: fixture.worker, lease: LEASE });
    let start = fixture.accept([NewPrediction { claimant, ..told(&[Event::Start, Event::Completed]) }]).await[0];
    let end = fixture.accept([NewPrediction { claimant, ..told(&[Event::Completed]) }]).await[0];
    let status = async |id| fixture.store.get("", &[id]).await.unwrap()[0].status;
    assert_eq!((status(start).await, status(end).await), (Status::Starting, Status::Processing));
    assert!(fixture.deliveries("").await.is_empty());
    fixture.store.claim(fixture.worker, &[start], LEASE).await.unwrap();
    let told = fixture.deliveries("").await;
    assert_eq!(told.iter().map(|told| (told.prediction, told.event)).collect::<Vec<_>>(), [(start, Event::Start)]);
}

async fn a_repetition_claims_nothing(fixture: Fixture) {
    let keyed = || NewPrediction { idempotency_key: Some("key".into()), ..claimed_by(fixture.worker, LEASE) };
    let (first, again) = (keyed(), keyed());
    let id = first.id;
    fixture.accept([first.clone()]).await;
    let before = fixture.states().await;
    for repeated in [again, first] {
        let answers = fixture.store.accept(vec![repeated]).await.unwrap();
        assert_eq!(answers, [Accepted::Replayed { id }]);
    }
    assert_eq!(fixture.states().await, before);
}

/// What a worker was given.
#[derive(Default)]
struct Given {
    started: Vec<Claimed>,
    given_back: Vec<Run>,
}

/// Room in it.
struct Room {
    claimant: Claimant,
    count: usize,
    given: Arc<Mutex<Given>>,
}

impl Places for Room {
    fn claimant(&self) -> Claimant {
        self.claimant
    }

    fn count(&self) -> usize {
        self.count
    }

    fn start(&mut self, stored: Vec<Claimed>, since: Instant) {
        assert!(!stored.is_empty() && stored.len() <= self.count && since.elapsed() < LEASE);
        self.count -= stored.len();
        self.given.lock().unwrap().started.extend(stored);
    }

    fn give_back(&mut self, doubtful: Vec<Run>) {
        self.given.lock().unwrap().given_back.extend(doubtful);
    }
}

/// A worker with room for so many of each version. It is first asked once `all_are_sent`.
fn worker(fixture: &Fixture, room: usize, all_are_sent: Receiver<()>) -> (Taker, Arc<Mutex<Given>>) {
    let given: Arc<Mutex<Given>> = Arc::default();
    let (to, left) = (Arc::clone(&given), Mutex::new((HashMap::new(), Some(all_are_sent))));
    let claimant = Claimant { worker: fixture.worker, lease: LEASE };
    let taker: Taker = Arc::new(move |model, _, most| {
        let mut left = left.lock().unwrap();
        if let Some(all_are_sent) = left.1.take() {
            // Its sender may have gone.
            let _ = all_are_sent.recv();
        }
        let left = left.0.entry(model.clone()).or_insert(room);
        let count = most.min(*left);
        *left -= count;
        let room = Room { claimant, count, given: Arc::clone(&to) };
        (count > 0).then(|| Box::new(room) as Box<dyn Places>)
    });
    (taker, given)
}

/// One that is asked at once.
fn idle_worker(fixture: &Fixture, room: usize) -> (Taker, Arc<Mutex<Given>>) {
    worker(fixture, room, channel().1)
}

fn sorted(ids: impl Iterator<Item = PredictionId>) -> Vec<PredictionId> {
    let mut ids: Vec<_> = ids.collect();
    ids.sort();
    ids
}

async fn no_more_is_taken_than_there_is_room_for(fixture: Fixture) {
    let (all_are_sent, waited_for) = channel();
    let ((taker, given), (enqueue, tickets)) = (worker(&fixture, 10, waited_for), remembering());
    let accepter = Accepter::start(fixture.store.clone(), enqueue, Some(taker), 1, 64);
    let queued = |priority| NewPrediction { queued: true, priority, ..new() };
    // Stored by itself: what comes meanwhile is stored together.
    let first = queued(Priority::Normal);
    let mut calls = vec![Box::pin(accepter.accept(first.clone()))];
    assert!(calls[0].as_mut().now_or_never().is_none());
    tokio::time::sleep(Duration::from_millis(50)).await;
    let other = NewPrediction { model: "augur/other".parse().unwrap(), ..queued(Priority::Low) };
    let told = NewPrediction { queued: true, ..told(&[Event::Start]) };
    let low: Vec<_> = (0..20).map(|_| queued(Priority::Low)).collect();
    let high: Vec<_> = (0..8).map(|_| queued(Priority::High)).collect();
    let normal = queued(Priority::Normal);
    let rest = [vec![told.clone(), new(), other.clone(), normal.clone()], low.clone(), high.clone()].concat();
    for new in rest {
        let mut call = Box::pin(accepter.accept(new));
        assert!(call.as_mut().now_or_never().is_none());
        calls.push(call);
    }
    all_are_sent.send(()).unwrap();
    let answers = join_all(calls).await;
    assert!(answers.iter().all(|answer| matches!(answer, Ok(Accepted::Created { .. }))), "{answers:?}");
    accepter.drain().await;

    let started = std::mem::take(&mut *given.lock().unwrap()).started;
    let expected = sorted([&first, &other, &normal].into_iter().chain(&high).map(|new| new.id));
    assert_eq!(sorted(started.iter().map(|claimed| claimed.run.id)), expected);
    let place = |id| started.iter().position(|claimed| claimed.run.id == id).unwrap();
    assert!(high.iter().all(|high| place(high.id) < place(normal.id)), "the highest priority first");
    assert!(started.iter().all(|one| one.is_first && one.input.as_ref().unwrap().get() == first.input.get()));
    let queued = sorted(tickets.lock().unwrap().iter().map(|ticket| ticket.id));
    assert_eq!(queued, sorted(low.iter().chain([&told]).map(|new| new.id)));
    let states = fixture.states().await;
    assert_eq!(states.values().filter(|state| state.status == Status::Processing.code()).count(), 11);
    assert_eq!(fixture.number("SELECT count(*) FROM predictions WHERE queued_at IS NOT NULL").await, 21);
    // Each is run as it was claimed.
    let outcomes = started.iter().map(|claimed| Outcome::Released { run: claimed.run });
    let written = fixture.store.complete(fixture.worker, outcomes.collect::<Vec<_>>()).await.unwrap();
    assert!(written.iter().all(|written| *written == Written::Applied), "{written:?}");
}

async fn a_refused_one_is_not_run(fixture: Fixture) {
    let ((taker, given), (enqueue, tickets)) = (idle_worker(&fixture, 100), remembering());
    let accepter = Accepter::start(fixture.store.clone(), enqueue, Some(taker), 1, 64);
    // The database insists on an object.
    let poisonous = NewPrediction { metadata: Some(json("[1]")), queued: true, ..new() };
    let good = || NewPrediction { queued: true, ..new() };
    let calls = (0..40).map(|place| accepter.accept(if place == 17 { poisonous.clone() } else { good() }));
    let answers = join_all(calls).await;
    let refused = |answer: &Result<_, Arc<StoreError>>| answer.is_err();
    assert_eq!(answers.iter().position(refused), Some(17));
    assert_eq!(answers.iter().filter(|answer| refused(answer)).count(), 1);
    accepter.drain().await;
    let given = given.lock().unwrap();
    assert_eq!((given.started.len(), tickets.lock().unwrap().len()), (39, 0));
    assert!(given.started.iter().all(|claimed| claimed.run.id != poisonous.id));
}

async fn what_may_have_been_stored_is_given_back(fixture: Fixture) {
    let ((taker, given), (enqueue, tickets)) = (idle_worker(&fixture, 100), remembering());
    let accepter = Accepter::start(fixture.store.clone(), enqueue, Some(taker), 1, 64);
    let queued = || NewPrediction { queued: true, ..new() };
    let sent = queued();
    let answers = join_all((0..3).map(|_| accepter.accept(sent.clone()))).await;
    let created = |answer: &&Result<Accepted, _>| matches!(answer, Ok(Accepted::Created { .. }));
    assert_eq!(answers.iter().filter(created).count(), 1, "{answers:?}");
    fixture.store.close().await;
    let (doubtful, told) = (queued(), NewPrediction { queued: true, ..told(&[Event::Start]) });
    let answers = join_all([&doubtful, &told].map(|new| accepter.accept(new.clone()))).await;
    assert!(answers.iter().all(Result::is_err), "{answers:?}");
    accepter.drain().await;
    let given = given.lock().unwrap();
    assert_eq!(given.started.iter().map(|claimed| claimed.run.id).collect::<Vec<_>>(), [sent.id]);
    assert_eq!(given.given_back, [Run { id: doubtful.id, epoch: 1 }]);
    assert!(tickets.lock().unwrap().is_empty());
}
