//! Which heads and which layers of an encoder matter least to what it makes of some texts. No labels are asked for and nothing is
//! differentiated: the original's own numbers are what counts.

use std::path::Path;

use kernels::{Precision, Rows};
use serde_json::{Value, value::to_raw_value};

use super::{
    Classifier, Embedder, Encoder, Tagger, Task, TextModel, TextTask, ZeroShot, anatomy::Anatomy, encoder::Text,
    runner::Runner, tokenize::Tokens,
};
use crate::{LoadError, Machine, compare::cosine, map::Weights};

/// No further texts are looked at when those before have so many tokens: removing six of twelve layers runs all of them 57 times.
const MOST_TOKENS: usize = 4096;

/// A loaded encoder, and the texts that it is judged by.
pub(crate) struct Study {
    encoder: Encoder,
    task: Task,
    texts: Vec<Tokens>,
}

impl Study {
    /// Loads the model of a directory and reads the texts of these inputs, of which there is at least one.
    ///
    /// # Errors
    /// When the model does not load, does another task, or cannot read an input.
    pub(crate) fn open(
        dir: &Path,
        task: &str,
        weights: &Weights,
        inputs: &[Value],
        machine: Machine,
    ) -> Result<Self, LoadError> {
        let task =
            Task::named(task).ok_or_else(|| LoadError::new(dir, format!("does {task}, which is not of texts")))?;
        let mut study = match task {
            Task::FeatureExtraction => Self::of::<Embedder>(dir, task, weights, inputs, machine),
            Task::TextClassification => Self::of::<Classifier>(dir, task, weights, inputs, machine),
            Task::TokenClassification => Self::of::<Tagger>(dir, task, weights, inputs, machine),
            Task::ZeroShotClassification => Self::of::<ZeroShot>(dir, task, weights, inputs, machine),
        }?;
        let mut before = 0;
        study.texts.retain(|text| {
            let is_read = before < MOST_TOKENS;
            before += text.ids.len();
            is_read
        });
        Ok(study)
    }

    fn of<T: TextTask>(
        dir: &Path,
        task: Task,
        weights: &Weights,
        inputs: &[Value],
        machine: Machine,
    ) -> Result<Self, LoadError> {
        let model = TextModel::<T>::load(dir, task, weights, machine, Precision::F32)?;
        let mut texts = Vec::new();
        for (place, input) in inputs.iter().enumerate() {
            let wrong = |reason: String| LoadError::new(dir, format!("fails on input {}: {reason}", place + 1));
            let input = to_raw_value(input).map_err(|error| wrong(error.to_string()))?;
            let (read, _) = model.task.read(&model.tokenizer, &input).map_err(|failure| wrong(failure.to_string()))?;
            texts.extend(read);
        }
        match model.runner {
            Runner::Kernels(encoder, _) => Ok(Self { encoder: *encoder, task, texts }),
            Runner::Device(..) => Err(LoadError::new(dir, "its heads and layers are judged on the processor")),
        }
    }

    /// What each head of each layer adds to hidden states: the root mean square, over all tokens, of the length of the head's part of
    /// attention's output, ‖W · c‖, where c is what it gathered for the token and W its columns of the output's matrix. This is how
    /// Kobayashi et al., "Attention is Not Only a Weight" (2020, arXiv 2004.10102), measure a head; Michel et al., "Are Sixteen
    /// Heads Really Better than One?" (2019, arXiv 1905.10650), take the gradient of a loss instead, for which labels are needed.
    ///
    /// # Errors
    /// When the tensors cannot be read.
    pub(crate) fn head_norms(&self, anatomy: &Anatomy, weights: &Weights) -> Result<Vec<Vec<f64>>, LoadError> {
        let width = anatomy.head_width;
        let products = (0..anatomy.heads.len()).map(|layer| {
            let columns = anatomy.heads[layer].len() * width;
            let name = anatomy.name(layer, &format!("{}.weight", anatomy.names.attended));
            let rows = weights.shape(&name).and_then(|shape| shape.first()).copied().unwrap_or_default();
            let matrix = weights.numbers(&name, &[rows, columns])?;
            Ok((0..columns).step_by(width).map(|first| products_of_columns(&matrix, columns, first, width)).collect())
        });
        let products: Vec<Vec<Vec<f64>>> = products.collect::<Result<_, LoadError>>()?;
        let mut sums: Vec<Vec<f64>> = products.iter().map(|heads| vec![0.0; heads.len()]).collect();
        let texts: Vec<_> = self.texts.iter().map(Text::from).collect();
        self.encoder.observe(&texts, |layer, context| {
            for (head, sum) in sums[layer].iter_mut().enumerate() {
                let gathered = context.columns_in(head * width..(head + 1) * width);
                *sum += sum_of_squares(gathered, &products[layer][head]);
            }
        });
        let tokens: usize = texts.iter().map(|text| text.ids.len()).sum();
        for sum in sums.iter_mut().flatten() {
            *sum = (*sum / tokens.max(1) as f64).sqrt();
        }
        Ok(sums)
    }

    /// So many layers, each the one whose removal, after those before it, leaves the model's numbers nearest to what they were with
    /// all layers; ascending. Nearest by the mean of 1 − cosine for embeddings, and of squared differences for a classifier's
    /// outputs. That is greedy layer pruning (Peer et al. 2021, arXiv 2105.14839), which asks a loss instead.
    ///
    /// # Panics
    /// When there are not so many.
    pub(crate) fn dispensable_layers(&mut self, count: usize) -> Vec<usize> {
        let original = self.outputs();
        let mut left: Vec<usize> = (0..self.encoder.layers_mut().len()).collect();
        let mut removed = Vec::new();
        for _ in 0..count {
            let mut losses = Vec::new();
            for place in 0..left.len() {
                let layer = self.encoder.layers_mut().remove(place);
                losses.push((place, self.distance(&original, &self.outputs())));
                self.encoder.layers_mut().insert(place, layer);
            }
            // Of equal ones the last, which is nearest to what is put out.
            let best = losses.into_iter().rev().min_by(|one, other| one.1.total_cmp(&other.1));
            let (place, _) = best.expect("there is a layer left");
            self.encoder.layers_mut().remove(place);
            removed.push(left.remove(place));
        }
        removed.sort_unstable();
        removed
    }

    fn outputs(&self) -> Vec<Vec<f32>> {
        let texts: Vec<_> = self.texts.iter().map(Text::from).collect();
        self.encoder.run(&texts, || false, |_, numbers| numbers).unwrap_or_default()
    }

    fn distance(&self, original: &[Vec<f32>], found: &[Vec<f32>]) -> f64 {
        let of = |(original, found): (&Vec<f32>, &Vec<f32>)| match self.task {
            Task::FeatureExtraction => 1.0 - cosine(original, found).unwrap_or(0.0),
            _ => {
                let differences = original.iter().zip(found).map(|(one, other)| f64::from(one - other).powi(2));
                differences.sum::<f64>() / original.len().max(1) as f64
            }
        };
        original.iter().zip(found).map(of).sum::<f64>() / original.len().max(1) as f64
    }
}

/// The products of all pairs of some columns of a matrix of so many columns: WᵀW, row by row.
fn products_of_columns(matrix: &[f32], columns: usize, first: usize, width: usize) -> Vec<f64> {
    let mut products = vec![0.0; width * width];
    for row in matrix.chunks_exact(columns) {
        let row = &row[first..first + width];
        for (products, one) in products.chunks_exact_mut(width).zip(row) {
            products.iter_mut().zip(row).for_each(|(product, other)| *product += f64::from(*one) * f64::from(*other));
        }
    }
    products
}

/// The sum of ‖W · c‖² = cᵀ(WᵀW)c over the rows c.
fn sum_of_squares(rows: Rows<'_>, products: &[f64]) -> f64 {
    let of = |row: &[f32]| {
        let weighed = products.chunks_exact(row.len()).map(|products| {
            products.iter().zip(row).map(|(product, number)| product * f64::from(*number)).sum::<f64>()
        });
        weighed.zip(row).map(|(weighed, number)| weighed * f64::from(*number)).sum::<f64>()
    };
    (0..rows.rows()).map(|row| of(rows.row(row))).sum()
}
