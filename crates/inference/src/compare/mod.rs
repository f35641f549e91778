//! A model beside another that was made of it: how large and how fast each is, and how far they agree on a set of inputs.

mod agreement;
mod calibration;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};
use tokio::task::{JoinError, spawn_blocking};

pub(crate) use self::agreement::cosine;
pub use self::{agreement::Agreement, calibration::calibration};
use crate::{
    Abandon, Config, Description, LoadError, Machine, Model, Models,
    generate::{self, Generator},
    gguf::Gguf,
    inspect,
};

/// How often each model runs all inputs to be timed, in turns with the other; the median counts.
const ROUNDS: usize = 5;
/// After this long no further round begins.
const LONG_ENOUGH: Duration = Duration::from_secs(20);

/// What a comparison found.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// How many inputs were run.
    pub inputs: usize,
    /// The model as it was.
    pub original: Measured,
    /// What was made of it.
    pub made: Measured,
    /// How far their answers are the same.
    pub agreement: Agreement,
}

/// What one model costs.
#[derive(Clone, Debug)]
pub struct Measured {
    /// What it is.
    pub description: Description,
    /// The time of one input alone, all threads sharing it; for text generators, of one token.
    pub each: Duration,
}

/// Loads both models and runs all inputs on both.
///
/// # Errors
/// When a model does not load, or fails on an input.
pub async fn compare(
    original: &Path,
    made: &Path,
    inputs: Vec<Value>,
    machine: Machine,
) -> Result<Comparison, LoadError> {
    let dirs = [original.to_owned(), made.to_owned()];
    let described = spawn_blocking(move || Ok([inspect(&dirs[0])?, inspect(&dirs[1])?]));
    let described = described.await.map_err(|error| stopped(original, &error))??;
    let count = inputs.len();
    let (agreement, times) = if described[0].spec.task == generate::TASK {
        let dirs = described.each_ref().map(|description| description.dir.clone());
        let compared = spawn_blocking(move || {
            let [first, second] = dirs.each_ref().map(|dir| generator(dir, machine));
            generate::compare(&first?, &second?, &inputs).map_err(|reason| LoadError::new(&dirs[1], reason))
        });
        let (tokens, times) = compared.await.map_err(|error| stopped(made, &error))??;
        (Agreement::Tokens(tokens), times)
    } else {
        let task = described[0].spec.task.clone();
        let inputs: Vec<Value> = inputs.into_iter().map(|input| agreement::asking_for_all(&task, input)).collect();
        let models = [load(&described[0], machine).await?, load(&described[1], machine).await?];
        run(&models.each_ref().map(|(_, model)| model), &described, &task, &inputs).await?
    };
    let [first, second] = described;
    Ok(Comparison {
        inputs: count,
        original: Measured { description: first, each: times[0] },
        made: Measured { description: second, each: times[1] },
        agreement,
    })
}

fn stopped(dir: &Path, error: &JoinError) -> LoadError {
    LoadError::new(dir, format!("was not compared to the end: {error}"))
}

fn generator(dir: &Path, machine: Machine) -> Result<Generator, LoadError> {
    let file = generate::file(dir)?.ok_or_else(|| LoadError::new(dir, "has no GGUF file"))?;
    Generator::load(&Gguf::open(&dir.join(file))?, machine)
}

async fn load(found: &Description, machine: Machine) -> Result<(Models, Model), LoadError> {
    let config = Config { model_dirs: vec![found.dir.clone()], machine, ..Config::default() };
    let models = spawn_blocking(move || Models::load(&config)).await;
    let models = models.map_err(|error| stopped(&found.dir, &error))??;
    let model = models.get(&found.spec.name, &found.spec.version);
    let model = model.ok_or_else(|| LoadError::new(&found.dir, "changed while it was loaded"))?;
    Ok((models, model))
}

/// Runs all inputs on both, and times that in turns.
async fn run(
    models: &[&Model; 2],
    described: &[Description; 2],
    task: &str,
    inputs: &[Value],
) -> Result<(Agreement, [Duration; 2]), LoadError> {
    let read =
        |input: &Value| to_raw_value(input).map_err(|error| LoadError::new(&described[0].dir, error.to_string()));
    let inputs: Vec<Box<RawValue>> = inputs.iter().map(read).collect::<Result<_, _>>()?;
    let (begun, mut answers, mut times) = (Instant::now(), [Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for round in 0..=ROUNDS {
        if round > 1 && begun.elapsed() > LONG_ENOUGH {
            break;
        }
        for (side, model) in models.iter().enumerate() {
            let asked = Instant::now();
            for (place, input) in inputs.iter().enumerate() {
                let output = model.predict(input, Abandon::default()).await.map_err(|failure| {
                    LoadError::new(&described[side].dir, format!("fails on input {}: {failure}", place + 1))
                })?;
                if round == 0 {
                    answers[side].push(output.value);
                }
            }
            // The first round finds caches cold, and does not count.
            if round > 0 {
                times[side].push(asked.elapsed());
            }
        }
    }
    let each = times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2] / u32::try_from(inputs.len()).unwrap_or(u32::MAX).max(1)
    });
    let [first, second] = answers;
    let agreement = Agreement::of(task, &first, &second).map_err(|reason| LoadError::new(&described[1].dir, reason))?;
    Ok((agreement, each))
}
