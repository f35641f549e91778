//! Small feed-forward classifiers: pictures of a few grey cells, or rows of named columns, to one of a few labels.
//!
//! Weights: `input.offset` and `input.scale` (one number per input: `(x - offset) * scale`), then `layers.0.weight`
//! (outputs × inputs) and `layers.0.bias`, `layers.1.weight` … with ReLU between layers and softmax at the end. It computes in
//! registers: columns may differ by powers of ten, so that numbers in two halves of 16 bits are too coarse before the softmax.

use std::collections::BTreeMap;

use kernels::{Activation, Cpu, Epilogue, PackedMatrix, Precision, Scratch, softmax};
use prediction::{Failure, FailureCode};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::{
    Abandon, LoadError, Machine,
    architecture::Architecture,
    contract::{answer, check_numbers},
    map::Weights,
    picture::{self, Picture},
    transformer::{Tensors, view, view_mut},
    turn::Turn,
};

/// `[mlp]` in a manifest.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// How an input becomes numbers.
    input: Input,
    /// What the outputs stand for, in order.
    labels: Labels,
}

/// How an input becomes numbers.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Input {
    /// A picture of grey cells.
    Picture(Picture),
    /// An object with these columns, each a number.
    Columns(Vec<String>),
}

/// What the outputs stand for: the numbers from 0, or names.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Labels {
    Numbers(Vec<usize>),
    Names(Vec<String>),
}

/// A loaded network.
pub(crate) struct Mlp {
    settings: Settings,
    cpu: Cpu,
    offset: Vec<f32>,
    scale: Vec<f32>,
    /// At least one.
    layers: Vec<PackedMatrix>,
}

#[derive(Serialize)]
struct Output<'a> {
    label: Label<'a>,
    probabilities: Probabilities<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Label<'a> {
    Number(usize),
    Name(&'a str),
}

/// A list for numbered labels, an object in the labels' order for named ones.
struct Probabilities<'a> {
    labels: &'a Labels,
    values: &'a [f32],
}

impl Serialize for Probabilities<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.labels {
            Labels::Numbers(_) => serializer.collect_seq(self.values),
            Labels::Names(names) => serializer.collect_map(names.iter().zip(self.values)),
        }
    }
}

impl Settings {
    /// What is wrong with them, if anything.
    fn check(&self) -> Result<(), String> {
        let distinct = |names: &[String]| {
            let mut names = names.to_vec();
            names.sort();
            names.windows(2).all(|pair| pair[0] != pair[1])
        };
        match &self.input {
            Input::Picture(picture) => picture.check()?,
            Input::Columns(columns) if columns.is_empty() || !distinct(columns) => {
                return Err("columns are missing or named twice".into());
            }
            Input::Columns(_) => {}
        }
        match &self.labels {
            Labels::Numbers(numbers) if !numbers.iter().copied().eq(0..numbers.len()) => {
                Err("numbered labels are 0, 1, 2 and so on".into())
            }
            Labels::Names(names) if !distinct(names) => Err("a label is named twice".into()),
            _ if self.labels.len() < 2 => Err("fewer than two labels".into()),
            _ => Ok(()),
        }
    }

    fn inputs(&self) -> usize {
        match &self.input {
            Input::Picture(picture) => picture.cells(),
            Input::Columns(columns) => columns.len(),
        }
    }
}

impl Labels {
    fn len(&self) -> usize {
        match self {
            Self::Numbers(numbers) => numbers.len(),
            Self::Names(names) => names.len(),
        }
    }

    fn label(&self, index: usize) -> Label<'_> {
        match self {
            Self::Numbers(_) => Label::Number(index),
            Self::Names(names) => Label::Name(&names[index]),
        }
    }
}

impl Mlp {
    /// Reads the network that the settings describe.
    ///
    /// # Errors
    /// When the settings make no sense, and when a tensor is missing, superfluous or of another shape than they need.
    pub(crate) fn load(settings: Settings, weights: &Weights, machine: Machine) -> Result<Self, LoadError> {
        settings.check().map_err(|reason| LoadError::new(weights.path(), format!("[mlp]: {reason}")))?;
        let inputs = settings.inputs();
        let cpu = machine.cpu.in_registers();
        let tensors = Tensors { weights, prefix: "", cpu, precision: Precision::F32, epsilon: 0.0 };
        let offset = tensors.numbers("input.offset", &[inputs])?;
        let scale = tensors.numbers("input.scale", &[inputs])?;
        let depth = (0..).take_while(|index| weights.shape(&format!("layers.{index}.weight")).is_some()).count();
        let mut layers = Vec::new();
        let mut width = inputs;
        for index in 0..depth {
            let name = format!("layers.{index}.weight");
            let outputs = match weights.shape(&name) {
                _ if index + 1 == depth => settings.labels.len(),
                Some(&[outputs, _]) => outputs,
                _ => return Err(LoadError::new(weights.path(), format!("tensor {name:?} is not a matrix"))),
            };
            layers.push(tensors.dense(&[format!("layers.{index}")], outputs, width)?);
            width = outputs;
        }
        if layers.is_empty() {
            return Err(LoadError::new(weights.path(), "tensor \"layers.0.weight\" is missing"));
        }
        if weights.len() != 2 + 2 * depth {
            return Err(LoadError::new(weights.path(), "has tensors that the network does not use"));
        }
        Ok(Self { settings, cpu, offset, scale, layers })
    }

    /// A row of probabilities for each row of inputs, one after the other.
    fn forward(&self, mut values: Vec<f32>, count: usize) -> Vec<f32> {
        let mut width = self.offset.len();
        for row in values.chunks_exact_mut(width) {
            for ((value, offset), scale) in row.iter_mut().zip(&self.offset).zip(&self.scale) {
                *value = (*value - offset) * scale;
            }
        }
        let (mut scratch, last) = (Scratch::default(), self.layers.len() - 1);
        for (index, layer) in self.layers.iter().enumerate() {
            let (outputs, mut to) = (layer.outputs(), Vec::new());
            let activation = if index == last { Activation::None } else { Activation::Relu };
            let (x, y) = (view(&values, count, width), view_mut(&mut to, count, outputs));
            layer.multiply(x, 0..outputs, Epilogue { activation, residual: None }, y, &mut scratch);
            (values, width) = (to, outputs);
        }
        softmax(self.cpu, view_mut(&mut values, count, width));
        values
    }
}

impl Architecture for Mlp {
    type Item = Vec<f32>;

    fn prepare(&self, input: &RawValue) -> Result<Vec<f32>, Failure> {
        match &self.settings.input {
            Input::Picture(picture) => picture::read(picture, input),
            Input::Columns(columns) => read_columns(columns, input),
        }
    }

    fn cost(&self, _: &Vec<f32>) -> usize {
        1
    }

    fn run(
        &self,
        batch: &[(Vec<f32>, Abandon)],
        _: &mut Turn<'_>,
    ) -> Result<Vec<Result<Box<RawValue>, Failure>>, Failure> {
        let rows = batch.iter().flat_map(|(row, _)| row.iter().copied()).collect();
        let labels = &self.settings.labels;
        let answers = self.forward(rows, batch.len());
        let answers = answers.chunks_exact(labels.len()).map(|values| {
            check_numbers(values)?;
            let best = values.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(index, _)| index);
            answer(&Output { label: labels.label(best), probabilities: Probabilities { labels, values } })
        });
        Ok(answers.collect())
    }
}

/// The columns' values, in the columns' order.
fn read_columns(columns: &[String], input: &RawValue) -> Result<Vec<f32>, Failure> {
    let invalid = |reason: String| Failure::new(FailureCode::InvalidInput, reason);
    let mut row: BTreeMap<String, f32> =
        serde_json::from_str(input.get()).map_err(|error| invalid(error.to_string()))?;
    let values = columns.iter().map(|column| {
        let value = row.remove(column).ok_or_else(|| invalid(format!("{column} is missing")))?;
        if value.is_finite() { Ok(value) } else { Err(invalid(format!("{column} is too large"))) }
    });
    let values = values.collect::<Result<_, _>>()?;
    match row.into_keys().next() {
        Some(unknown) => Err(invalid(format!("{unknown:?} is not a column"))),
        None => Ok(values),
    }
}
