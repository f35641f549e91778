//! A model in this process: the engine that workers run it in, without the service around it.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use inference::{Abandon, Config, Model, Models, Output};
use serde_json::value::RawValue;
use tokio::task::{JoinSet, spawn_blocking};

use crate::numbers::{number, percentile};

/// One loaded model.
pub(crate) struct Engine {
    model: Model,
    _models: Models,
}

impl Engine {
    /// Loads it for all that this process may use.
    pub(crate) async fn load(dir: &Path) -> Self {
        let config = Config { model_dirs: vec![dir.to_owned()], ..Config::default() };
        let models = spawn_blocking(move || Models::load(&config)).await.expect("loading does not panic");
        let models = models.expect("the model is sound");
        let spec = models.specs().pop().expect("one model");
        let model = models.get(&spec.name, &spec.version).expect("it is loaded");
        Self { model, _models: models }
    }

    /// Where its predictions are made.
    pub(crate) fn path(&self) -> String {
        format!("/v1/models/{}/predictions", self.model.spec().name)
    }

    /// All inputs at once, as fast as it can: how many seconds that takes, and their outputs.
    pub(crate) async fn run(&self, inputs: &[Box<RawValue>]) -> (f64, Vec<Box<RawValue>>) {
        let mut running = JoinSet::new();
        let begun = Instant::now();
        for (place, input) in inputs.iter().enumerate() {
            let (model, input) = (self.model.clone(), input.clone());
            running.spawn(async move { (place, model.predict(&input, Abandon::default()).await) });
        }
        let mut outputs = running.join_all().await;
        let seconds = begun.elapsed().as_secs_f64();
        outputs.sort_unstable_by_key(|(place, _)| *place);
        (seconds, outputs.into_iter().map(|(_, output)| output.expect("it takes the input").value).collect())
    }

    /// One input after the other, so many times: the median microseconds that a run took in the engine, and until its output
    /// was known.
    pub(crate) async fn alone(&self, input: &RawValue, count: usize) -> (f64, f64) {
        let (mut inside, mut outside) = (Vec::new(), Vec::new());
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        for _ in 0..count {
            let begun = Instant::now();
            let output = self.model.predict(input, Abandon::default()).await;
            outside.push(micros(begun.elapsed()));
            let Output { predict_time, .. } = output.expect("it takes the input");
            inside.push(micros(predict_time));
        }
        (percentile(&inside, 0.5), percentile(&outside, 0.5))
    }
}

/// The cosine of two vectors, in f64.
pub(crate) fn cosine(one: &[f32], other: &[f32]) -> f64 {
    assert_eq!(one.len(), other.len(), "vectors of one size");
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    product(one, other) / (product(one, one) * product(other, other)).sqrt()
}

/// How many a second.
pub(crate) fn rate(count: usize, seconds: f64) -> f64 {
    number(count) / seconds
}
