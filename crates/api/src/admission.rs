//! Whether the queue has room for one more. What waits is counted in the store now and then, and what was let in since is added
//! to that: so a prediction costs no question, and one API never lets in more than the bound. Several APIs together may exceed it
//! by what the others let in between two counts.
//!
//! While requests carry no keys, all callers share the one bound; a caller's own share has its place in [`Admission::admit`].

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prediction::ModelSpec;
use store::{Store, StoreError};
use tokio::time::{Instant, sleep};

use crate::{
    api::Api,
    pace::{Line, Pace, Rate},
    problem::{Kind, Problem},
};

/// The pause between two counts while there is something to count…
const PAUSE: Duration = Duration::from_millis(250);
/// …and while there is nothing.
const IDLE_PAUSE: Duration = Duration::from_secs(1);
/// The pause is at least so many times what the last count took, so that long queues do not keep the database busy with counting.
const PAUSE_PER_COUNT: u32 = 20;
/// Who is refused is told to come back when this part of the bound has been served: not all who come back can have the first
/// place that is free.
const ROOM_TO_COME_BACK_TO: f64 = 0.1;
/// The longest time after which to come back, in seconds: OpenAI's clients give up when told to wait for longer than two minutes.
const LONGEST_RETRY_AFTER: f64 = 60.0;
/// The same while nothing is known of how fast predictions are served.
const USUAL_RETRY_AFTER: f64 = 10.0;

/// How long the queue may get.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The most predictions that wait.
    pub(crate) predictions: u32,
    /// The most work that waits for a version, as the time that its workers take for it.
    pub(crate) work: Option<Duration>,
}

/// Lets predictions into the queue, or refuses them.
pub(crate) struct Admission {
    bounds: Bounds,
    queue: Mutex<Queue>,
}

/// The queue as far as it is known.
#[derive(Default)]
struct Queue {
    all: Count,
    /// By version; kept only for the bound on work.
    lines: HashMap<Line, Count>,
    rates: HashMap<Line, Rate>,
}

/// How many wait.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    /// When they were last counted.
    counted: u64,
    /// Let in since, or so shortly before that the count may have missed them.
    since: u64,
    /// Of these, how many are still on their way into the store.
    on_the_way: u64,
    /// Of these, how many were in the store when the count that is under way began.
    settled: u64,
}

impl Count {
    /// At most so many wait, unless others let some in.
    fn at_most(self) -> u64 {
        self.counted + self.since
    }

    fn let_in(&mut self) {
        self.since += 1;
        self.on_the_way += 1;
    }

    fn arrive(&mut self, is_in_queue: bool) {
        self.on_the_way -= 1;
        if !is_in_queue {
            self.since -= 1;
        }
    }

    fn begin_counting(&mut self) {
        self.settled = self.since - self.on_the_way;
    }

    fn end_counting(&mut self, counted: u64) {
        self.counted = counted;
        self.since = self.since.saturating_sub(std::mem::take(&mut self.settled)).max(self.on_the_way);
    }
}

/// A place in the queue. Given back when dropped, unless the store has been handed what it was for.
#[must_use]
pub(crate) struct Admitted<'a> {
    admission: &'a Admission,
    line: Option<Line>,
    is_handed_in: bool,
}

impl Admitted<'_> {
    /// Says that the store is being handed the prediction: whatever becomes of the request, it may be in the queue.
    pub(crate) fn hand_in(&mut self) {
        self.is_handed_in = true;
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        let mut queue = self.admission.queue();
        queue.all.arrive(self.is_handed_in);
        if let Some(count) = self.line.as_ref().and_then(|line| queue.lines.get_mut(line)) {
            count.arrive(self.is_handed_in);
        }
    }
}

impl Admission {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, queue: Mutex::default() }
    }

    /// Lets in one prediction for this version, or says when to come back.
    pub(crate) fn admit(&self, spec: &ModelSpec) -> Result<Admitted<'_>, Problem> {
        let mut queue = self.queue();
        let (waiting, bound) = (queue.all.at_most(), u64::from(self.bounds.predictions));
        if waiting >= bound {
            let rate: f64 = queue.rates.values().filter_map(|rate| rate.at_work).sum();
            let excess = waiting as f64 - bound as f64 * (1.0 - ROOM_TO_COME_BACK_TO);
            let seconds = Some(excess / rate).filter(|_| rate > 0.0);
            let detail = format!("As many predictions wait as this server lets wait ({bound}).");
            return Err(full(&detail, seconds));
        }
        let mut line = None;
        if let Some(bound) = self.bounds.work {
            let key = (spec.name.clone(), spec.version.clone());
            // Of a line whose rate is not known, nothing is known but its length.
            let rate = queue.rates.get(&key).and_then(|rate| rate.at_work);
            let count = queue.lines.entry(key.clone()).or_default();
            let work = rate.map(|rate| count.at_most() as f64 / rate).filter(|work| *work >= bound.as_secs_f64());
            if let Some(work) = work {
                let excess = work - bound.as_secs_f64() * (1.0 - ROOM_TO_COME_BACK_TO);
                let detail = format!("{} has as much work waiting as this server lets wait ({bound:?}).", spec.name);
                return Err(full(&detail, Some(excess)));
            }
            count.let_in();
            line = Some(key);
        }
        queue.all.let_in();
        Ok(Admitted { admission: self, line, is_handed_in: false })
    }

    /// How fast this line is served, as far as that is known.
    pub(crate) fn rate(&self, line: &Line) -> Rate {
        self.queue().rates.get(line).copied().unwrap_or_default()
    }

    /// Counts what waits, and what has ended since the last time.
    async fn look(&self, store: &Store, pace: &mut Pace) -> Result<(), StoreError> {
        self.queue().begin_counting();
        let waiting = store.waiting(self.bounds.predictions).await?;
        let now = store.now().await?;
        if let Some(stretch) = pace.next(now) {
            let finished = store.finished_between(stretch.0, stretch.1).await?;
            pace.count(stretch, finished, &waiting);
        }
        let mut queue = self.queue();
        queue.rates = pace.rates();
        queue.all.end_counting(waiting.iter().map(|line| line.count).sum());
        if self.bounds.work.is_some() {
            queue.lines.values_mut().for_each(|count| count.end_counting(0));
            for line in waiting {
                queue.lines.entry((line.model, line.version)).or_default().counted = line.count;
            }
            queue.lines.retain(|_, count| count.at_most() > 0);
        }
        Ok(())
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn begin_counting(&mut self) {
        self.all.begin_counting();
        self.lines.values_mut().for_each(Count::begin_counting);
    }
}

fn full(detail: &str, seconds: Option<f64>) -> Problem {
    let seconds = seconds.unwrap_or(USUAL_RETRY_AFTER).ceil().clamp(1.0, LONGEST_RETRY_AFTER);
    Problem::new(Kind::QueueFull, format!("{detail} Nothing was stored; Retry-After says when to send it again."))
        .retry_after(seconds as u32)
}

/// Counts for ever.
pub(crate) async fn keep_counting(api: Arc<Api>) {
    let mut pace = Pace::default();
    loop {
        let begun = Instant::now();
        if let Err(error) = api.admission.look(&api.store, &mut pace).await {
            // What was known goes on counting, with all that has been let in since.
            tracing::debug!(%error, "cannot count what waits");
        }
        let usual = if api.admission.queue().all.at_most() == 0 { IDLE_PAUSE } else { PAUSE };
        sleep(usual.max(begun.elapsed() * PAUSE_PER_COUNT)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_the_way_is_counted_until_a_count_has_surely_seen_it() {
        let mut count = Count::default();
        for _ in 0..5 {
            count.let_in();
        }
        count.arrive(true);
        count.arrive(false);
        assert_eq!(count.at_most(), 4);
        count.begin_counting();
        // One of the three arrives while the count is under way: it may have been seen or not.
        count.arrive(true);
        count.let_in();
        count.end_counting(1);
        assert_eq!(count.at_most(), 1 + 4);
        count.arrive(true);
        count.arrive(true);
        count.arrive(true);
        count.begin_counting();
        count.end_counting(5);
        assert_eq!((count.at_most(), count.since), (5, 0));
    }

    #[test]
    fn a_count_that_fails_forgets_nothing() {
        let mut count = Count::default();
        count.let_in();
        count.arrive(true);
        count.begin_counting();
        count.begin_counting();
        assert_eq!(count.at_most(), 1);
        // Refused after the count began: less than nothing is left of what was let in since.
        count.let_in();
        count.arrive(false);
        count.end_counting(0);
        assert_eq!(count.at_most(), 0);
    }
}
