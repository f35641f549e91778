//! What the outputs of a classifier stand for, and what becomes of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The fields of `config.json` about labels and their scores.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Labelling {
    id2label: Option<BTreeMap<String, String>>,
    num_labels: Option<usize>,
    problem_type: Option<Problem>,
    /// By sentence-transformers for its rerankers, in version 4 and before; later versions have a file of their own for it.
    sentence_transformers: Option<SentenceTransformers>,
    sbert_ce_default_activation_function: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct SentenceTransformers {
    activation_fn: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Problem {
    Regression,
    SingleLabelClassification,
    MultiLabelClassification,
}

/// What makes scores of a classifier's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Function {
    /// They add up to 1.
    Softmax,
    /// Each is between 0 and 1.
    Sigmoid,
    /// They are the outputs.
    None,
}

/// What transformers supposes where nothing is said.
const DEFAULT_LABELS: usize = 2;

impl Labelling {
    /// The label of each output; `LABEL_0` and so on where they have no names.
    ///
    /// # Errors
    /// When ids are not 0, 1, 2 and so on, or are not as many as there are said to be.
    pub(crate) fn labels(&self) -> Result<Vec<String>, String> {
        let Some(id2label) = &self.id2label else {
            let count = self.num_labels.unwrap_or(DEFAULT_LABELS);
            return if count == 0 { Err("num_labels is 0".into()) } else { Ok((0..count).map(unnamed).collect()) };
        };
        let label = |id: usize| id2label.get(&id.to_string()).cloned();
        let labels: Option<Vec<_>> = (0..id2label.len()).map(label).collect();
        let labels =
            labels.filter(|labels| !labels.is_empty()).ok_or("the ids of id2label are not 0, 1, 2 and so on")?;
        match self.num_labels {
            Some(count) if count != labels.len() => {
                Err(format!("num_labels is {count}, but id2label has {}", labels.len()))
            }
            _ => Ok(labels),
        }
    }

    /// What transformers' pipelines do with so many outputs; for rerankers, which have one, what sentence-transformers was
    /// told to, `beside` this file or in it.
    ///
    /// # Errors
    /// Names a function that is not supported.
    pub(crate) fn function(&self, labels: usize, beside: Option<&str>) -> Result<Function, String> {
        let here = self.sentence_transformers.as_ref().and_then(|settings| settings.activation_fn.as_deref());
        let stated = beside.or(here).or(self.sbert_ce_default_activation_function.as_deref()).filter(|_| labels == 1);
        match (stated, self.problem_type) {
            // Paths of Python classes.
            (Some(stated), _) => match stated.rsplit('.').next() {
                Some("Identity") => Ok(Function::None),
                Some("Sigmoid") => Ok(Function::Sigmoid),
                _ => Err(format!("activation function {stated:?} is not supported; Identity and Sigmoid are")),
            },
            (None, Some(Problem::Regression)) => Ok(Function::None),
            (None, Some(Problem::MultiLabelClassification)) => Ok(Function::Sigmoid),
            (None, _) if labels == 1 => Ok(Function::Sigmoid),
            (None, _) => Ok(Function::Softmax),
        }
    }
}

fn unnamed(id: usize) -> String {
    format!("LABEL_{id}")
}

impl Function {
    /// Scores of outputs.
    pub(crate) fn of(self, outputs: &[f32]) -> Vec<f32> {
        match self {
            Self::Softmax => softmax(outputs),
            Self::Sigmoid => outputs.iter().map(|number| (1.0 / (1.0 + (-f64::from(*number)).exp())) as f32).collect(),
            Self::None => outputs.to_vec(),
        }
    }

    /// What a score is, for people.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Softmax => "they add up to 1",
            Self::Sigmoid => "each is between 0 and 1",
            Self::None => "any number",
        }
    }
}

/// A label with its score.
#[derive(Serialize)]
pub(crate) struct Scored<'a> {
    label: &'a str,
    score: f32,
}

/// The labels with the highest scores, at most so many, the highest first.
pub(crate) fn best<'a>(labels: &'a [String], scores: &[f32], most: usize) -> Vec<Scored<'a>> {
    let mut scored: Vec<_> = labels.iter().zip(scores).map(|(label, score)| Scored { label, score: *score }).collect();
    scored.sort_by(|one, other| other.score.total_cmp(&one.score));
    scored.truncate(most);
    scored
}

/// The schema of such a list. `score` says what a score is.
pub(crate) fn schema(labels: &[String], score: &str) -> Value {
    json!({
        "type": "array",
        "items": {
            "type": "object",
            "properties": {"label": {"enum": labels}, "score": {"type": "number", "description": score}},
            "required": ["label", "score"],
            "additionalProperties": false,
        },
        "minItems": 1,
        "maxItems": labels.len(),
        "description": "Labels, the highest score first.",
    })
}

/// e to the power of each, divided by their sum.
pub(crate) fn softmax(outputs: &[f32]) -> Vec<f32> {
    let largest = outputs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<_> = outputs.iter().map(|number| f64::from(number - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| (power / sum) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labelling(config: Value) -> Labelling {
        serde_json::from_value(config).expect("a configuration")
    }

    #[test]
    fn labels_are_in_the_order_of_their_ids() {
        let names: serde_json::Map<_, _> = (0..12).map(|id| (id.to_string(), json!(format!("{id}!")))).collect();
        let labels = labelling(json!({"id2label": names})).labels().expect("labels");
        assert_eq!((labels.len(), labels[2].as_str(), labels[10].as_str()), (12, "2!", "10!"));
        assert_eq!(labelling(json!({})).labels().expect("labels"), ["LABEL_0", "LABEL_1"]);
        assert_eq!(labelling(json!({"num_labels": 1})).labels().expect("labels"), ["LABEL_0"]);
        for (config, part) in [
            (json!({"id2label": {"1": "a", "2": "b"}}), "not 0, 1, 2"),
            (json!({"id2label": {}}), "not 0, 1, 2"),
            (json!({"id2label": {"0": "a"}, "num_labels": 2}), "num_labels is 2"),
            (json!({"num_labels": 0}), "num_labels is 0"),
        ] {
            let error = labelling(config).labels().expect_err("no labels");
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn functions_are_those_of_pipelines_and_rerankers() {
        let function = |labels: usize, config: Value| labelling(config).function(labels, None);
        assert_eq!(function(3, json!({})), Ok(Function::Softmax));
        assert_eq!(function(1, json!({"problem_type": "single_label_classification"})), Ok(Function::Sigmoid));
        assert_eq!(function(3, json!({"problem_type": "multi_label_classification"})), Ok(Function::Sigmoid));
        assert_eq!(function(1, json!({"problem_type": "regression"})), Ok(Function::None));
        let new = json!({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}});
        assert_eq!((function(1, new.clone()), function(3, new)), (Ok(Function::None), Ok(Function::Softmax)));
        let old = json!({"sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"});
        assert_eq!(function(1, old.clone()), Ok(Function::Sigmoid));
        let beside = labelling(old).function(1, Some("torch.nn.modules.linear.Identity"));
        assert_eq!(beside, Ok(Function::None));
        let other = json!({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh"}});
        assert!(function(1, other).expect_err("is not known").contains("Tanh"));
    }

    #[test]
    fn scores_of_large_outputs_are_numbers() {
        assert_eq!(Function::Softmax.of(&[1e30, 0.0]), [1.0, 0.0]);
        assert_eq!(Function::Sigmoid.of(&[1e30, -1e30, 0.0]), [1.0, 0.0, 0.5]);
        assert_eq!(Function::None.of(&[7.0]), [7.0]);
    }
}
