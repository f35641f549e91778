//! `text-classification`: labels of a text, or of a pair of texts, with scores. A model with one label is a reranker or a
//! regression.

use prediction::Failure;
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{
    TextTask,
    files::Settings,
    only, text_schema,
    tokenize::{Tokenizer, Tokens},
    unreadable,
};
use crate::{
    contract::{Contract, answer, check_numbers, parse},
    labels::{self, Function},
};

/// Labels texts.
pub(crate) struct Classifier {
    labels: Vec<String>,
    /// Unless the input names another.
    function: Function,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    text: String,
    text_pair: Option<String>,
    top_k: Option<usize>,
    function_to_apply: Option<Function>,
}

/// What is asked of a text's labels.
pub(crate) struct Asked {
    most: usize,
    function: Function,
}

impl TextTask for Classifier {
    type Asked = Asked;
    type Part = Result<Box<RawValue>, Failure>;

    fn new(settings: &Settings) -> Result<Self, String> {
        let labels = settings.config.labels()?;
        let function = settings.config.function(labels.len(), settings.activation.as_deref())?;
        Ok(Self { labels, function })
    }

    fn contract(&self, settings: &Settings) -> Contract {
        let (count, tokens, words) = (self.labels.len(), settings.max_tokens, self.function.words());
        let text =
            format!("What to label; text and text_pair are cut to {tokens} tokens together, the longer one first.");
        let (description, example) = if count == 1 {
            let description = format!("Scores a text, or how two texts belong together; reads up to {tokens} tokens.");
            (
                description,
                json!({"text": "Who counts the ships?", "text_pair": "A lighthouse keeper counts the ships."}),
            )
        } else {
            let description = format!("Tells which of {count} labels fit a text; reads up to {tokens} tokens.");
            (description, json!({"text": "A lighthouse keeper counts the ships."}))
        };
        Contract {
            description,
            input_schema: json!({
                "type": "object",
                "properties": {
                    "text": text_schema(&text),
                    "text_pair": text_schema("A second text, for models that were trained on pairs; rerankers: the passage, where text is the query."),
                    "top_k": {
                        "type": "integer",
                        "minimum": 1,
                        "description": "How many labels are answered, the likeliest; all when absent.",
                    },
                    "function_to_apply": {
                        "enum": ["softmax", "sigmoid", "none"],
                        "description": "What makes scores of the model's outputs; when absent, what the model was made for.",
                    },
                },
                "required": ["text"],
                "additionalProperties": false,
            }),
            output_schema: labels::schema(&self.labels, &format!("Unless function_to_apply says otherwise: {words}.")),
            example,
        }
    }

    fn read(&self, tokenizer: &Tokenizer, input: &RawValue) -> Result<(Vec<Tokens>, Asked), Failure> {
        let Input { text, text_pair, top_k, function_to_apply } = parse(input)?;
        let tokens = match &text_pair {
            Some(other) => tokenizer.pair(&text, other),
            None => tokenizer.text(&text),
        };
        let asked = Asked { most: top_k.unwrap_or(usize::MAX), function: function_to_apply.unwrap_or(self.function) };
        Ok((vec![tokens.map_err(|error| unreadable(&error))?], asked))
    }

    fn part(&self, _: &Tokenizer, asked: &Asked, outputs: Vec<f32>) -> Self::Part {
        check_numbers(&outputs)?;
        answer(&labels::best(&self.labels, &asked.function.of(&outputs), asked.most))
    }

    fn whole(&self, _: &Asked, parts: Vec<Self::Part>) -> Result<Box<RawValue>, Failure> {
        only(parts)
    }
}
