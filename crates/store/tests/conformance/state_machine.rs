//! The state machine under random schedules: actors interleave, and after every step each row is compared with a model.
//! `AUGUR_TEST_SEQUENCES` says how many schedules, `AUGUR_TEST_SEED` which is the first; a failure names its seed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use prediction::{DeliveryId, Event, Failure, FailureCode, PredictionId, Status, WorkerId};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use store::{CancelResult, Claimant, Claimed, Due, NewPrediction, Outcome, Run, RunMetrics, Sweep, Written};

use crate::fixture::{Fixture, LEASE, SPENT, SWEEP, State, json, new, serves, stream, told};

on_both!(random_schedules_follow_the_model);

const STEPS: usize = 60;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

async fn random_schedules_follow_the_model(fixture: Fixture) {
    let first = setting("AUGUR_TEST_SEED", 1);
    let fixture = Arc::new(fixture);
    for seed in first..first + setting("AUGUR_TEST_SEQUENCES", 20) {
        let fixture = Arc::clone(&fixture);
        let schedule = tokio::spawn(async move {
            let mut schedule = Schedule::new(&fixture, seed).await;
            for _ in 0..STEPS {
                schedule.step().await;
                schedule.check().await;
            }
        });
        assert!(schedule.await.is_ok(), "a schedule failed: repeat it with AUGUR_TEST_SEED={seed}");
    }
}

/// What the model knows beside the row.
struct Known {
    state: State,
    /// Its lease was over when it was given.
    spent: bool,
    /// Waits for a retry that is not due within the test.
    paused: bool,
    /// Its deadline passed when it was accepted.
    late: bool,
    /// What its caller wants to be told of, and what happened of that.
    wants: Vec<Event>,
    told: Vec<Event>,
}

impl Known {
    fn is(&self, status: Status) -> bool {
        self.state.status == status.code()
    }

    fn is_terminal(&self) -> bool {
        self.state.status >= Status::Succeeded.code()
    }

    fn is_claimable(&self) -> bool {
        self.is(Status::Starting) && !self.paused && !self.late
    }

    fn holds(&self, run: Run) -> bool {
        self.is(Status::Processing) && self.state.epoch == run.epoch
    }

    fn tell(&mut self, event: Event) {
        if self.wants.contains(&event) {
            self.told.push(event);
        }
    }

    fn end(&mut self, status: Status) {
        if status == Status::Succeeded {
            self.tell(Event::Output);
        }
        self.tell(Event::Completed);
        self.state.status = status.code();
        self.state.outcomes = 1;
        self.state.solo = false;
    }
}

/// One random interleaving of workers, an API, and a sweeper.
struct Schedule<'a> {
    fixture: &'a Fixture,
    random: StdRng,
    workers: Vec<WorkerId>,
    known: BTreeMap<PredictionId, Known>,
    /// Every run there ever was, and whose: the source of stale completions.
    runs: Vec<(WorkerId, Run)>,
}

impl<'a> Schedule<'a> {
    async fn new(fixture: &'a Fixture, seed: u64) -> Self {
        // What earlier schedules left is none of this one's.
        for (id, state) in fixture.states().await {
            if state.status < Status::Succeeded.code() {
                fixture.store.cancel("", id).await.unwrap();
            }
        }
        let given_up = "UPDATE deliveries SET status = 3, completed_at = created_at WHERE status = 0";
        fixture.execute(given_up).await.unwrap();
        fixture.store.purge(LEASE, u32::MAX).await.unwrap();
        assert!(fixture.states().await.is_empty());
        Self {
            fixture,
            random: StdRng::seed_from_u64(seed),
            workers: (0..4).map(|_| WorkerId::generate()).collect(),
            known: BTreeMap::new(),
            runs: Vec::new(),
        }
    }

    fn some_ids(&mut self) -> Vec<PredictionId> {
        let all: Vec<PredictionId> = self.known.keys().copied().collect();
        all.into_iter().filter(|_| self.random.random_bool(0.4)).collect()
    }

    fn a_worker(&mut self) -> WorkerId {
        self.workers[self.random.random_range(0..self.workers.len())]
    }

    fn a_lease(&mut self) -> Duration {
        if self.random.random_bool(0.4) { SPENT } else { LEASE }
    }

    async fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..20 => self.accept().await,
            20..32 => self.claim().await,
            32..40 => self.claim_next().await,
            40..48 => self.claim_suspect().await,
            48..56 => self.renew().await,
            56..78 => self.complete().await,
            78..84 => self.cancel().await,
            84..95 => self.sweep().await,
            _ => self.dispatch().await,
        }
    }

    /// Every row is as the model has it, and none is missing.
    async fn check(&self) {
        let expected: BTreeMap<PredictionId, State> =
            self.known.iter().map(|(id, known)| (*id, known.state.clone())).collect();
        assert_eq!(self.fixture.states().await, expected);
        let expected: BTreeSet<DeliveryId> = (self.known.iter())
            .flat_map(|(id, known)| known.told.iter().map(|event| DeliveryId { prediction: *id, event: *event }))
            .collect();
        assert!(self.fixture.deliveries("").await.into_iter().eq(expected));
    }

    async fn accept(&mut self) {
        let (worker, lease) = (self.a_worker(), self.a_lease());
        let batch: Vec<(NewPrediction, bool, Vec<Event>)> = (0..self.random.random_range(1..4))
            .map(|_| {
                let late = self.random.random_bool(0.1);
                let mut wants = vec![Event::Start, Event::Output, Event::Completed];
                wants.retain(|_| self.random.random_bool(0.5));
                let new = if wants.is_empty() { new() } else { told(&wants) };
                let deadline = late.then_some(Duration::ZERO);
                let claimant = self.random.random_bool(0.3).then_some(Claimant { worker, lease });
                (NewPrediction { deadline, retention: Duration::ZERO, claimant, ..new }, late, wants)
            })
            .collect();
        self.fixture.accept(batch.iter().map(|(new, ..)| new.clone())).await;
        for (new, late, wants) in batch {
            let is_claimed = new.claimant.is_some() && !wants.contains(&Event::Start);
            let claims = i32::from(is_claimed);
            let state = State {
                id: new.id.0,
                status: if is_claimed { Status::Processing.code() } else { Status::Starting.code() },
                epoch: claims,
                attempts: claims,
                retries: 0,
                crashes: 0,
                releases: 0,
                suspect: false,
                solo: false,
                inputs: 1,
                outcomes: 0,
            };
            let spent = is_claimed && lease == SPENT;
            self.known.insert(new.id, Known { state, spent, paused: false, late, wants, told: vec![] });
            if is_claimed {
                self.runs.push((worker, Run { id: new.id, epoch: 1 }));
            }
        }
    }

    fn take(&mut self, worker: WorkerId, claimed: &[Claimed], lease: Duration) {
        for claimed in claimed {
            let known = self.known.get_mut(&claimed.run.id).expect("only what was accepted is claimed");
            assert!(known.is_claimable(), "claimed what does not wait");
            known.state.status = Status::Processing.code();
            known.state.epoch += 1;
            known.state.attempts += 1;
            assert_eq!(claimed.is_first, known.state.attempts == 1);
            assert!(claimed.webhook_events.iter().eq(known.wants.iter().copied()));
            if claimed.is_first {
                known.tell(Event::Start);
            }
            known.state.solo = known.state.suspect;
            known.spent = lease == SPENT;
            assert_eq!(claimed.run.epoch, known.state.epoch);
            assert_eq!(claimed.retries, u32::try_from(known.state.retries).unwrap());
            self.runs.push((worker, claimed.run));
        }
    }

    async fn claim(&mut self) {
        let (worker, ids, lease) = (self.a_worker(), self.some_ids(), self.a_lease());
        let claim = self.fixture.store.claim(worker, &ids, lease).await.unwrap();
        let expected = |suspect: bool| -> HashSet<PredictionId> {
            let waits = |id: &&PredictionId| self.known[id].is_claimable() && self.known[id].state.suspect == suspect;
            ids.iter().filter(waits).copied().collect()
        };
        assert_eq!(claim.claimed.iter().map(|claimed| claimed.run.id).collect::<HashSet<_>>(), expected(false));
        assert_eq!(claim.suspects.iter().copied().collect::<HashSet<_>>(), expected(true));
        self.take(worker, &claim.claimed, lease);
    }

    async fn claim_next(&mut self) {
        let (worker, lease, limit) = (self.a_worker(), self.a_lease(), self.random.random_range(1..5));
        let claim = self.fixture.store.claim_next(worker, &serves(), &[], limit, lease).await.unwrap();
        let waiting = self.known.values().filter(|known| known.is_claimable() && !known.state.suspect).count();
        assert_eq!(claim.claimed.len(), waiting.min(usize::try_from(limit).unwrap()));
        self.take(worker, &claim.claimed, lease);
    }

    async fn claim_suspect(&mut self) {
        let (worker, lease) = (self.a_worker(), self.a_lease());
        let claimed = self.fixture.store.claim_suspect(worker, &serves(), lease).await.unwrap();
        let waits = self.known.values().any(|known| known.is_claimable() && known.state.suspect);
        assert_eq!(claimed.is_some(), waits);
        self.take(worker, claimed.as_slice(), lease);
    }

    async fn renew(&mut self) {
        let worker = self.a_worker();
        let runs: Vec<Run> = (self.runs.iter().filter(|(owner, _)| *owner == worker))
            .map(|(_, run)| *run)
            .filter(|_| self.random.random_bool(0.5))
            .collect();
        let lost = self.fixture.store.renew(worker, &runs, LEASE).await.unwrap().lost;
        let lost: HashSet<PredictionId> = lost.into_iter().collect();
        let held: HashSet<PredictionId> =
            runs.iter().filter(|run| self.known[&run.id].holds(**run)).map(|run| run.id).collect();
        // Several runs of one prediction may be among them: at most the latest is held.
        assert_eq!(lost, runs.iter().map(|run| run.id).filter(|id| !held.contains(id)).collect());
        for id in held {
            self.known.get_mut(&id).unwrap().spent = false;
        }
    }

    async fn complete(&mut self) {
        for worker in self.workers.clone() {
            self.complete_as(worker).await;
        }
    }

    async fn complete_as(&mut self, worker: WorkerId) {
        let mut outcomes = Vec::new();
        let owners: HashMap<Run, WorkerId> = self.runs.iter().map(|(owner, run)| (*run, *owner)).collect();
        for (owner, run) in self.runs.clone() {
            // Mostly what it runs now; sometimes what is long over, or another's; sometimes twice.
            let chance = if owner == worker && self.known[&run.id].holds(run) { 0.5 } else { 0.02 };
            for _ in 0..2 {
                if self.random.random_bool(chance) {
                    outcomes.push(self.an_outcome(run));
                }
            }
        }
        let written = self.fixture.store.complete(worker, outcomes.clone()).await.unwrap();
        assert_eq!(written.len(), outcomes.len());
        for (outcome, written) in outcomes.iter().zip(written) {
            let run = match outcome {
                Outcome::Succeeded { run, .. }
                | Outcome::Failed { run, .. }
                | Outcome::Retry { run, .. }
                | Outcome::Released { run } => *run,
            };
            let known = self.known.get_mut(&run.id).unwrap();
            assert_eq!(written == Written::Applied, known.holds(run) && owners[&run] == worker, "{outcome:?}");
            if written == Written::Stale {
                continue;
            }
            match outcome {
                Outcome::Succeeded { .. } => known.end(Status::Succeeded),
                Outcome::Failed { .. } => known.end(Status::Failed),
                Outcome::Retry { delay, .. } => {
                    known.state.retries += 1;
                    known.paused = *delay == LEASE;
                }
                Outcome::Released { .. } => known.state.releases += 1,
            }
            if !known.is_terminal() {
                known.state.status = Status::Starting.code();
                known.state.solo = false;
            }
        }
    }

    fn an_outcome(&mut self, run: Run) -> Outcome {
        let metrics = RunMetrics::default();
        match self.random.random_range(0..5) {
            0 => Outcome::Succeeded { run, output: json("1"), metrics },
            1 => Outcome::Failed { run, failure: Failure::new(FailureCode::ModelError, "it broke"), metrics },
            2 => Outcome::Retry { run, delay: LEASE },
            3 => Outcome::Retry { run, delay: Duration::ZERO },
            _ => Outcome::Released { run },
        }
    }

    async fn cancel(&mut self) {
        let ids: Vec<PredictionId> = self.known.keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        let id = ids[self.random.random_range(0..ids.len())];
        let result = self.fixture.store.cancel("", id).await.unwrap();
        let known = self.known.get_mut(&id).unwrap();
        assert_eq!(matches!(result, CancelResult::AlreadyTerminal(_)), known.is_terminal());
        assert_eq!(matches!(result, CancelResult::Canceled(_)), !known.is_terminal());
        if !known.is_terminal() {
            known.state.epoch += 1;
            known.end(Status::Canceled);
        }
    }

    async fn sweep(&mut self) {
        let leases = self.random.random_bool(0.8);
        let swept = self.fixture.store.sweep(Sweep { leases, ..SWEEP }).await.unwrap();
        // A clock that counts in milliseconds may not have moved on since a lease was given, so any of the spent ones may
        // have been swept; none of the others. What its deadline ended is known exactly.
        let requeued = swept.requeued.iter().map(|id| (id, false));
        for (id, is_ended) in requeued.chain(swept.ended.iter().map(|id| (id, true))) {
            let known = self.known.get_mut(id).expect("only what was accepted is swept");
            known.state.epoch += 1;
            if known.late && is_ended {
                assert!(!known.is_terminal());
                known.end(Status::Canceled);
                continue;
            }
            assert!(leases && known.is(Status::Processing) && known.spent, "swept what is held");
            known.state.crashes += i32::from(known.state.solo);
            known.state.suspect = true;
            if known.state.crashes == 3 {
                known.end(Status::Failed);
            } else {
                known.state.status = Status::Starting.code();
                known.state.solo = false;
            }
            assert_eq!(is_ended, known.is_terminal());
        }
        assert!(self.known.values().all(|known| !known.late || known.is_terminal()), "a deadline was missed");
    }

    async fn dispatch(&mut self) {
        let due = Due { queued_before: None, queued_for: self.random.random_bool(0.5).then_some(Duration::ZERO) };
        for id in self.fixture.store.take_due(&stream(), due, 10).await.unwrap() {
            let known = &self.known[&id];
            assert!(known.is(Status::Starting) && !known.paused);
        }
        let ids = self.some_ids();
        self.fixture.store.mark_unqueued(&ids).await.unwrap();
    }
}
