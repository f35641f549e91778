//! Weights on their way from a file to a device.

use candle_core::{DType, Device, Error, Result, Shape, Tensor};
use candle_nn::Linear;

use super::layer::Norm;
use crate::{LoadError, device::Fault, transformer::Tensors};

/// Where tensors come from, and where they are put.
pub(super) struct Upload<'a> {
    pub(super) tensors: Tensors<'a>,
    pub(super) device: &'a Device,
    /// How numbers are kept there.
    pub(super) dtype: DType,
}

impl Upload<'_> {
    /// Numbers, row by row, in a tensor of this shape.
    ///
    /// # Errors
    /// When the device has no room for it.
    pub(super) fn put(&self, numbers: Vec<f32>, shape: impl Into<Shape>) -> std::result::Result<Tensor, LoadError> {
        let put = || -> Result<Tensor> { Tensor::from_vec(numbers, shape, self.device)?.to_dtype(self.dtype) };
        put().map_err(|error| self.refused(error))
    }

    fn refused(&self, error: Error) -> LoadError {
        let fault = Fault::from(error);
        LoadError::new(self.tensors.weights.path(), format!("the device does not take its weights: {fault}"))
    }

    /// Numbers of rows or columns.
    ///
    /// # Errors
    /// When the device has no room for them.
    pub(super) fn indices(&self, numbers: &[usize]) -> std::result::Result<Tensor, LoadError> {
        let numbers: Vec<u32> = numbers.iter().map(|number| *number as u32).collect();
        Tensor::new(numbers, self.device).map_err(|error| self.refused(error))
    }

    /// Dense parts of the same inputs, side by side in one matrix: `outputs` of each.
    pub(super) fn dense(
        &self,
        names: &[String],
        outputs: usize,
        inputs: usize,
    ) -> std::result::Result<Linear, LoadError> {
        let (weights, bias) = self.tensors.side_by_side(names, outputs, inputs)?;
        let outputs = bias.len();
        Ok(Linear::new(self.put(weights, (outputs, inputs))?, Some(self.put(bias, outputs)?)))
    }

    /// A layer norm over so many columns.
    pub(super) fn norm(&self, name: &str, size: usize) -> std::result::Result<Norm, LoadError> {
        self.put_norm(&self.tensors.norm(name, size)?)
    }

    /// A layer norm that was read.
    pub(super) fn put_norm(&self, norm: &crate::transformer::Norm) -> std::result::Result<Norm, LoadError> {
        let norm = norm.parameters();
        Ok(Norm {
            weight: self.put(norm.weight.to_vec(), norm.weight.len())?,
            bias: self.put(norm.bias.to_vec(), norm.bias.len())?,
            epsilon: norm.epsilon,
        })
    }
}
