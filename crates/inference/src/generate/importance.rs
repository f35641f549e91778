//! What heads and layers of a decoder are worth to some prompts.

use std::{
    mem,
    path::{Path, PathBuf},
};

use kernels::Rows;
use serde_json::{Value, value::to_raw_value};

use super::{
    Generator,
    cache::Cache,
    compare::{MOST_TOKENS, divergence, log_probabilities},
    decoder::{Layer, Part},
    workshop::Workshop,
};
use crate::{
    LoadError, Machine,
    gguf::Gguf,
    importance::{self, MOST_ROWS},
};

/// The most bytes of what the original says of next tokens: with a vocabulary of 150,000, those of 800 tokens.
const MOST_BYTES: usize = 512 << 20;

/// A loaded generator, and the prompts that it is judged by.
pub(crate) struct Study {
    /// Where it is from.
    path: PathBuf,
    generator: Generator,
    workshop: Workshop,
    prompts: Vec<Vec<u32>>,
    /// The logarithms of the probabilities of all tokens, after each token of each prompt.
    original: Vec<Vec<f32>>,
}

impl Study {
    /// Loads the model of a file and reads the prompts of these inputs, of which there is at least one: of each the first tokens, and
    /// no more of all than there is memory for what follows them.
    ///
    /// # Errors
    /// When the model does not load or cannot read an input.
    pub(crate) fn open(gguf: &Gguf, inputs: &[Value], machine: Machine, path: &Path) -> Result<Self, LoadError> {
        let generator = Generator::load(gguf, machine)?;
        let workshop = Workshop::new(machine).map_err(|error| LoadError::new(path, format!("no threads: {error}")))?;
        let row = generator.decoder.config.vocabulary * size_of::<f32>();
        let (mut room, mut prompts) = ((MOST_BYTES / row).clamp(1, MOST_ROWS), Vec::new());
        for (place, input) in inputs.iter().enumerate() {
            if room == 0 {
                break;
            }
            let wrong = |reason: String| LoadError::new(path, format!("fails on input {}: {reason}", place + 1));
            let input = to_raw_value(input).map_err(|error| wrong(error.to_string()))?;
            let read = generator.first_tokens(&input, MOST_TOKENS.min(room));
            let (tokens, _) = read.map_err(|failure| wrong(failure.to_string()))?;
            room -= tokens.len();
            prompts.push(tokens);
        }
        Ok(Self { path: path.to_owned(), generator, workshop, prompts, original: Vec::new() })
    }

    /// Takes each prompt through the layers, and shows its place, its last states and who computes with them.
    fn run(
        &mut self,
        mut see: impl FnMut(usize, Rows<'_>),
        mut states: impl FnMut(usize, &Generator, Vec<f32>, &mut Workshop) -> candle_core::Result<()>,
    ) -> Result<(), LoadError> {
        let Self { path, generator, workshop, prompts, .. } = self;
        for (place, tokens) in prompts.iter().enumerate() {
            let mut cache = Cache::new(&generator.decoder.config, tokens.len());
            let part = Part { tokens, cache: &mut cache, wants_logits: true };
            let found = generator.decoder.states(&mut [part], workshop, &mut see);
            let found = found.and_then(|found| states(place, generator, found, workshop));
            found.map_err(|error| LoadError::new(path, format!("fails on input {}: {error}", place + 1)))?;
        }
        Ok(())
    }
}

impl importance::Study for Study {
    type Layer = Layer;

    fn layers_mut(&mut self) -> &mut Vec<Layer> {
        self.generator.decoder.layers_mut()
    }

    fn observe(&mut self, see: impl FnMut(usize, Rows<'_>)) -> Result<(), LoadError> {
        self.run(see, |_, _, _, _| Ok(()))
    }

    fn remember(&mut self) -> Result<(), LoadError> {
        let mut original = Vec::new();
        self.run(
            |_, _| (),
            |_, generator, states, workshop| {
                let logits = generator.decoder.logits(&states, workshop);
                let mut all = Vec::with_capacity(logits.len());
                for logits in logits.chunks_exact(generator.decoder.config.vocabulary) {
                    all.extend(log_probabilities(logits)?.into_iter().map(|number| number as f32));
                }
                original.push(all);
                Ok(())
            },
        )?;
        self.original = original;
        Ok(())
    }

    /// The mean over all tokens of the Kullback-Leibler divergence of what follows them.
    fn distance(&mut self) -> Result<f64, LoadError> {
        let original = mem::take(&mut self.original);
        let (mut sum, mut tokens) = (0.0, 0_usize);
        let ran = self.run(
            |_, _| (),
            |place, generator, states, workshop| {
                let vocabulary = generator.decoder.config.vocabulary;
                let logits = generator.decoder.logits(&states, workshop);
                let pairs = original[place].chunks_exact(vocabulary).zip(logits.chunks_exact(vocabulary));
                for (original, logits) in pairs {
                    let original: Vec<f64> = original.iter().map(|number| f64::from(*number)).collect();
                    sum += divergence(&original, &log_probabilities(logits)?);
                    tokens += 1;
                }
                Ok(())
            },
        );
        self.original = original;
        ran?;
        if f64::is_finite(sum) {
            Ok(sum / tokens.max(1) as f64)
        } else {
            Err(LoadError::new(&self.path, "computes what is no number"))
        }
    }
}
