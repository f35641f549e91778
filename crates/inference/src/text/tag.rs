//! `token-classification`: stretches of a text with labels, names for example.

use prediction::Failure;
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};

use super::{
    TextTask,
    files::Settings,
    only, text_schema,
    tokenize::{Place, Tokenizer, Tokens},
    unreadable,
};
use crate::{
    contract::{Contract, answer, check_numbers, failed, parse},
    labels::softmax,
};

/// The label of what is nothing in particular, which is not answered.
const OUTSIDE: &str = "O";

/// Labels tokens.
pub(crate) struct Tagger {
    labels: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    text: String,
    #[serde(default)]
    aggregation_strategy: Aggregation,
}

/// What is one entity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Aggregation {
    /// Each token.
    None,
    /// Neighbours of the same label, but for those that begin another (`B-`).
    #[default]
    Simple,
}

/// What is asked of a text's tokens.
pub(crate) struct Asked {
    aggregation: Aggregation,
    places: Vec<Place>,
}

/// A token with its likeliest label.
#[derive(Serialize)]
struct Entity<'a> {
    entity: &'a str,
    score: f32,
    index: usize,
    word: &'a str,
    start: usize,
    end: usize,
}

/// Neighbouring tokens of one label.
#[derive(Serialize)]
struct Group<'a> {
    entity_group: &'a str,
    score: f32,
    word: String,
    start: usize,
    end: usize,
}

impl Tagger {
    fn entities<'a>(&'a self, places: &'a [Place], outputs: &[f32]) -> Vec<Entity<'a>> {
        let entity = |place: &'a Place| {
            let first = place.index * self.labels.len();
            let scores = softmax(&outputs[first..first + self.labels.len()]);
            // The first of equals.
            let better = |best: usize, label: usize| if scores[label] > scores[best] { label } else { best };
            let best = (0..scores.len()).fold(0, better);
            let Place { index, word, start, end } = place;
            let (entity, score) = (self.labels[best].as_str(), scores[best]);
            Entity { entity, score, index: *index, word, start: *start, end: *end }
        };
        places.iter().map(entity).collect()
    }
}

/// Neighbours that belong together: a label without `B-` goes on with that of the token before.
fn groups<'e, 'a>(entities: &'e [Entity<'a>]) -> impl Iterator<Item = &'e [Entity<'a>]> {
    entities.chunk_by(|before, next| tag(before.entity) == tag(next.entity) && !next.entity.starts_with("B-"))
}

/// A label without the mark of beginning or going on.
fn tag(label: &str) -> &str {
    label.strip_prefix("B-").or_else(|| label.strip_prefix("I-")).unwrap_or(label)
}

impl<'a> Group<'a> {
    fn of(tokenizer: &Tokenizer, entities: &[Entity<'a>]) -> Result<Option<Self>, Failure> {
        let (Some(first), Some(last)) = (entities.first(), entities.last()) else { return Ok(None) };
        let entity_group = first.entity.split_once('-').map_or(first.entity, |(_, group)| group);
        if entity_group == OUTSIDE {
            return Ok(None);
        }
        let words = entities.iter().map(|entity| entity.word.to_owned()).collect();
        let sum: f64 = entities.iter().map(|entity| f64::from(entity.score)).sum();
        Ok(Some(Self {
            entity_group,
            score: (sum / entities.len() as f64) as f32,
            word: tokenizer.join(words).map_err(|error| failed(&error))?,
            start: first.start,
            end: last.end,
        }))
    }
}

impl TextTask for Tagger {
    type Asked = Asked;
    type Part = Result<Box<RawValue>, Failure>;

    fn new(settings: &Settings) -> Result<Self, String> {
        Ok(Self { labels: settings.config.labels()? })
    }

    fn contract(&self, settings: &Settings) -> Contract {
        let tokens = settings.max_tokens;
        let text = format!("Where to look; a text of more than {tokens} tokens is cut to its first {tokens}.");
        let mut groups: Vec<_> = self.labels.iter().map(|label| tag(label)).filter(|tag| *tag != OUTSIDE).collect();
        groups.sort_unstable();
        groups.dedup();
        let in_text = |which: &str| json!({"type": "integer", "minimum": 0, "description": format!("{which}, counted in characters (Unicode code points) of the text.")});
        Contract {
            description: format!(
                "Finds stretches of a text and labels them ({}); reads up to {tokens} tokens.",
                groups.join(", ")
            ),
            input_schema: json!({
                "type": "object",
                "properties": {
                    "text": text_schema(&text),
                    "aggregation_strategy": {
                        "enum": ["none", "simple"],
                        "default": "simple",
                        "description": "none: each token by itself, with its label in entity. simple: neighbours of one label together, with it in entity_group.",
                    },
                },
                "required": ["text"],
                "additionalProperties": false,
            }),
            output_schema: json!({
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "entity": {"enum": self.labels},
                        "entity_group": {"type": "string"},
                        "score": {"type": "number", "minimum": 0, "maximum": 1},
                        "index": {"type": "integer", "minimum": 0, "description": "The token's place among all tokens, special ones included."},
                        "word": {"type": "string", "description": "As the tokenizer writes it."},
                        "start": in_text("Where it begins"),
                        "end": in_text("Where it has ended"),
                    },
                    "oneOf": [{"required": ["entity", "index"]}, {"required": ["entity_group"]}],
                    "required": ["score", "word", "start", "end"],
                    "additionalProperties": false,
                },
                "description": format!("In the order of the text; none labelled {OUTSIDE}."),
            }),
            example: json!({"text": "Anna Meier counts the ships in Hamburg."}),
        }
    }

    fn read(&self, tokenizer: &Tokenizer, input: &RawValue) -> Result<(Vec<Tokens>, Asked), Failure> {
        let Input { text, aggregation_strategy: aggregation } = parse(input)?;
        let (tokens, places) = tokenizer.places(&text).map_err(|error| unreadable(&error))?;
        Ok((vec![tokens], Asked { aggregation, places }))
    }

    fn part(&self, tokenizer: &Tokenizer, asked: &Asked, outputs: Vec<f32>) -> Self::Part {
        check_numbers(&outputs)?;
        let mut entities = self.entities(&asked.places, &outputs);
        match asked.aggregation {
            Aggregation::None => {
                entities.retain(|entity| entity.entity != OUTSIDE);
                answer(&entities)
            }
            Aggregation::Simple => {
                let groups = groups(&entities).filter_map(|group| Group::of(tokenizer, group).transpose());
                answer(&groups.collect::<Result<Vec<_>, _>>()?)
            }
        }
    }

    fn whole(&self, _: &Asked, parts: Vec<Self::Part>) -> Result<Box<RawValue>, Failure> {
        only(parts)
    }
}
