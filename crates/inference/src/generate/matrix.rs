//! Products with a matrix of a GGUF file: floats by our kernels, blocks of small numbers as they are by candle.
//!
//! Each row of a product is computed alike whatever rows are beside it, bit for bit. Candle has several ways to multiply blocks, which
//! round differently and which it chooses by the number of rows; it is given as many at a time as always take the same.

use std::sync::Arc;

use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor},
};
use kernels::{Activation, Cpu, PackedMatrix, Precision, Rows, RowsMut};

use crate::{LoadError, gguf::Gguf, transformer::Crew};

/// A matrix of one row for each output, and perhaps a bias.
pub(super) enum Matrix {
    Floats(PackedMatrix),
    Blocks { blocks: Arc<QTensor>, outputs: usize, inputs: usize, bias: Option<Vec<f32>> },
}

impl Matrix {
    /// Reads the tensor `<name>.weight`, and `<name>.bias` where there is to be one (`None`: where there is one).
    ///
    /// # Errors
    /// When a tensor is missing, of another shape or not finite.
    pub(super) fn read(
        gguf: &Gguf,
        cpu: Cpu,
        name: &str,
        (outputs, inputs): (usize, usize),
        has_bias: Option<bool>,
    ) -> Result<Self, LoadError> {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let has_bias = has_bias.unwrap_or_else(|| gguf.has_tensor(&bias));
        let bias = has_bias.then(|| gguf.numbers(&bias, &[outputs])).transpose()?;
        if !gguf.holds_floats(&weight)? {
            let blocks = Arc::new(gguf.blocks(&weight, &[outputs, inputs])?);
            return Ok(Self::Blocks { blocks, outputs, inputs, bias });
        }
        let numbers = gguf.numbers(&weight, &[outputs, inputs])?;
        Ok(Self::floats(cpu, &numbers, (outputs, inputs), bias.as_deref()))
    }

    /// The matrix of these numbers.
    pub(super) fn floats(cpu: Cpu, numbers: &[f32], (outputs, inputs): (usize, usize), bias: Option<&[f32]>) -> Self {
        Self::Floats(PackedMatrix::new(cpu, Precision::F32, Rows::new(numbers, outputs, inputs, inputs), bias))
    }

    pub(super) fn outputs(&self) -> usize {
        match self {
            Self::Floats(matrix) => matrix.outputs(),
            Self::Blocks { outputs, .. } => *outputs,
        }
    }

    pub(super) fn inputs(&self) -> usize {
        match self {
            Self::Floats(matrix) => matrix.inputs(),
            Self::Blocks { inputs, .. } => *inputs,
        }
    }

    /// `x · Wᵀ + bias`, row by row.
    ///
    /// # Errors
    /// When candle cannot.
    pub(super) fn multiply(&self, crew: &mut Crew<'_>, x: &[f32]) -> candle_core::Result<Vec<f32>> {
        let (outputs, inputs) = (self.outputs(), self.inputs());
        let rows = x.len() / inputs;
        let mut y = vec![0.0; rows * outputs];
        match self {
            Self::Floats(matrix) => {
                let (x, y) = (Rows::new(x, rows, inputs, inputs), RowsMut::new(&mut y, rows, outputs, outputs));
                crew.multiply(matrix, Activation::None, x, None, y);
            }
            Self::Blocks { blocks, bias, .. } => {
                let most = rows_at_a_time(blocks.dtype());
                for (x, y) in x.chunks(most * inputs).zip(y.chunks_mut(most * outputs)) {
                    multiply(blocks, inputs, x, y)?;
                }
                // Rounded to 8 bits, what is no number would have become one.
                for (x, y) in x.chunks_exact(inputs).zip(y.chunks_exact_mut(outputs)) {
                    if x.iter().any(|number| !number.is_finite()) {
                        y.fill(f32::NAN);
                    }
                }
                if let Some(bias) = bias {
                    for row in y.chunks_exact_mut(outputs) {
                        row.iter_mut().zip(bias).for_each(|(number, bias)| *number += bias);
                    }
                }
            }
        }
        Ok(y)
    }
}

/// The most rows that candle multiplies in one way, whatever their number.
fn rows_at_a_time(kind: GgmlDType) -> usize {
    match kind {
        // From 32 on it takes AMX, where there is that.
        GgmlDType::Q4K if cfg!(target_arch = "x86_64") => 31,
        _ if cfg!(target_arch = "x86_64") => 1 << 16,
        // Elsewhere one row alone is computed in another way than four are.
        _ => 1,
    }
}

fn multiply(blocks: &QTensor, inputs: usize, x: &[f32], y: &mut [f32]) -> candle_core::Result<()> {
    // One row of these alone would go another way than several.
    let is_doubled = x.len() == inputs && blocks.dtype() == GgmlDType::Q6K && cfg!(target_arch = "x86_64");
    let x = if is_doubled { [x, x].concat() } else { x.to_vec() };
    let rows = x.len() / inputs;
    let product = Tensor::from_vec(x, (rows, inputs), &Device::Cpu)?.apply_op1_no_bwd(blocks)?;
    let product = product.flatten_all()?.to_vec1::<f32>()?;
    y.copy_from_slice(&product[..y.len()]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use kernels::Scratch;

    use super::*;
    use crate::transformer::Threads;

    #[test]
    fn products_with_blocks_are_those_with_their_numbers_but_for_rounding_to_8_bits() {
        for outputs in [7, 48] {
            are_those_of_numbers(outputs, 512, 40);
        }
    }

    fn are_those_of_numbers(outputs: usize, inputs: usize, rows: usize) {
        let number = |index: usize| ((index * 7919 + 13) % 1009) as f32 / 504.5 - 1.0;
        let numbers: Vec<f32> = (0..outputs * inputs).map(number).collect();
        let x: Vec<f32> = (0..rows * inputs).map(|index| number(index * 31 + 5)).collect();
        let bias: Vec<f32> = (0..outputs).map(number).collect();
        let tensor = Tensor::from_vec(numbers, (outputs, inputs), &Device::Cpu).expect("a tensor");
        let threads = Threads::new(1).expect("a thread");
        let scratch = &mut [Scratch::default()];
        let mut crew = Crew {
            cpu: Cpu::best(),
            precision: Precision::F32,
            threads: Some(&threads),
            scratch,
            keeps_context: false,
        };
        use GgmlDType::{Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
        for kind in [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K] {
            let quantized = QTensor::quantize(&tensor, kind).expect("blocks");
            let weights =
                quantized.dequantize(&Device::Cpu).and_then(|tensor| tensor.to_vec2::<f32>()).expect("numbers");
            let matrix = Matrix::Blocks { blocks: quantized.into(), outputs, inputs, bias: Some(bias.clone()) };
            let y = matrix.multiply(&mut crew, &x).expect("multiplies");
            for (x, y) in x.chunks_exact(inputs).zip(y.chunks_exact(outputs)) {
                for ((weights, bias), y) in weights.iter().zip(&bias).zip(y) {
                    let exact: f32 = weights.iter().zip(x).map(|(weight, x)| weight * x).sum::<f32>() + bias;
                    // Half a step of 127 for the largest number of a block, which is at most 1.
                    let most = weights.iter().map(|weight| weight.abs()).sum::<f32>() / 254.0 + 1e-3;
                    assert!((exact - y).abs() <= most, "{kind:?}: {y} is not {exact}");
                }
                assert_eq!(matrix.multiply(&mut crew, x).expect("multiplies"), y, "{kind:?}: company changes a row");
            }
            for nothing in [f32::NAN, f32::INFINITY] {
                let mut spoilt = x.clone();
                spoilt[inputs + 3] = nothing;
                let spoilt = matrix.multiply(&mut crew, &spoilt).expect("multiplies");
                assert!(spoilt[outputs..2 * outputs].iter().all(|number| number.is_nan()), "{kind:?}: made numbers");
                assert_eq!(spoilt[2 * outputs..], y[2 * outputs..], "{kind:?}: others are spoilt");
            }
        }
    }
}
