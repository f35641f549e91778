//! Batches are formed of what is ready, and a failure stays with its item.

use std::sync::{
    atomic::AtomicBool,
    mpsc::{Receiver as Gate, Sender, channel},
};

use serde_json::value::{RawValue, to_raw_value};

use super::*;

/// What a toy item does when it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Answer(usize),
    FailAlone,
    FailItsBatch,
    PanicItsBatch,
    LoseAnswers,
    /// Fails its batch and all that come later, as what it runs on is broken.
    Break,
    /// Keeps the engine busy until the gate opens.
    WaitAtGate,
    /// The same, once its turn is another's.
    PassThenWait,
    /// Passes the turn of a batch that it then fails.
    PassThenFail,
    /// Answers whether its turn was passed.
    TryToPass,
}

struct Toy {
    is_broken: AtomicBool,
    gate: Mutex<Gate<()>>,
    batches: Mutex<Vec<Vec<Does>>>,
}

impl Architecture for Toy {
    type Item = Does;

    fn prepare(&self, _: &RawValue) -> Result<Does, Failure> {
        Ok(Does::Answer(1))
    }

    fn cost(&self, item: &Does) -> usize {
        if let Does::Answer(cost) = item { *cost } else { 1 }
    }

    fn max_batch_cost(&self) -> usize {
        100
    }

    fn tokens(&self, item: &Does) -> Option<u32> {
        if let Does::Answer(cost) = item { u32::try_from(*cost).ok() } else { None }
    }

    fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::SeqCst)
    }

    fn under_way(&self) -> usize {
        2
    }

    fn run(
        &self,
        batch: &[(Does, Abandon)],
        turn: &mut Turn<'_>,
    ) -> Result<Vec<Result<Box<RawValue>, Failure>>, Failure> {
        let batch: Vec<_> = batch.iter().map(|(does, _)| *does).collect();
        self.batches.lock().expect("a lock").push(batch.clone());
        while batch.contains(&Does::PassThenWait) && !turn.pass() {
            thread::yield_now();
        }
        if batch.contains(&Does::PassThenFail) {
            while batch.len() > 1 && !turn.pass() {
                thread::yield_now();
            }
            return Err(Failure::new(FailureCode::ModelError, "the batch failed"));
        }
        if batch.contains(&Does::WaitAtGate) || batch.contains(&Does::PassThenWait) {
            self.gate.lock().expect("a lock").recv().expect("the gate opens");
        }
        if batch.contains(&Does::Break) {
            self.is_broken.store(true, Ordering::SeqCst);
        }
        if batch.contains(&Does::FailItsBatch) || self.is_broken() {
            return Err(Failure::new(FailureCode::ModelError, "the batch failed").with_retryable(true));
        }
        assert!(!batch.contains(&Does::PanicItsBatch), "a panic, as the test wants it");
        if batch.contains(&Does::LoseAnswers) {
            return Ok(Vec::new());
        }
        let answers = batch.iter().map(|does| match does {
            Does::FailAlone => Err(Failure::new(FailureCode::InvalidInput, "this one failed")),
            Does::TryToPass => Ok(to_raw_value(&turn.pass()).expect("JSON")),
            does => Ok(to_raw_value(&format!("{does:?}")).expect("JSON")),
        });
        Ok(answers.collect())
    }
}

type Results = Vec<Result<Output, Failure>>;

async fn send(
    jobs: &mpsc::Sender<Job<Does>>,
    item: Does,
    abandoned: bool,
) -> oneshot::Receiver<Result<Output, Failure>> {
    let (reply, result) = oneshot::channel();
    let abandon = Abandon::default();
    if abandoned {
        abandon.abandon();
    }
    assert!(
        jobs.send(Job { item, abandon, draft: Draft::default(), begun: oneshot::channel().0, reply }).await.is_ok(),
        "the engine runs"
    );
    result
}

/// A toy, and what opens its gate.
fn toy() -> (Sender<()>, Arc<Toy>) {
    let (open, gate) = channel();
    (open, Arc::new(Toy { is_broken: AtomicBool::new(false), gate: Mutex::new(gate), batches: Mutex::default() }))
}

/// Waits until so many batches have begun.
async fn until_batches(toy: &Toy, count: usize) {
    while toy.batches.lock().expect("a lock").len() < count {
        tokio::task::yield_now().await;
    }
}

/// Runs these items, all ready when the engine looks; what they gave, and the batches that ran.
async fn run(max_batch: usize, items: &[(Does, bool)]) -> (Results, Vec<Vec<Does>>) {
    let (open, toy) = toy();
    let jobs = start("toy", Arc::clone(&toy), max_batch).expect("a thread");
    let waiting = send(&jobs, Does::WaitAtGate, false).await;
    until_batches(&toy, 1).await;
    let mut results = Vec::new();
    for (item, abandoned) in items {
        results.push(send(&jobs, *item, *abandoned).await);
    }
    open.send(()).expect("the engine waits");
    waiting.await.expect("an answer").expect("no failure");
    let mut outcomes = Vec::new();
    for result in results {
        outcomes.push(result.await.expect("an answer"));
    }
    // It still runs after whatever happened.
    let after = send(&jobs, Does::Answer(7), false).await.await.expect("an answer").expect("no failure");
    assert_eq!((after.value.get(), after.batch_size, after.tokens), ("\"Answer(7)\"", 1, Some(7)));
    let mut batches = toy.batches.lock().expect("a lock").clone();
    batches.remove(0);
    batches.pop();
    (outcomes, batches)
}

fn wanted(items: &[Does]) -> Vec<(Does, bool)> {
    items.iter().map(|item| (*item, false)).collect()
}

#[tokio::test]
async fn what_is_ready_runs_together_cheapest_first() {
    use Does::Answer;
    let (results, batches) = run(4, &wanted(&[5, 1, 4, 2, 3, 6].map(Answer))).await;
    assert_eq!(batches, [vec![Answer(1), Answer(2), Answer(3), Answer(4)], vec![Answer(5), Answer(6)]]);
    let sizes: Vec<_> = results.iter().map(|result| result.as_ref().expect("no failure").batch_size).collect();
    assert_eq!(sizes, [2, 4, 4, 4, 4, 2]);
    assert_eq!(results[2].as_ref().expect("no failure").value.get(), "\"Answer(4)\"");
}

#[tokio::test]
async fn a_batch_costs_no_more_than_its_bound_except_of_one() {
    use Does::Answer;
    let (_, batches) = run(8, &wanted(&[10, 30, 30, 40, 40, 60, 500].map(Answer))).await;
    let expected: [&[usize]; 5] = [&[10, 30, 30], &[40, 40], &[60], &[500], &[]];
    let costs: Vec<Vec<_>> = expected.iter().map(|batch| batch.iter().copied().map(Answer).collect()).collect();
    assert_eq!(batches, costs[..4]);
}

#[tokio::test]
async fn a_costly_one_runs_before_cheap_ones_that_came_after_its_window() {
    use Does::{Answer, WaitAtGate};
    let (open, toy) = toy();
    let jobs = start("toy", Arc::clone(&toy), 1).expect("a thread");
    let mut cheap = vec![send(&jobs, WaitAtGate, false).await];
    until_batches(&toy, 1).await;
    let costly = send(&jobs, Answer(90), false).await;
    for _ in 1..WINDOW_BATCHES {
        cheap.push(send(&jobs, WaitAtGate, false).await);
    }
    // For each cheap one that ends another one comes.
    for round in 1..=2 * WINDOW_BATCHES {
        open.send(()).expect("one waits");
        until_batches(&toy, round + 1).await;
        cheap.push(send(&jobs, WaitAtGate, false).await);
    }
    for _ in &cheap {
        open.send(()).expect("more wait");
    }
    for result in cheap.into_iter().chain([costly]) {
        assert!(result.await.expect("an answer").is_ok());
    }
    let batches = toy.batches.lock().expect("a lock").clone();
    assert_eq!(batches.iter().position(|batch| *batch == [Answer(90)]), Some(WINDOW_BATCHES), "{batches:?}");
}

#[tokio::test]
async fn a_failure_of_one_touches_no_other() {
    use Does::{Answer, FailAlone};
    let (results, batches) = run(8, &wanted(&[Answer(1), FailAlone, Answer(2)])).await;
    assert_eq!(batches.len(), 1);
    assert!(results[0].is_ok() && results[2].is_ok());
    assert_eq!(results[1].as_ref().expect_err("a failure").code, FailureCode::InvalidInput);
}

#[tokio::test]
async fn a_failing_batch_is_split_until_the_guilty_stands_alone() {
    for guilty in [Does::FailItsBatch, Does::PanicItsBatch, Does::LoseAnswers] {
        for place in 0..7 {
            let mut items = vec![Does::Answer(1); 7];
            items[place] = guilty;
            let (results, batches) = run(8, &wanted(&items)).await;
            for (index, result) in results.iter().enumerate() {
                assert_eq!(result.is_err(), index == place, "{guilty:?} at {place}: {index} gave {result:?}");
            }
            let failure = results[place].as_ref().expect_err("a failure");
            assert_eq!(failure.code, FailureCode::ModelError);
            assert_eq!(failure.retryable, guilty == Does::FailItsBatch, "its own word on retrying is kept");
            assert!(batches.len() > 1 && batches.contains(&vec![guilty]), "{batches:?}");
        }
    }
}

#[tokio::test]
async fn what_runs_on_something_broken_is_not_split() {
    use Does::{Answer, Break};
    let (open, toy) = toy();
    let jobs = start("toy", Arc::clone(&toy), 8).expect("a thread");
    let waiting = send(&jobs, Does::WaitAtGate, false).await;
    until_batches(&toy, 1).await;
    let mut results = Vec::new();
    for item in [Answer(1), Answer(2), Break, Answer(3), Answer(4)] {
        results.push(send(&jobs, item, false).await);
    }
    open.send(()).expect("the engine waits");
    waiting.await.expect("an answer").expect("no failure");
    for result in results {
        assert!(result.await.expect("an answer").expect_err("a failure").retryable);
    }
    assert!(send(&jobs, Answer(5), false).await.await.expect("an answer").is_err());
    let batches = toy.batches.lock().expect("a lock").clone();
    assert_eq!(batches[1..], [vec![Answer(1), Break, Answer(2), Answer(3), Answer(4)], vec![Answer(5)]]);
}

#[tokio::test]
async fn the_abandoned_are_not_run() {
    use Does::Answer;
    let items = [(Answer(1), false), (Answer(2), true), (Answer(3), false), (Answer(4), true)];
    let (results, batches) = run(8, &items).await;
    assert_eq!(batches, [vec![Answer(1), Answer(3)]]);
    assert!(results[0].is_ok() && results[2].is_ok());
    for index in [1, 3] {
        assert_eq!(results[index].as_ref().expect_err("a failure").code, FailureCode::Canceled);
    }
}

#[tokio::test]
async fn the_next_batch_begins_while_one_ends() {
    let (open, toy) = toy();
    let jobs = start("toy", Arc::clone(&toy), 8).expect("a thread");
    for round in 0..3 {
        let mut ending = send(&jobs, Does::PassThenWait, false).await;
        until_batches(&toy, 2 * round + 1).await;
        let next = send(&jobs, Does::Answer(3), false).await.await.expect("an answer").expect("no failure");
        assert_eq!((next.value.get(), next.batch_size), ("\"Answer(3)\"", 1));
        assert!(ending.try_recv().is_err(), "it has not ended");
        open.send(()).expect("it waits");
        assert!(ending.await.expect("an answer").is_ok());
    }
}

#[tokio::test]
async fn a_turn_is_not_passed_while_nothing_waits() {
    let jobs = start("toy", toy().1, 8).expect("a thread");
    for _ in 0..3 {
        let alone = send(&jobs, Does::TryToPass, false).await.await.expect("an answer").expect("no failure");
        assert_eq!(alone.value.get(), "false");
    }
}

#[tokio::test]
async fn a_batch_that_fails_after_its_turn_is_split_like_any_other() {
    use Does::{Answer, PassThenFail};
    let (results, batches) = run(2, &wanted(&[PassThenFail, Answer(1), Answer(9)])).await;
    assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true, true]);
    assert_eq!(batches[0], [PassThenFail, Answer(1)]);
    assert_eq!(batches.len(), 4, "{batches:?}");
}
