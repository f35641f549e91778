//! What heads and layers of a text encoder are worth to some texts.

use std::path::Path;

use kernels::{Precision, Rows};
use serde_json::{Value, value::to_raw_value};

use super::{
    Classifier, Embedder, Encoder, Tagger, Task, TextModel, TextTask, ZeroShot, encoder::Text, runner::Runner,
    tokenize::Tokens,
};
use crate::{
    LoadError, Machine,
    compare::cosine,
    importance::{self, MOST_ROWS, mean_squares},
    map::Weights,
    transformer::Layer,
    turn::Turn,
};

/// A loaded encoder, and the texts that it is judged by.
pub(crate) struct Study {
    encoder: Encoder,
    task: Task,
    texts: Vec<Tokens>,
    original: Vec<Vec<f32>>,
}

impl Study {
    /// Loads the model of a directory and reads the texts of these inputs, of which there is at least one.
    ///
    /// # Errors
    /// When the model does not load, does another task, or cannot read an input.
    pub(crate) fn open(
        dir: &Path,
        task: &str,
        weights: &Weights,
        inputs: &[Value],
        machine: Machine,
    ) -> Result<Self, LoadError> {
        let task =
            Task::named(task).ok_or_else(|| LoadError::new(dir, format!("does {task}, which is not of texts")))?;
        let mut study = match task {
            Task::FeatureExtraction => Self::of::<Embedder>(dir, task, weights, inputs, machine),
            Task::TextClassification => Self::of::<Classifier>(dir, task, weights, inputs, machine),
            Task::TokenClassification => Self::of::<Tagger>(dir, task, weights, inputs, machine),
            Task::ZeroShotClassification => Self::of::<ZeroShot>(dir, task, weights, inputs, machine),
        }?;
        let mut before = 0;
        study.texts.retain(|text| {
            let is_read = before < MOST_ROWS;
            before += text.ids.len();
            is_read
        });
        Ok(study)
    }

    fn of<T: TextTask>(
        dir: &Path,
        task: Task,
        weights: &Weights,
        inputs: &[Value],
        machine: Machine,
    ) -> Result<Self, LoadError> {
        let model = TextModel::<T>::load(dir, task, weights, machine, Precision::F32)?;
        let mut texts = Vec::new();
        for (place, input) in inputs.iter().enumerate() {
            let wrong = |reason: String| LoadError::new(dir, format!("fails on input {}: {reason}", place + 1));
            let input = to_raw_value(input).map_err(|error| wrong(error.to_string()))?;
            let (read, _) = model.task.read(&model.tokenizer, &input).map_err(|failure| wrong(failure.to_string()))?;
            texts.extend(read);
        }
        match model.runner {
            Runner::Kernels(encoder, _) => Ok(Self { encoder: *encoder, task, texts, original: Vec::new() }),
            Runner::Device(..) => Err(LoadError::new(dir, "its heads and layers are judged on the processor")),
        }
    }

    fn outputs(&self) -> Vec<Vec<f32>> {
        let texts: Vec<_> = self.texts.iter().map(Text::from).collect();
        self.encoder.run(&texts, &mut Turn::kept(), || false, |_, numbers| numbers).unwrap_or_default()
    }
}

impl importance::Study for Study {
    type Layer = Layer;

    fn layers_mut(&mut self) -> &mut Vec<Layer> {
        self.encoder.layers_mut()
    }

    fn observe(&mut self, see: impl FnMut(usize, Rows<'_>)) -> Result<(), LoadError> {
        let texts: Vec<_> = self.texts.iter().map(Text::from).collect();
        self.encoder.observe(&texts, see);
        Ok(())
    }

    fn remember(&mut self) -> Result<(), LoadError> {
        self.original = self.outputs();
        Ok(())
    }

    /// The mean of 1 − cosine for embeddings, and of squared differences for a classifier's outputs.
    fn distance(&mut self) -> Result<f64, LoadError> {
        let (original, found) = (&self.original, self.outputs());
        if self.task != Task::FeatureExtraction {
            return Ok(mean_squares(original, &found));
        }
        let apart = original.iter().zip(&found).map(|(one, other)| 1.0 - cosine(one, other).unwrap_or(0.0));
        Ok(apart.sum::<f64>() / original.len().max(1) as f64)
    }
}
