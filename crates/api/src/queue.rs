//! What waits and runs, per version: what an autoscaler reads.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State};
use serde::Serialize;
use store::ModelQueue;
use tokio::time::Instant;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{api::Api, catalog::Served, docs::StoreProblems, pace::Rate, problem::Problem};

/// How old an answer may be.
const AGE: Duration = Duration::from_secs(1);
/// It may also be so many times as old as the store took for it: long queues take long to count…
const AGE_PER_COUNT: u32 = 20;
/// …but no older than this, since the store may have taken long for another reason.
const LONGEST_AGE: Duration = Duration::from_secs(5);
/// Workers are wanted so that what waits now is done within this time, in seconds.
const CLEARED_WITHIN: f64 = 30.0;

/// The calls on the queue.
pub(crate) fn router() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(read))
}

/// The lines as the store counted them.
pub(crate) struct Counted {
    lines: Vec<ModelQueue>,
    took: Duration,
}

/// The lines of all versions.
#[derive(Debug, Serialize, ToSchema)]
struct QueueView {
    /// Predictions waiting.
    depth: u64,
    /// Predictions held by workers.
    processing: u64,
    /// Age of the oldest waiting one.
    oldest_age_seconds: f64,
    /// Predictions finished per second, over the last minute.
    service_rate_per_second: f64,
    /// Results that came too late, because another worker owned the prediction by then, and were refused.
    stale_completions: u64,
    /// One per version.
    versions: Vec<Line>,
}

/// The line of one version.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = QueueLine)]
struct Line {
    /// The model, `owner/name`.
    model: String,
    /// The version.
    version: String,
    /// Predictions waiting.
    depth: u64,
    /// Predictions held by workers.
    processing: u64,
    /// Age of the oldest waiting one.
    oldest_age_seconds: f64,
    /// Predictions finished per second, over the last minute.
    service_rate_per_second: f64,
    /// How long what waits will take, at the rate seen while predictions waited, else at that over the last minute; null when
    /// some wait and none were finished.
    #[schema(required)]
    seconds_of_work: Option<f64>,
    /// Live workers that serve it.
    workers: u32,
    /// Workers that would clear the line within 30 seconds at the rate seen per worker, and at least one while
    /// anything waits or runs.
    workers_wanted: u32,
}

/// Read the queue.
///
/// Depth, age, service rate, work waiting and workers wanted, per version.
#[utoipa::path(
    get,
    path = "/v1/queue", operation_id = "readQueue",
    tag = "queue",
    responses((status = 200, body = QueueView, description = "The lines of all versions, at most a second old, unless so much waits that counting it takes long"), StoreProblems),
)]
async fn read(State(api): State<Arc<Api>>) -> Result<Json<QueueView>, Problem> {
    let served = api.catalog.versions().await?;
    let counted = count(&api).await?;
    let lines = &counted.lines;
    let stale_completions = api.in_time(api.store.stale_completions()).await?;
    let view = |line: &ModelQueue, workers| {
        Line::new(line, api.admission.rate(&(line.model.clone(), line.version.clone())), workers)
    };
    let mut versions: Vec<Line> = served.iter().map(|served| view(&line_of(served, lines), served.workers)).collect();
    // Versions whose publication is gone but whose predictions are not.
    let is_listed = |line: &ModelQueue| {
        versions.iter().any(|known| known.model == line.model.as_str() && known.version == line.version.as_str())
    };
    let forgotten: Vec<Line> = lines.iter().filter(|line| !is_listed(line)).map(|line| view(line, 0)).collect();
    versions.extend(forgotten);
    Ok(Json(QueueView {
        depth: versions.iter().map(|line| line.depth).sum(),
        processing: versions.iter().map(|line| line.processing).sum(),
        oldest_age_seconds: versions.iter().map(|line| line.oldest_age_seconds).fold(0.0, f64::max),
        service_rate_per_second: versions.iter().map(|line| line.service_rate_per_second).sum(),
        stale_completions,
        versions,
    }))
}

/// The lines, counted now or not long ago.
async fn count(api: &Api) -> Result<Arc<Counted>, Problem> {
    let age = api.queues.latest().map_or(AGE, |counted| age(counted.took));
    let counting = || async {
        let begun = Instant::now();
        let lines = api.in_time(api.store.queues()).await?;
        Ok(Counted { lines, took: begun.elapsed() })
    };
    api.queues.within(age, counting).await
}

/// How old the lines may be for which the store took so long.
fn age(took: Duration) -> Duration {
    took.saturating_mul(AGE_PER_COUNT).clamp(AGE, LONGEST_AGE)
}

/// The line of a version that is served; an empty one when the store knows none.
fn line_of(served: &Served, lines: &[ModelQueue]) -> ModelQueue {
    let spec = &served.published.spec;
    let known = lines.iter().find(|line| line.model == spec.name && line.version == spec.version);
    known.cloned().unwrap_or_else(|| ModelQueue {
        model: spec.name.clone(),
        version: spec.version.clone(),
        waiting: 0,
        processing: 0,
        oldest_seconds: 0.0,
    })
}

impl Line {
    fn new(line: &ModelQueue, rate: Rate, workers: u32) -> Self {
        Self {
            model: line.model.to_string(),
            version: line.version.to_string(),
            depth: line.waiting,
            processing: line.processing,
            oldest_age_seconds: line.oldest_seconds,
            service_rate_per_second: rate.last_minute,
            seconds_of_work: match line.waiting {
                0 => Some(0.0),
                waiting => rate.expected().map(|rate| waiting as f64 / rate),
            },
            workers,
            workers_wanted: workers_wanted(line.waiting, line.processing, rate.expected().unwrap_or(0.0), workers),
        }
    }
}

/// Workers that would clear the line within [`CLEARED_WITHIN`] at the rate seen per worker. Nothing seen: those there
/// are, or one.
fn workers_wanted(waiting: u64, processing: u64, rate: f64, workers: u32) -> u32 {
    if waiting + processing == 0 {
        return 0;
    }
    if rate <= 0.0 || workers == 0 {
        return workers.max(1);
    }
    let rate_per_worker = rate / f64::from(workers);
    let wanted = (waiting + processing) as f64 / (rate_per_worker * CLEARED_WITHIN);
    (wanted.ceil() as u32).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_took_long_may_be_older_for_a_while() {
        let seconds = Duration::from_secs_f64;
        for (took, expected) in [(0.0, 1.0), (0.05, 1.0), (0.2, 4.0), (3.0, 5.0)] {
            assert_eq!(age(seconds(took)), seconds(expected));
        }
    }

    #[test]
    fn workers_are_wanted_for_the_work_there_is() {
        assert_eq!(workers_wanted(0, 0, 5.0, 3), 0);
        assert_eq!(workers_wanted(10, 0, 0.0, 0), 1);
        assert_eq!(workers_wanted(10, 0, 0.0, 4), 4);
        // Two workers finish 4/s together: 600 waiting take one worker 300 s.
        assert_eq!(workers_wanted(600, 0, 4.0, 2), 10);
        assert_eq!(workers_wanted(1, 1, 4.0, 2), 1);
    }
}
