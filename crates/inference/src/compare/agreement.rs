//! How far the answers of two models agree, in the terms of their task.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::generate::Divergence;

/// More labels than any model has.
const ALL_LABELS: u32 = 1 << 20;

/// How far they agree; shares are 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub enum Agreement {
    /// Of embeddings: cosines of each input's two, 1 where they point the same way.
    Embeddings {
        /// Of all inputs.
        mean_cosine: f64,
        /// The worst.
        worst_cosine: f64,
    },
    /// Of classifiers.
    Labels {
        /// The share of inputs whose highest label is the same.
        same: f64,
        /// The largest difference between the two scores of a label.
        largest_difference: f64,
    },
    /// Of taggers.
    Tags {
        /// The share of tokens with the same tag, of those that either gives one.
        same: f64,
        /// How many those are.
        tokens: usize,
    },
    /// Of text generators.
    Tokens(Divergence),
}

#[derive(Deserialize)]
struct Embedding {
    embedding: Vec<f64>,
}

#[derive(Deserialize)]
struct Scored {
    label: String,
    score: f64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Labels {
    Scored(Vec<Scored>),
    Asked { labels: Vec<String>, scores: Vec<f64> },
}

#[derive(Deserialize)]
struct Tagged {
    entity: String,
    index: usize,
}

/// An input that asks for all that there is to compare.
pub(super) fn asking_for_all(task: &str, mut input: Value) -> Value {
    if let Value::Object(asked) = &mut input {
        match task {
            "text-classification" | "image-classification" => {
                asked.insert("top_k".to_owned(), ALL_LABELS.into());
            }
            "token-classification" => {
                asked.insert("aggregation_strategy".to_owned(), json!("none"));
            }
            _ => {}
        }
    }
    input
}

impl Agreement {
    /// That of two models' answers to the same inputs.
    ///
    /// # Errors
    /// When it is not known how answers of this task are compared, or they are not what the task's are.
    pub(super) fn of(task: &str, first: &[Box<RawValue>], second: &[Box<RawValue>]) -> Result<Self, String> {
        let pairs = || first.iter().zip(second);
        match task {
            "feature-extraction" => {
                let cosines = pairs().map(|(one, other)| {
                    let (one, other): (Embedding, Embedding) = (read(one)?, read(other)?);
                    let (one, other) = (one.embedding, other.embedding);
                    Ok(cosine(&one, &other).unwrap_or_else(|| f64::from(u8::from(one == other))))
                });
                let cosines = cosines.collect::<Result<Vec<_>, String>>()?;
                let mean_cosine = cosines.iter().sum::<f64>() / cosines.len().max(1) as f64;
                Ok(Self::Embeddings { mean_cosine, worst_cosine: cosines.into_iter().fold(1.0, f64::min) })
            }
            "text-classification" | "image-classification" | "zero-shot-classification" => {
                let (mut same, mut largest_difference) = (0, 0.0_f64);
                for (one, other) in pairs() {
                    let [one, other] = [scores(read(one)?), scores(read(other)?)];
                    same += usize::from(highest(&one) == highest(&other));
                    for (label, score) in &one {
                        let theirs = other.get(label).ok_or_else(|| format!("label {label:?} has no score"))?;
                        largest_difference = largest_difference.max((score - theirs).abs());
                    }
                }
                Ok(Self::Labels { same: share(same, first.len()), largest_difference })
            }
            "token-classification" => {
                let (mut same, mut tokens) = (0, 0);
                for (one, other) in pairs() {
                    let [one, other]: [BTreeSet<_>; 2] = [tags(read(one)?), tags(read(other)?)];
                    let places: BTreeSet<usize> = one.union(&other).map(|(index, _)| *index).collect();
                    tokens += places.len();
                    same += one.intersection(&other).count();
                }
                Ok(Self::Tags { same: share(same, tokens), tokens })
            }
            _ => Err(format!("answers of {task} are not compared here")),
        }
    }
}

fn read<'a, T: Deserialize<'a>>(answer: &'a RawValue) -> Result<T, String> {
    serde_json::from_str(answer.get()).map_err(|error| format!("an answer is not as expected: {error}"))
}

/// 1 where there is nothing to differ in.
fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}

/// That of the angle between two vectors; none where one has no length.
pub(crate) fn cosine<T: Copy + Into<f64>>(one: &[T], other: &[T]) -> Option<f64> {
    let dot = |a: &[T], b: &[T]| a.iter().zip(b).map(|(a, b)| (*a).into() * (*b).into()).sum::<f64>();
    let lengths = (dot(one, one) * dot(other, other)).sqrt();
    (lengths > 0.0).then(|| dot(one, other) / lengths)
}

fn scores(labels: Labels) -> BTreeMap<String, f64> {
    match labels {
        Labels::Scored(scored) => scored.into_iter().map(|Scored { label, score }| (label, score)).collect(),
        Labels::Asked { labels, scores } => labels.into_iter().zip(scores).collect(),
    }
}

fn highest(scores: &BTreeMap<String, f64>) -> Option<&str> {
    scores.iter().max_by(|one, other| one.1.total_cmp(other.1)).map(|(label, _)| label.as_str())
}

fn tags(tagged: Vec<Tagged>) -> BTreeSet<(usize, String)> {
    tagged.into_iter().map(|Tagged { entity, index }| (index, entity)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(task: &str, first: &[&str], second: &[&str]) -> Result<Agreement, String> {
        let raw = |answers: &[&str]| {
            answers.iter().map(|answer| RawValue::from_string((*answer).to_owned()).expect("JSON")).collect::<Vec<_>>()
        };
        Agreement::of(task, &raw(first), &raw(second))
    }

    #[test]
    fn embeddings_agree_by_their_angle() {
        let first = [r#"{"embedding": [1, 0]}"#, r#"{"embedding": [3, 4]}"#];
        let second = [r#"{"embedding": [2, 0]}"#, r#"{"embedding": [4, 3]}"#];
        let Ok(Agreement::Embeddings { mean_cosine, worst_cosine }) = of("feature-extraction", &first, &second) else {
            panic!("embeddings are compared")
        };
        assert!((worst_cosine - 0.96).abs() < 1e-12 && (mean_cosine - 0.98).abs() < 1e-12);
    }

    #[test]
    fn labels_agree_by_the_highest_and_the_farthest() {
        let first = [r#"[{"label": "a", "score": 0.75}, {"label": "b", "score": 0.25}]"#; 2];
        let second = [
            r#"[{"label": "a", "score": 0.625}, {"label": "b", "score": 0.375}]"#,
            r#"[{"label": "b", "score": 0.75}, {"label": "a", "score": 0.25}]"#,
        ];
        let expected = Agreement::Labels { same: 0.5, largest_difference: 0.5 };
        assert_eq!(of("text-classification", &first, &second), Ok(expected));
        let zero_shot = of(
            "zero-shot-classification",
            &[r#"{"labels": ["a", "b"], "scores": [0.75, 0.25]}"#],
            &[r#"{"labels": ["b", "a"], "scores": [0.75, 0.25]}"#],
        );
        assert_eq!(zero_shot, Ok(Agreement::Labels { same: 0.0, largest_difference: 0.5 }));
    }

    #[test]
    fn tags_agree_token_by_token() {
        let first = [r#"[{"entity": "PER", "index": 1}, {"entity": "LOC", "index": 3}]"#, "[]"];
        let second =
            [r#"[{"entity": "PER", "index": 1}, {"entity": "PER", "index": 3}, {"entity": "LOC", "index": 4}]"#, "[]"];
        assert_eq!(of("token-classification", &first, &second), Ok(Agreement::Tags { same: 1.0 / 3.0, tokens: 3 }));
        assert_eq!(of("token-classification", &["[]"], &["[]"]), Ok(Agreement::Tags { same: 1.0, tokens: 0 }));
    }

    #[test]
    fn what_is_not_comparable_is_refused() {
        assert!(of("tabular-classification", &["1"], &["1"]).expect_err("unknown").contains("not compared"));
        assert!(of("feature-extraction", &["[]"], &["[]"]).expect_err("no embedding").contains("not as expected"));
    }
}
