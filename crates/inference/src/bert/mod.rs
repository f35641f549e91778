//! Text embedding by encoders of the BERT family, from plain Hugging Face directories, as sentence-transformers does it.

mod config;
mod crew;
mod deal;
mod encoder;
mod files;
mod tensors;
#[cfg(test)]
mod tests;
mod tokenize;

use std::path::Path;

use kernels::Precision;
use prediction::{Failure, FailureCode, Limits};
use serde::{Deserialize, Serialize};
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};

use self::{files::Settings, tokenize::Tokenizer};
use crate::{
    Abandon, LoadError, Machine,
    architecture::{Architecture, Described},
    engine,
    map::Weights,
};

pub use self::encoder::Encoder;
pub(crate) use self::files::is_bert;

/// The longest text that is read, in characters (of JSON Schema, which are Unicode's code points); some tens of times what any
/// model of the family looks at.
const LONGEST_TEXT: usize = 100_000;

/// Shorter embeddings are divided by this instead of their length, as torch's `normalize` does.
const LEAST_LENGTH: f64 = 1e-12;

/// The most tokens in a batch for each thread that computes it: more take as long each, but those of the batch wait for each
/// other, and a batch is not left while it is in a layer.
const TOKENS_EACH: usize = 2048;

/// A loaded model.
pub(crate) struct Bert {
    tokenizer: Tokenizer,
    encoder: Encoder,
    normalize: bool,
    /// The most tokens of a batch.
    max_tokens: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    text: String,
}

#[derive(Serialize)]
struct Output {
    embedding: Vec<f32>,
}

/// What a directory's files say of its model.
///
/// # Errors
/// When a file is missing or cannot be read, and when the model needs what this server does not do.
pub(crate) fn describe(dir: &Path) -> Result<Described, LoadError> {
    let settings = Settings::read(dir)?;
    let (size, tokens) = (settings.config.hidden_size, settings.max_tokens);
    let length = if settings.normalize { " of length 1" } else { "" };
    Ok(Described {
        name: files::name(dir)?,
        task: "feature-extraction".into(),
        description: format!("Embeds a text as a vector of {size} numbers{length}; reads up to {tokens} tokens."),
        license: files::license(dir),
        source: None,
        input_schema: json!({
            "type": "object",
            "properties": {
                "text": {
                    "type": "string",
                    "maxLength": LONGEST_TEXT,
                    "description": format!("What to embed; a text of more than {tokens} tokens is cut to its first {tokens}."),
                },
            },
            "required": ["text"],
            "additionalProperties": false,
        }),
        output_schema: json!({
            "type": "object",
            "properties": {
                "embedding": {
                    "type": "array",
                    "items": {"type": "number"},
                    "minItems": size,
                    "maxItems": size,
                    "description": format!("A vector of {size} numbers{length}: the nearer two texts' are, the nearer their meaning."),
                },
            },
            "required": ["embedding"],
            "additionalProperties": false,
        }),
        limits: Limits::default(),
        files: settings.files,
        example: json!({"text": "A lighthouse keeper counts the ships."}),
    })
}

impl Bert {
    /// Reads the tokenizer and the encoder.
    ///
    /// # Errors
    /// When a file cannot be read, the files do not fit each other, or a tensor is missing or of another shape.
    pub(crate) fn load(
        dir: &Path,
        weights: &Weights,
        machine: Machine,
        precision: Precision,
    ) -> Result<Self, LoadError> {
        let settings = Settings::read(dir)?;
        Ok(Self {
            tokenizer: Tokenizer::load(dir, &settings)?,
            encoder: Encoder::load(&settings, weights, machine, precision)?,
            normalize: settings.normalize,
            max_tokens: TOKENS_EACH * machine.threads.get(),
        })
    }

    /// The embedding as it is answered; `None` when it holds what is no number.
    fn finish(&self, mut embedding: Vec<f32>) -> Option<Output> {
        if self.normalize {
            let squares: f64 = embedding.iter().map(|number| f64::from(*number).powi(2)).sum();
            let length = squares.sqrt().max(LEAST_LENGTH);
            embedding.iter_mut().for_each(|number| *number = (f64::from(*number) / length) as f32);
        }
        embedding.iter().all(|number| number.is_finite()).then_some(Output { embedding })
    }
}

impl Architecture for Bert {
    /// The ids of a text's tokens.
    type Item = Vec<u32>;

    fn prepare(&self, input: &RawValue) -> Result<Vec<u32>, Failure> {
        let invalid = |message: String| Failure::new(FailureCode::InvalidInput, message);
        let input: Input = serde_json::from_str(input.get()).map_err(|error| invalid(error.to_string()))?;
        self.tokenizer.encode(&input.text).map_err(|error| {
            tracing::warn!(%error, "a text could not be cut into tokens");
            invalid("the text cannot be cut into tokens".into())
        })
    }

    fn cost(&self, tokens: &Vec<u32>) -> usize {
        tokens.len()
    }

    fn max_batch_cost(&self) -> usize {
        self.max_tokens
    }

    fn tokens(&self, tokens: &Vec<u32>) -> Option<u32> {
        u32::try_from(tokens.len()).ok()
    }

    fn run(&self, batch: &[(Vec<u32>, Abandon)]) -> Result<Vec<Result<Box<RawValue>, Failure>>, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            tracing::error!(%error, "a text encoder failed");
            Failure::new(FailureCode::ModelError, "the model failed on this input")
        };
        let texts: Vec<_> = batch.iter().map(|(tokens, _)| tokens.as_slice()).collect();
        let unwanted = || batch.iter().all(|(_, abandon)| abandon.is_abandoned());
        let answers = self.encoder.embed(&texts, unwanted, |embedding| {
            let output = self.finish(embedding).ok_or_else(|| failed(&"an embedding holds what is no number"))?;
            to_raw_value(&output).map_err(|error| failed(&error))
        });
        Ok(answers.unwrap_or_else(|| batch.iter().map(|_| Err(engine::canceled())).collect()))
    }
}
