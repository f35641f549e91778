//! The tensors of a transformer by their names in the file, packed as kernels read them.

use std::mem;

use kernels::{Cpu, LayerNorm, PackedMatrix, Precision, Rows};

use crate::{
    LoadError,
    kept::key,
    map::{Numbers, Weights},
};

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

    /// Where they are in the file.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Numbers, LoadError> {
        self.weights.tensor(&format!("{}{name}", self.prefix), shape)
    }

    /// Dense parts of the same inputs, side by side in one matrix: `outputs` of each.
    pub(crate) fn dense(&self, names: &[String], outputs: usize, inputs: usize) -> Result<PackedMatrix, LoadError> {
        let tensors = self.weights_and_biases(names, outputs, inputs)?;
        let mut bias = vec![0.0; count(&tensors, |(_, bias)| bias)];
        read_in_turn(tensors.iter().map(|(_, bias)| bias), &mut bias)?;
        self.matrix(&names.join("+"), inputs, &bias, || {
            self.weights.at_desk(count(&tensors, |(weights, _)| weights), |weights| {
                read_in_turn(tensors.iter().map(|(weights, _)| weights), weights)?;
                Ok(self.packed(weights, &bias))
            })
        })
    }

    /// The matrix of this name, of as many outputs as the bias: what an earlier start kept of it, or else what `pack` makes.
    pub(crate) fn matrix(
        &self,
        name: &str,
        inputs: usize,
        bias: &[f32],
        pack: impl FnOnce() -> Result<PackedMatrix, LoadError>,
    ) -> Result<PackedMatrix, LoadError> {
        let key = key(&format!("{}{name}", self.prefix), (bias.len(), inputs), self.cpu, self.precision);
        let kept = self.weights.kept().and_then(|kept| kept.matrix(&key, self.cpu, self.precision, inputs, bias));
        if let Some(matrix) = kept {
            return Ok(matrix);
        }
        let matrix = pack()?;
        self.weights.place(key, &matrix);
        Ok(matrix)
    }

    /// The weights of the same, a row for each output, and the bias.
    pub(crate) fn side_by_side(
        &self,
        names: &[String],
        outputs: usize,
        inputs: usize,
    ) -> Result<(Vec<f32>, Vec<f32>), LoadError> {
        let tensors = self.weights_and_biases(names, outputs, inputs)?;
        let mut weights = vec![0.0; count(&tensors, |(weights, _)| weights)];
        let mut bias = vec![0.0; count(&tensors, |(_, bias)| bias)];
        read_in_turn(tensors.iter().map(|(weights, _)| weights), &mut weights)?;
        read_in_turn(tensors.iter().map(|(_, bias)| bias), &mut bias)?;
        Ok((weights, bias))
    }

    /// Those of each; the file has as many numbers as they are asked to have.
    fn weights_and_biases(
        &self,
        names: &[String],
        outputs: usize,
        inputs: usize,
    ) -> Result<Vec<(Numbers, Numbers)>, LoadError> {
        let of_name = |name: &String| {
            let weights = self.tensor(&format!("{name}.weight"), &[outputs, inputs])?;
            Ok((weights, self.tensor(&format!("{name}.bias"), &[outputs])?))
        };
        names.iter().map(of_name).collect()
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

/// How many numbers a part of them all has.
fn count(tensors: &[(Numbers, Numbers)], part: impl Fn(&(Numbers, Numbers)) -> &Numbers) -> usize {
    tensors.iter().map(|tensors| part(tensors).count()).sum()
}

/// Reads tensors, one behind the other.
fn read_in_turn<'a>(tensors: impl Iterator<Item = &'a Numbers>, mut to: &mut [f32]) -> Result<(), LoadError> {
    for tensor in tensors {
        let (first, rest) = mem::take(&mut to).split_at_mut(tensor.count());
        tensor.read(0, first)?;
        to = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use safetensors::{Dtype, tensor::TensorView};

    use super::*;

    #[test]
    fn what_a_configuration_asks_for_takes_no_memory_before_the_file_has_it() {
        let (dir, bytes) = (tempfile::tempdir().expect("a directory"), [0; 24]);
        let file = dir.path().join("model.safetensors");
        let view = |shape: &[usize]| {
            let count: usize = shape.iter().product();
            TensorView::new(Dtype::F32, shape.to_vec(), &bytes[..4 * count]).expect("a tensor")
        };
        let tensors = HashMap::from([("one.weight", view(&[2, 3])), ("one.bias", view(&[2]))]);
        safetensors::serialize_to_file(tensors, None, &file).expect("writes");
        let weights = Weights::open(&file).expect("sound");
        let precision = Precision::F32;
        let tensors = Tensors { weights: &weights, prefix: "", cpu: Cpu::best(), precision, epsilon: 0.0 };
        let names = ["one".to_owned(), "one".to_owned()];
        let (weights, bias) = tensors.side_by_side(&names, 2, 3).expect("is there");
        assert_eq!((weights.len(), bias.len(), tensors.dense(&names, 2, 3).is_ok()), (12, 4, true));
        for (outputs, inputs) in [(usize::MAX, usize::MAX), (1 << 40, 3), (2, 1 << 40), (0, 3)] {
            for fault in
                [tensors.side_by_side(&names, outputs, inputs).err(), tensors.dense(&names, outputs, inputs).err()]
            {
                assert!(fault.expect("there is none").reason.contains("the architecture needs"));
            }
        }
    }
}
