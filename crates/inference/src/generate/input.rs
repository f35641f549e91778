//! What is asked of a text generator, read strictly, and the schemas that say so.

use prediction::{Failure, FailureCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{chat::Message, sample::Sampling};

/// The longest prompt, in characters; nearer bounds are the model's context and the bytes of an input.
const LONGEST_PROMPT: usize = 1_000_000;
/// What follows a prompt when nothing is said of it, at most, in tokens.
const USUAL_TOKENS: usize = 256;
const MOST_MESSAGES: usize = 1000;
const MOST_STOPS: usize = 4;
/// The longest stop string, in characters.
const LONGEST_STOP: usize = 256;
const HIGHEST_TEMPERATURE: f64 = 100.0;
/// Numbers up to this one are the same in JSON readers that know floats alone (2^53 - 1).
const LARGEST_EXACT: u64 = (1 << 53) - 1;

/// An input as it is written. Integers are read as floats, since JSON Schema takes `5.0` for one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    prompt: Option<String>,
    messages: Option<Vec<Message>>,
    max_tokens: Option<f64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<f64>,
    #[serde(default)]
    stop: Vec<String>,
    seed: Option<f64>,
}

/// What the text goes on from.
pub(super) enum Beginning {
    Prompt(String),
    Messages(Vec<Message>),
}

/// A sequence to be: a prompt and what shall follow it.
pub(crate) struct Request {
    /// At least one token.
    pub(super) prompt: Vec<u32>,
    /// At least one; the prompt's and these fit the model's context.
    pub(super) max_tokens: usize,
    pub(super) sampling: Sampling,
    pub(super) stop: Vec<String>,
    /// Without one, each run has its own.
    pub(super) seed: Option<u64>,
}

impl Request {
    /// The most tokens that the sequence will have, the prompt's included.
    pub(super) fn tokens(&self) -> usize {
        self.prompt.len() + self.max_tokens
    }
}

impl Input {
    /// Takes what the text goes on from.
    ///
    /// # Errors
    /// When there are both a prompt and messages, or neither, or too many messages.
    pub(super) fn beginning(&mut self) -> Result<Beginning, Failure> {
        match (self.prompt.take(), self.messages.take()) {
            (Some(prompt), None) => Ok(Beginning::Prompt(prompt)),
            (None, Some(messages)) if (1..=MOST_MESSAGES).contains(&messages.len()) => {
                Ok(Beginning::Messages(messages))
            }
            (None, Some(messages)) => {
                Err(invalid(format!("there are {} messages; 1 to {MOST_MESSAGES} are taken", messages.len())))
            }
            _ => Err(invalid("an input has a prompt or messages, and not both")),
        }
    }

    /// What is asked, the prompt being these tokens.
    ///
    /// # Errors
    /// When a number is out of bounds, or the prompt and what shall follow it do not fit the model's context.
    pub(super) fn request(self, prompt: Vec<u32>, context: usize) -> Result<Request, Failure> {
        if prompt.is_empty() {
            return Err(without_tokens());
        }
        let room = context
            .checked_sub(prompt.len())
            .filter(|room| *room > 0)
            .ok_or_else(|| too_long(prompt.len(), context))?;
        let max_tokens = match self.max_tokens {
            Some(asked) => whole("max_tokens", asked, 1, context as u64)? as usize,
            None => room.min(USUAL_TOKENS),
        };
        if max_tokens > room {
            return Err(invalid(format!(
                "the prompt has {} tokens; with max_tokens {max_tokens} that is more than the {context} of the model's context",
                prompt.len()
            )));
        }
        let within = |name: &str, number: Option<f64>, most: f64| match number.unwrap_or(1.0) {
            number if (0.0..=most).contains(&number) => Ok(number as f32),
            number => Err(invalid(format!("{name} is {number}; it is 0 to {most}"))),
        };
        if self.stop.len() > MOST_STOPS {
            return Err(invalid(format!("stop has {} strings; at most {MOST_STOPS} are taken", self.stop.len())));
        }
        if self.stop.iter().any(|stop| stop.is_empty() || stop.chars().count() > LONGEST_STOP) {
            return Err(invalid(format!("a stop string has 1 to {LONGEST_STOP} characters")));
        }
        let sampling = Sampling {
            temperature: within("temperature", self.temperature, HIGHEST_TEMPERATURE)?,
            top_p: within("top_p", self.top_p, 1.0)?,
            top_k: whole("top_k", self.top_k.unwrap_or(0.0), 0, LARGEST_EXACT)? as usize,
        };
        let seed = self.seed.map(|seed| whole("seed", seed, 0, LARGEST_EXACT)).transpose()?;
        Ok(Request { prompt, max_tokens, sampling, stop: self.stop, seed })
    }
}

/// Why a prompt of so many tokens is not taken.
pub(super) fn too_long(tokens: usize, context: usize) -> Failure {
    let message =
        format!("the prompt has {tokens} tokens; nothing can follow it in the {context} of the model's context");
    Failure::new(FailureCode::InputTooLarge, message)
}

pub(super) fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(FailureCode::InvalidInput, message)
}

/// The prompt is nothing to the model.
pub(super) fn without_tokens() -> Failure {
    invalid("the prompt has no tokens, and nothing can follow that")
}

fn whole(name: &str, number: f64, least: u64, most: u64) -> Result<u64, Failure> {
    let is_whole = number.fract() == 0.0 && (least as f64..=most as f64).contains(&number);
    if is_whole {
        Ok(number as u64)
    } else {
        Err(invalid(format!("{name} is {number}; it is a whole number, {least} to {most}")))
    }
}

/// The schema of inputs, for a model with this context that takes conversations too or does not.
pub(super) fn input_schema(context: usize, takes_messages: bool) -> Value {
    let mut schema = json!({
        "type": "object",
        "properties": {
            "prompt": {
                "type": "string",
                "maxLength": LONGEST_PROMPT,
                "description": format!(
                    "What the text goes on from. Its tokens and those that follow it are at most {context}. Special tokens of the model may be written out."
                ),
            },
            "max_tokens": {
                "type": "integer", "minimum": 1, "maximum": context - 1,
                "description": format!("The most tokens that follow; without it {USUAL_TOKENS}, or as many as fit."),
            },
            "temperature": {
                "type": "number", "minimum": 0, "maximum": HIGHEST_TEMPERATURE, "default": 1,
                "description": "What logits are divided by; 0 takes the likeliest token, always.",
            },
            "top_p": {
                "type": "number", "minimum": 0, "maximum": 1, "default": 1,
                "description": "Only the fewest tokens whose probabilities add up to this are drawn from.",
            },
            "top_k": {
                "type": "integer", "minimum": 0, "maximum": LARGEST_EXACT, "default": 0,
                "description": "Only so many of the likeliest tokens are drawn from; 0 is all.",
            },
            "stop": {
                "type": "array", "maxItems": MOST_STOPS,
                "items": {"type": "string", "minLength": 1, "maxLength": LONGEST_STOP},
                "description": "The text ends before the first of these.",
            },
            "seed": {
                "type": "integer", "minimum": 0, "maximum": LARGEST_EXACT,
                "description": "The same seed gives the same text; without it, each prediction has its own.",
            },
        },
        "required": ["prompt"],
        "additionalProperties": false,
    });
    if takes_messages {
        schema["properties"]["messages"] = json!({
            "type": "array", "minItems": 1, "maxItems": MOST_MESSAGES,
            "items": {
                "type": "object",
                "properties": {
                    "role": {"type": "string", "description": "Usually system, user or assistant."},
                    "content": {"type": "string", "maxLength": LONGEST_PROMPT},
                },
                "required": ["role", "content"],
                "additionalProperties": false,
            },
            "description": "A conversation instead of a prompt; the model's own chat template makes one of it.",
        });
        schema["required"] = json!([]);
        schema["oneOf"] = json!([{"required": ["prompt"]}, {"required": ["messages"]}]);
    }
    schema
}

/// The schema of outputs.
pub(super) fn output_schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "text": {"type": "string", "description": "What follows the prompt, without the stop string."},
            "finish_reason": {
                "enum": ["stop", "length"],
                "description": "Whether the model or a stop string ended the text, or max_tokens did.",
            },
            "prompt_tokens": {"type": "integer", "minimum": 1, "description": "Tokens of the prompt, the one that begins every text included."},
            "completion_tokens": {"type": "integer", "minimum": 1, "description": "Tokens that were drawn, the one that ended the text included."},
        },
        "required": ["text", "finish_reason", "prompt_tokens", "completion_tokens"],
        "additionalProperties": false,
    })
}
