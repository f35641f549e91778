//! `feature-extraction`: a text as a vector.

use prediction::Failure;
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};

use super::{
    TextTask,
    files::Settings,
    only, text_schema,
    tokenize::{Tokenizer, Tokens},
    unreadable,
};
use crate::contract::{Contract, answer, check_numbers, parse};

/// Shorter embeddings are divided by this instead of their length, as torch's `normalize` does.
const LEAST_LENGTH: f64 = 1e-12;

/// Embeds texts.
pub(crate) struct Embedder {
    normalize: bool,
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

impl TextTask for Embedder {
    type Asked = ();
    type Part = Result<Box<RawValue>, Failure>;

    fn new(settings: &Settings) -> Result<Self, String> {
        Ok(Self { normalize: settings.normalize })
    }

    fn contract(&self, settings: &Settings) -> Contract {
        let (size, tokens) = (settings.config.hidden_size, settings.max_tokens);
        let length = if self.normalize { " of length 1" } else { "" };
        let text = format!("What to embed; a text of more than {tokens} tokens is cut to its first {tokens}.");
        Contract {
            description: format!("Embeds a text as a vector of {size} numbers{length}; reads up to {tokens} tokens."),
            input_schema: json!({
                "type": "object",
                "properties": {"text": text_schema(&text)},
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
            example: json!({"text": "A lighthouse keeper counts the ships."}),
        }
    }

    fn read(&self, tokenizer: &Tokenizer, input: &RawValue) -> Result<(Vec<Tokens>, ()), Failure> {
        let Input { text } = parse(input)?;
        Ok((vec![tokenizer.text(&text).map_err(|error| unreadable(&error))?], ()))
    }

    fn part(&self, _: &Tokenizer, (): &(), mut embedding: Vec<f32>) -> Self::Part {
        if self.normalize {
            let squares: f64 = embedding.iter().map(|number| f64::from(*number).powi(2)).sum();
            let length = squares.sqrt().max(LEAST_LENGTH);
            embedding.iter_mut().for_each(|number| *number = (f64::from(*number) / length) as f32);
        }
        check_numbers(&embedding)?;
        answer(&Output { embedding })
    }

    fn whole(&self, (): &(), parts: Vec<Self::Part>) -> Result<Box<RawValue>, Failure> {
        only(parts)
    }
}
