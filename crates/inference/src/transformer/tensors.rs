//! The tensors of a transformer by their names in the file, packed as kernels read them.

use kernels::{Cpu, LayerNorm, PackedMatrix, Precision, Rows};

use crate::{LoadError, map::Weights};

/// Where tensors come from, and what they are packed for.
#[derive(Clone, Copy)]
pub(crate) struct Tensors<'a> {
    pub(crate) weights: &'a Weights,
    /// What names begin with: `bert.`, say, when the file holds more than the encoder.
    pub(crate) prefix: &'static str,
    pub(crate) cpu: Cpu,
    pub(crate) precision: Precision,
    /// Added to the variance in layer norms.
    pub(crate) epsilon: f32,
}

/// The parameters of a layer norm.
pub(crate) struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f32,
}

impl Norm {
    pub(crate) fn parameters(&self) -> LayerNorm<'_> {
        LayerNorm { weight: &self.weight, bias: &self.bias, epsilon: self.epsilon }
    }
}

impl Tensors<'_> {
    /// The numbers of a tensor, row by row.
    pub(crate) fn numbers(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        self.weights.numbers(&format!("{}{name}", self.prefix), shape)
    }

    /// Dense parts of the same inputs, side by side in one matrix: `outputs` of each.
    pub(crate) fn dense(&self, names: &[String], outputs: usize, inputs: usize) -> Result<PackedMatrix, LoadError> {
        let (mut weights, mut bias) = (self.weights.desk(), Vec::new());
        self.read_side_by_side(names, outputs, inputs, &mut weights, &mut bias)?;
        Ok(self.packed(&weights, &bias))
    }

    /// The weights of the same, a row for each output, and the bias.
    pub(crate) fn side_by_side(
        &self,
        names: &[String],
        outputs: usize,
        inputs: usize,
    ) -> Result<(Vec<f32>, Vec<f32>), LoadError> {
        let (mut weights, mut bias) = (Vec::new(), Vec::new());
        self.read_side_by_side(names, outputs, inputs, &mut weights, &mut bias)?;
        Ok((weights, bias))
    }

    fn read_side_by_side(
        &self,
        names: &[String],
        outputs: usize,
        inputs: usize,
        weights: &mut Vec<f32>,
        bias: &mut Vec<f32>,
    ) -> Result<(), LoadError> {
        for name in names {
            let name = format!("{}{name}", self.prefix);
            self.weights.read(&format!("{name}.weight"), &[outputs, inputs], weights)?;
            self.weights.read(&format!("{name}.bias"), &[outputs], bias)?;
        }
        Ok(())
    }

    /// A matrix of a row of weights for each number of the bias.
    pub(crate) fn packed(&self, weights: &[f32], bias: &[f32]) -> PackedMatrix {
        let (arena, inputs) = (self.weights.arena(), weights.len() / bias.len());
        let rows = Rows::new(weights, bias.len(), inputs, inputs);
        PackedMatrix::new_in(Some(arena), self.cpu, self.precision, rows, Some(bias))
    }

    /// A layer norm, whose tensors files converted from the first BERT call gamma and beta.
    pub(crate) fn norm(&self, name: &str, size: usize) -> Result<Norm, LoadError> {
        let old = self.weights.shape(&format!("{}{name}.gamma", self.prefix)).is_some();
        let (weight, bias) = if old { ("gamma", "beta") } else { ("weight", "bias") };
        let part = |part: &str| self.numbers(&format!("{name}.{part}"), &[size]);
        Ok(Norm { weight: part(weight)?, bias: part(bias)?, epsilon: self.epsilon })
    }
}
