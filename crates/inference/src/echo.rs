//! `augur/echo`: answers with its input. A toy for tests and benchmarks, which can be told to take long or to fail.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use prediction::{Failure, FailureCode, Limits, ModelName, ModelSpec};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use crate::{
    Abandon, LoadError, Model,
    architecture::{Architecture, Described},
    digest,
    turn::Turn,
    warm::{Schemas, Warmer},
};

/// Changes whenever the model's behaviour does; its digest is the version.
const BEHAVIOUR: &str = "augur/echo 2";

/// The longest sleep, in milliseconds.
const MAX_SLEEP_MS: f64 = 600_000.0;

/// The most predictions of one batch.
const MAX_BATCH: usize = 64;

/// How often a sleeping batch looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(5);

/// The model: it has no weights.
struct Echo;

/// One input, read.
pub(crate) struct Item {
    value: Box<RawValue>,
    sleep: Duration,
    alone: bool,
    fail: Option<Fail>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Fail {
    Retryable,
    Permanent,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input<'a> {
    #[serde(borrow)]
    value: &'a RawValue,
    /// A float, since JSON Schema takes `5.0` for an integer.
    #[serde(default)]
    sleep_ms: f64,
    #[serde(default)]
    alone: bool,
    fail: Option<Fail>,
}

/// What it is.
pub(crate) fn spec() -> ModelSpec {
    described().spec(digest::version_of_text(BEHAVIOUR))
}

/// The model, warm.
///
/// # Errors
/// When the system gives no thread.
pub(crate) fn load() -> Result<Model, LoadError> {
    let (dir, described) = (Path::new("augur/echo"), described());
    Warmer { dir, described: &described, schemas: || Schemas::of(dir, &described) }.warm(Echo)?.start(spec())
}

/// What is said of it, and what it is warmed with.
fn described() -> Described {
    Described {
        name: ModelName::local("echo").expect("a good name"),
        task: "echo".into(),
        description: "Answers with the value it was given; for tests and benchmarks.".into(),
        license: None,
        source: None,
        input_schema: json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                "value": {"description": "What to answer with."},
                "sleep_ms": {
                    "type": "integer", "minimum": 0, "maximum": MAX_SLEEP_MS as u64, "default": 0,
                    "description": "How long to take, in milliseconds; a batch takes as long as its longest.",
                },
                "alone": {
                    "type": "boolean", "default": false,
                    "description": "Run in a batch of its own, as one input of a large model would.",
                },
                "fail": {
                    "enum": ["retryable", "permanent"],
                    "description": "Fail, so that it is tried again or not.",
                },
            },
            "required": ["value"],
            "additionalProperties": false,
        }),
        output_schema: json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "description": "The value.",
        }),
        limits: Limits { timeout_seconds: 660, max_batch: MAX_BATCH, ..Limits::default() },
        files: Vec::new(),
        example: json!({"value": "hello"}),
    }
}

impl Architecture for Echo {
    type Item = Item;

    fn prepare(&self, input: &RawValue) -> Result<Item, Failure> {
        let invalid = |reason: String| Failure::new(FailureCode::InvalidInput, reason);
        let input: Input<'_> = serde_json::from_str(input.get()).map_err(|error| invalid(error.to_string()))?;
        if !(0.0..=MAX_SLEEP_MS).contains(&input.sleep_ms) {
            return Err(invalid(format!("sleep_ms is 0 to {MAX_SLEEP_MS}")));
        }
        let sleep = Duration::from_secs_f64(input.sleep_ms / 1000.0);
        Ok(Item { value: input.value.to_owned(), sleep, alone: input.alone, fail: input.fail })
    }

    fn cost(&self, item: &Item) -> usize {
        if item.alone { MAX_BATCH } else { 1 }
    }

    fn max_batch_cost(&self) -> usize {
        MAX_BATCH
    }

    fn run(&self, batch: &[(Item, Abandon)], _: &mut Turn<'_>) -> Result<Vec<Result<Box<RawValue>, Failure>>, Failure> {
        let started = Instant::now();
        // The longest sleep of those that are still wanted, looked at again and again.
        while let Some(left) = batch
            .iter()
            .filter(|(_, abandon)| !abandon.is_abandoned())
            .map(|(item, _)| item.sleep.saturating_sub(started.elapsed()))
            .max()
            .filter(|left| !left.is_zero())
        {
            thread::sleep(left.min(LOOK));
        }
        let answers =
            batch.iter().map(|(item, _)| match item.fail {
                None => Ok(item.value.clone()),
                Some(fail) => Err(Failure::new(FailureCode::ModelError, "asked to fail")
                    .with_retryable(matches!(fail, Fail::Retryable))),
            });
        Ok(answers.collect())
    }
}
