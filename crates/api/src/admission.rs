//! Whether the queue has room for one more, in all and for whoever asks. What waits is counted in the store now and then, and what
//! was let in since is added to that: so a prediction costs no question, and one API never lets in more than the bounds. Several
//! APIs together may exceed them by what the others let in between two counts.

mod count;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prediction::ModelSpec;
use store::{Store, StoreError, VersionCount};
use tokio::time::{Instant, sleep};

use count::{Count, Filled};

use crate::{
    api::Api,
    keys::Caller,
    pace::{Line, Pace, Rate},
    problem::{Kind, Problem, Quota},
};

/// The pause between two counts while there is something to count…
const PAUSE: Duration = Duration::from_millis(250);
/// …and while there is nothing.
const IDLE_PAUSE: Duration = Duration::from_secs(1);
/// The pause is at least so many times what the last count took, so that long queues do not keep the database busy with counting…
const PAUSE_PER_COUNT: u32 = 20;
/// …but no longer than this: a count that took long because of something else must not be all that is known for a minute.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
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

impl Bounds {
    /// The same for a key that has this share of the queue. At least one prediction may always wait.
    fn of_share(self, share: f64) -> Self {
        let predictions = (f64::from(self.predictions) * share) as u32;
        Self { predictions: predictions.max(1), work: self.work.map(|work| work.mul_f64(share)) }
    }
}

/// Lets predictions into the queue, or refuses them.
pub(crate) struct Admission {
    bounds: Bounds,
    queue: Mutex<Queue>,
}

/// The queue as far as it is known.
#[derive(Default)]
struct Queue {
    all: Filled,
    /// By tenant, of those with keys who have any.
    tenants: HashMap<Arc<str>, Filled>,
    rates: HashMap<Line, Rate>,
}

/// What is used up, and after how many seconds it is worth coming back, as far as that is known.
struct Over {
    is_work: bool,
    /// The most predictions that may wait; for work, at the rate of its line.
    most: u64,
    seconds: Option<f64>,
}

/// A place in the queue. Given back when dropped, unless the store has been handed what it was for.
#[must_use]
pub(crate) struct Admitted<'a> {
    admission: &'a Admission,
    /// Whose, if there is a key.
    tenant: Option<Arc<str>>,
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
        let Queue { all, tenants, .. } = &mut *queue;
        let filled = self.tenant.as_ref().and_then(|tenant| tenants.get_mut(tenant)).into_iter().chain([all]);
        let counts = filled.flat_map(|filled| filled.counts_of(self.line.as_ref()));
        counts.for_each(|count| count.arrive(self.is_handed_in));
    }
}

impl Admission {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, queue: Mutex::default() }
    }

    /// Lets in one prediction of this caller's for this version, or says when to come back. Who has used up a share is told so, even
    /// while the queue is full: room that others make helps nothing then.
    pub(crate) fn admit(&self, caller: &Caller, spec: &ModelSpec) -> Result<Admitted<'_>, Problem> {
        let line = self.bounds.work.map(|_| (spec.name.clone(), spec.version.clone()));
        let of_line = line.as_ref();
        let mut queue = self.queue();
        if let Some(share) = caller.share
            && let Some(filled) = queue.tenants.get(caller.tenant())
            && let Some(over) = queue.over(filled, self.bounds.of_share(share), of_line)
        {
            drop(queue);
            return Err(over.refusal(true, self.bounds.of_share(share), spec));
        }
        if let Some(over) = queue.over(&queue.all, self.bounds, of_line) {
            drop(queue);
            return Err(over.refusal(false, self.bounds, spec));
        }
        let tenant = caller.share.map(|_| Arc::clone(&caller.tenant));
        if let Some(tenant) = &tenant {
            match queue.tenants.get_mut(tenant) {
                Some(filled) => filled.let_in(of_line),
                None => queue.tenants.entry(Arc::clone(tenant)).or_default().let_in(of_line),
            }
        }
        queue.all.let_in(of_line);
        Ok(Admitted { admission: self, tenant, line, is_handed_in: false })
    }

    /// How fast this line is served, as far as that is known.
    pub(crate) fn rate(&self, line: &Line) -> Rate {
        self.queue().rates.get(line).copied().unwrap_or_default()
    }

    /// Counts what waits, and what has ended since the last time.
    async fn look(&self, store: &Store, pace: &mut Pace, by_tenant: bool) -> Result<(), StoreError> {
        self.queue().filled().flat_map(Filled::counts).for_each(Count::begin_counting);
        let waiting = if by_tenant {
            store.waiting_by_tenant(self.bounds.predictions).await?
        } else {
            let of_all = store.waiting(self.bounds.predictions).await?;
            of_all.into_iter().map(|line| (String::new(), line)).collect()
        };
        let now = store.now().await?;
        if let Some(stretch) = pace.next(now) {
            let finished = store.finished_between(stretch.0, stretch.1).await?;
            pace.count(stretch, finished, waiting.iter().map(|(_, line)| line));
        }
        let mut queue = self.queue();
        queue.rates = pace.rates();
        queue.end_counting(waiting, self.bounds.work.is_some());
        Ok(())
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn filled(&mut self) -> impl Iterator<Item = &mut Filled> {
        self.tenants.values_mut().chain([&mut self.all])
    }

    fn end_counting(&mut self, waiting: Vec<(String, VersionCount)>, by_line: bool) {
        self.filled().flat_map(Filled::counts).for_each(|count| count.end_counting(0));
        for (tenant, VersionCount { model, version, count }) in waiting {
            let line = by_line.then_some((model, version));
            self.all.add(line.as_ref(), count);
            if !tenant.is_empty() {
                self.tenants.entry(Arc::from(tenant)).or_default().add(line.as_ref(), count);
            }
        }
        self.all.forget_empty();
        self.tenants.retain(|_, filled| filled.forget_empty());
    }

    /// Whether so much waits as may, of one tenant or in all. Of the rate at which all is served a tenant has the part that it has of
    /// what waits.
    fn over(&self, filled: &Filled, bounds: Bounds, line: Option<&Line>) -> Option<Over> {
        let part = |count: Count, all: Count| count.at_most() as f64 / all.at_most().max(count.at_most()).max(1) as f64;
        let (waiting, most) = (filled.count.at_most(), u64::from(bounds.predictions));
        if waiting >= most {
            let rate: f64 = self.rates.values().filter_map(|rate| rate.served()).sum();
            let excess = waiting as f64 - most as f64 * (1.0 - ROOM_TO_COME_BACK_TO);
            let seconds = excess / (rate * part(filled.count, self.all.count));
            return Some(Over { is_work: false, most, seconds: Some(seconds).filter(|_| rate > 0.0) });
        }
        let (bound, line) = (bounds.work?.as_secs_f64(), line?);
        let count = *filled.lines.get(line)?;
        // Of a line whose rate is not known, nothing is known but its length.
        let known = self.rates.get(line)?;
        let rate = known.at_work?;
        let work = count.at_most() as f64 / rate;
        (work >= bound).then(|| {
            let excess = work - bound * (1.0 - ROOM_TO_COME_BACK_TO);
            let seconds = excess / part(count, self.all.lines.get(line).copied().unwrap_or_default());
            Over { is_work: true, most: (bound * rate) as u64, seconds: known.served().map(|_| seconds) }
        })
    }
}

impl Over {
    fn refusal(self, is_share: bool, bounds: Bounds, spec: &ModelSpec) -> Problem {
        let (kind, whose, limit) = match is_share {
            true => (Kind::ShareFull, " of this key", "its share of the queue has room for"),
            false => (Kind::QueueFull, "", "this server lets wait"),
        };
        let (policy, detail) = match (self.is_work, bounds.work) {
            (true, Some(work)) => (
                if is_share { "share-time" } else { "queue-time" },
                format!("{} has as much work{whose} waiting as {limit} ({work:?}).", spec.name),
            ),
            _ => (
                if is_share { "share" } else { "queue" },
                format!("As many predictions{whose} wait as {limit} ({}).", self.most),
            ),
        };
        let seconds = self.seconds.unwrap_or(USUAL_RETRY_AFTER).ceil().clamp(1.0, LONGEST_RETRY_AFTER);
        Problem::new(kind, format!("{detail} Nothing was stored; Retry-After says when to send it again."))
            .retry_after(seconds as u32)
            .used_up(Quota { policy, most: self.most })
    }
}

/// Counts for ever.
pub(crate) async fn keep_counting(api: Arc<Api>) {
    let mut pace = Pace::default();
    loop {
        let begun = Instant::now();
        if let Err(error) = api.admission.look(&api.store, &mut pace, api.keys.are_required()).await {
            // What was known goes on counting, with all that has been let in since.
            tracing::debug!(%error, "cannot count what waits");
        }
        let is_idle = api.admission.queue().all.count.at_most() == 0;
        sleep(pause(is_idle, begun.elapsed())).await;
    }
}

/// How long to wait after a count that took so long.
fn pause(is_idle: bool, took: Duration) -> Duration {
    let usual = if is_idle { IDLE_PAUSE } else { PAUSE };
    usual.max(took.saturating_mul(PAUSE_PER_COUNT)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests;
