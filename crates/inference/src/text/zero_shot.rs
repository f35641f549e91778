//! `zero-shot-classification`: scores of labels that come with the text, by a classifier of pairs that knows whether the second
//! text follows from the first.
//!
//! After Yin et al., "Benchmarking Zero-shot Text Classification" (2019, arXiv 1909.00161): each label becomes a sentence, and
//! the text is paired with each sentence.

use prediction::Failure;
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};

use super::{
    TextTask,
    files::Settings,
    text_schema,
    tokenize::{Tokenizer, Tokens},
};
use crate::{
    contract::{Contract, answer, check_numbers, failed, invalid, parse},
    labels::softmax,
};

/// The most labels of one input, each of which costs as much as the text.
const MOST_LABELS: usize = 100;

/// The longest label and the longest template, in characters.
const LONGEST_LABEL: usize = 1000;

/// Where the label stands in a template.
const HOLE: &str = "{}";

/// The sentence that a label becomes, where the input brings no other.
const TEMPLATE: &str = "This example is {}.";

/// Scores labels that come with the text.
pub(crate) struct ZeroShot {
    /// The output for "follows".
    entailment: usize,
    /// The output for "contradicts".
    contradiction: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    text: String,
    candidate_labels: Vec<String>,
    #[serde(default)]
    multi_label: bool,
    hypothesis_template: Option<String>,
}

/// What is asked of a text's pairs.
pub(crate) struct Asked {
    labels: Vec<String>,
    multi_label: bool,
}

/// Whether one label follows.
pub(crate) struct Outputs {
    entailment: f32,
    contradiction: f32,
}

#[derive(Serialize)]
struct Output<'a> {
    labels: Vec<&'a str>,
    scores: Vec<f32>,
}

impl TextTask for ZeroShot {
    type Asked = Asked;
    type Part = Result<Outputs, Failure>;

    fn new(settings: &Settings) -> Result<Self, String> {
        let labels = settings.config.labels()?;
        let entailment = labels.iter().position(|label| label.to_lowercase().starts_with("entail"));
        match entailment {
            Some(entailment) if labels.len() > 1 => {
                // As transformers has it: the first output, or the last where the first is the other.
                Ok(Self { entailment, contradiction: if entailment == 0 { labels.len() - 1 } else { 0 } })
            }
            _ => {
                Err(format!("id2label has {labels:?}; zero-shot-classification needs one for entailment among several"))
            }
        }
    }

    fn contract(&self, settings: &Settings) -> Contract {
        let tokens = settings.max_tokens;
        let text = format!("What to label; cut to as many tokens as fit beside each label, {tokens} with it.");
        Contract {
            description: format!("Tells which of the labels that you bring fit a text; reads up to {tokens} tokens."),
            input_schema: json!({
                "type": "object",
                "properties": {
                    "text": text_schema(&text),
                    "candidate_labels": {
                        "type": "array",
                        "items": {"type": "string", "minLength": 1, "maxLength": LONGEST_LABEL},
                        "minItems": 1,
                        "maxItems": MOST_LABELS,
                        "description": "What may fit the text; each takes as long as the text alone.",
                    },
                    "multi_label": {
                        "type": "boolean",
                        "default": false,
                        "description": "Whether several may fit: each score is then for itself, else they add up to 1.",
                    },
                    "hypothesis_template": {
                        "type": "string",
                        "maxLength": LONGEST_LABEL,
                        "pattern": "\\{\\}",
                        "default": TEMPLATE,
                        "description": "The sentence that each label makes, in the place of {}.",
                    },
                },
                "required": ["text", "candidate_labels"],
                "additionalProperties": false,
            }),
            output_schema: json!({
                "type": "object",
                "properties": {
                    "labels": {
                        "type": "array",
                        "items": {"type": "string"},
                        "description": "Those of the input, the highest score first.",
                    },
                    "scores": {
                        "type": "array",
                        "items": {"type": "number", "minimum": 0, "maximum": 1},
                        "description": "Of each label.",
                    },
                },
                "required": ["labels", "scores"],
                "additionalProperties": false,
            }),
            example: json!({
                "text": "A lighthouse keeper counts the ships.",
                "candidate_labels": ["sea", "mountains"],
            }),
        }
    }

    fn read(&self, tokenizer: &Tokenizer, input: &RawValue) -> Result<(Vec<Tokens>, Asked), Failure> {
        let Input { text, candidate_labels: labels, multi_label, hypothesis_template } = parse(input)?;
        if !(1..=MOST_LABELS).contains(&labels.len()) {
            return Err(invalid(format!("candidate_labels has {}; 1 to {MOST_LABELS} are taken", labels.len())));
        }
        let template = hypothesis_template.as_deref().unwrap_or(TEMPLATE);
        let Some((before, after)) = template.split_once(HOLE).filter(|(_, after)| !after.contains(HOLE)) else {
            return Err(invalid("hypothesis_template does not have {} once, for the label"));
        };
        let sentences: Vec<_> = labels.iter().map(|label| format!("{before}{label}{after}")).collect();
        let tokens = tokenizer.pairs(&text, &sentences).map_err(|error| {
            tracing::warn!(%error, "a text could not be paired with its labels");
            invalid("the text cannot be read beside its labels: one of them is too long, or has no tokens")
        })?;
        Ok((tokens, Asked { labels, multi_label }))
    }

    fn part(&self, _: &Tokenizer, _: &Asked, outputs: Vec<f32>) -> Self::Part {
        check_numbers(&outputs)?;
        Ok(Outputs { entailment: outputs[self.entailment], contradiction: outputs[self.contradiction] })
    }

    fn whole(&self, asked: &Asked, parts: Vec<Self::Part>) -> Result<Box<RawValue>, Failure> {
        let parts: Vec<_> = parts.into_iter().collect::<Result<_, _>>()?;
        let scores: Vec<_> = if asked.multi_label || parts.len() == 1 {
            parts.iter().map(|part| softmax(&[part.contradiction, part.entailment])[1]).collect()
        } else {
            softmax(&parts.iter().map(|part| part.entailment).collect::<Vec<_>>())
        };
        if scores.len() != asked.labels.len() {
            return Err(failed(&"there are not as many scores as labels"));
        }
        let mut scored: Vec<_> = asked.labels.iter().map(String::as_str).zip(scores).collect();
        scored.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        let (labels, scores) = scored.into_iter().unzip();
        answer(&Output { labels, scores })
    }
}
