//! One loaded model: its specification, and the way from an input to its result.

use std::{
    future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    thread::available_parallelism,
    time::Duration,
};

use prediction::{Failure, FailureCode, ModelSpec};
use serde_json::value::RawValue;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::spawn_blocking,
    time::sleep,
};

use crate::{
    Abandon, Device, Draft, LoadError,
    abandon::AbandonOnDrop,
    architecture::Architecture,
    engine::{self, Job},
};

/// What a run gave.
#[derive(Clone, Debug)]
pub struct Output {
    /// JSON that fits the model's output schema.
    pub value: Box<RawValue>,
    /// Time in the model, of the whole batch.
    pub predict_time: Duration,
    /// Predictions in the batch.
    pub batch_size: u32,
    /// Tokens of this input, for text models.
    pub tokens: Option<u32>,
}

/// One loaded model; cheap to clone.
#[derive(Clone)]
pub struct Model {
    spec: Arc<ModelSpec>,
    device: Device,
    may_be_faster_again: bool,
    runner: Arc<dyn Runner>,
}

type Running<'a> = Pin<Box<dyn Future<Output = Result<Output, Failure>> + Send + 'a>>;

/// A model of some architecture, its kind of items hidden.
trait Runner: Send + Sync {
    /// `begun` is told when its batch begins.
    fn run<'a>(
        &'a self,
        input: &'a RawValue,
        abandon: Abandon,
        draft: Draft,
        begun: oneshot::Sender<()>,
    ) -> Running<'a>;

    /// As [`Model::complete`].
    fn complete(&self) -> Result<(), LoadError>;

    /// As [`Model::is_broken`].
    fn is_broken(&self) -> bool;
}

impl Model {
    /// Starts the engine of a loaded architecture.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start<A: Architecture>(spec: ModelSpec, architecture: Arc<A>) -> std::io::Result<Self> {
        let jobs = architecture.start(spec.name.as_str(), spec.limits.max_batch)?;
        let (device, may_be_faster_again) = (architecture.device(), architecture.may_be_faster_again());
        let readers = available_parallelism().map_or(1, usize::from);
        let runner = Batched { architecture, jobs, readers: Arc::new(Semaphore::new(readers)) };
        Ok(Self { spec: Arc::new(spec), device, may_be_faster_again, runner: Arc::new(runner) })
    }

    /// What it is.
    #[must_use]
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// What it computes on.
    #[must_use]
    pub fn device(&self) -> Device {
        self.device
    }

    /// Reads what it did not need so far of its files; slow, blocking.
    ///
    /// # Errors
    /// When that cannot be read, or is not what it was; then it [is broken](Self::is_broken).
    pub(crate) fn complete(&self) -> Result<(), LoadError> {
        self.runner.complete()
    }

    /// Whether its device has failed, or its weights were lost, so that nothing can be run in this process any more; another process may
    /// do better.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.runner.is_broken()
    }

    /// Reads the input (off the engine's threads), joins a batch and waits for its result. A failure of one never touches the
    /// others of its batch. Abandoned ones end with code `canceled`, at once; so do ones whose future is dropped, unseen.
    /// The time limit of the specification counts from the beginning of its batch: waiting in line costs
    /// nothing but, where the batch before still ends, the last it has to do.
    ///
    /// # Errors
    /// When the input is too large or cannot be read, when the model fails on it, when it takes too long, and when it is
    /// abandoned.
    pub async fn predict(&self, input: &RawValue, abandon: Abandon) -> Result<Output, Failure> {
        self.predict_aloud(input, abandon, Draft::default()).await
    }

    /// The same; a model that writes a text lets `draft` grow while it does.
    ///
    /// # Errors
    /// As [`predict`](Self::predict).
    pub async fn predict_aloud(&self, input: &RawValue, abandon: Abandon, draft: Draft) -> Result<Output, Failure> {
        let most = self.spec.limits.max_input_bytes;
        if input.get().len() > most {
            let message = format!("the input has {} bytes; this model takes at most {most}", input.get().len());
            return Err(Failure::new(FailureCode::InputTooLarge, message));
        }
        // What the engine sees: set however this future ends, so that it never works for nobody.
        let unwanted = AbandonOnDrop(Abandon::default());
        let (begun, has_begun) = oneshot::channel();
        tokio::select! {
            biased;
            () = abandon.abandoned() => Err(engine::canceled()),
            result = self.runner.run(input, unwanted.0.clone(), draft, begun) => result,
            failure = self.takes_too_long(has_begun) => Err(failure),
        }
    }

    async fn takes_too_long(&self, has_begun: oneshot::Receiver<()>) -> Failure {
        if has_begun.await.is_err() {
            // It never began; its result says why.
            future::pending::<()>().await;
        }
        let limit = self.spec.limits.timeout();
        sleep(limit).await;
        Failure::new(FailureCode::Timeout, format!("one run took longer than {limit:?}"))
            .with_retryable(self.may_be_faster_again)
    }
}

struct Batched<A: Architecture> {
    architecture: Arc<A>,
    jobs: mpsc::Sender<Job<A::Item>>,
    /// As many large inputs are read at a time as there are cores.
    readers: Arc<Semaphore>,
}

impl<A: Architecture> Batched<A> {
    async fn prepare(&self, input: &RawValue) -> Result<A::Item, Failure> {
        if input.get().len() <= self.architecture.inline_bytes() {
            return prepare(&*self.architecture, input);
        }
        let permit = Arc::clone(&self.readers).acquire_owned().await.map_err(|_| stopped())?;
        let (architecture, input) = (Arc::clone(&self.architecture), input.to_owned());
        let reading = spawn_blocking(move || {
            // Held by the reading, which goes on when its waiter is gone.
            let _permit = permit;
            prepare(&*architecture, &input)
        });
        reading.await.unwrap_or_else(|_| Err(stopped()))
    }
}

impl<A: Architecture> Runner for Batched<A> {
    fn run<'a>(
        &'a self,
        input: &'a RawValue,
        abandon: Abandon,
        draft: Draft,
        begun: oneshot::Sender<()>,
    ) -> Running<'a> {
        Box::pin(async move {
            let item = self.prepare(input).await?;
            let (reply, result) = oneshot::channel();
            self.jobs.send(Job { item, abandon, draft, begun, reply }).await.map_err(|_| stopped())?;
            result.await.unwrap_or_else(|_| Err(stopped()))
        })
    }

    fn complete(&self) -> Result<(), LoadError> {
        self.architecture.complete()
    }

    fn is_broken(&self) -> bool {
        self.architecture.is_broken()
    }
}

fn prepare<A: Architecture>(architecture: &A, input: &RawValue) -> Result<A::Item, Failure> {
    catch_unwind(AssertUnwindSafe(|| architecture.prepare(input))).unwrap_or_else(|_| {
        tracing::error!("reading an input panicked");
        Err(Failure::new(FailureCode::ModelError, "the model crashed on this input"))
    })
}

fn stopped() -> Failure {
    Failure::new(FailureCode::Internal, "the model's engine has stopped")
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use prediction::Limits;
    use serde_json::{json, value::to_raw_value};

    use super::*;
    use crate::turn::Turn;

    /// Runs for as long as somebody wants the result, unless the input is `null`.
    struct Endless {
        may_be_faster_again: bool,
    }

    impl Architecture for Endless {
        type Item = bool;

        fn prepare(&self, input: &RawValue) -> Result<bool, Failure> {
            Ok(input.get() != "null")
        }

        fn cost(&self, _: &bool) -> usize {
            1
        }

        fn may_be_faster_again(&self) -> bool {
            self.may_be_faster_again
        }

        fn run(
            &self,
            batch: &[(bool, Abandon)],
            _: &mut Turn<'_>,
        ) -> Result<Vec<Result<Box<RawValue>, Failure>>, Failure> {
            while batch.iter().any(|(is_endless, abandon)| *is_endless && !abandon.is_abandoned()) {
                thread::sleep(Duration::from_millis(5));
            }
            Ok(batch.iter().map(|_| Ok(RawValue::NULL.to_owned())).collect())
        }
    }

    fn endless(may_be_faster_again: bool) -> Model {
        let spec = ModelSpec {
            name: "augur/endless".parse().expect("a name"),
            version: "0".repeat(64).parse().expect("a version"),
            task: "test".into(),
            description: String::new(),
            license: None,
            source: None,
            input_schema: json!({}),
            output_schema: json!({}),
            limits: Limits { timeout_seconds: 2, max_batch: 1, ..Limits::default() },
        };
        Model::start(spec, Arc::new(Endless { may_be_faster_again })).expect("a thread")
    }

    #[tokio::test]
    async fn whether_one_that_took_too_long_is_tried_again_is_the_architectures_word() {
        let input = to_raw_value(&true).expect("JSON");
        let failure = endless(false).predict(&input, Abandon::default()).await.expect_err("it never ends by itself");
        assert_eq!((failure.code, failure.retryable), (FailureCode::Timeout, false));
    }

    #[tokio::test]
    async fn the_time_limit_counts_from_the_beginning_of_the_batch() {
        let model = endless(true);
        let endless = to_raw_value(&true).expect("JSON");
        let (first, second, last) = tokio::join!(
            model.predict(&endless, Abandon::default()),
            model.predict(&endless, Abandon::default()),
            // In line behind both, for longer than its own limit.
            model.predict(RawValue::NULL, Abandon::default()),
        );
        for stopped in [first, second] {
            let failure = stopped.expect_err("it never ends by itself");
            assert_eq!((failure.code, failure.retryable), (FailureCode::Timeout, true));
        }
        assert!(last.is_ok(), "{last:?}");
    }
}
