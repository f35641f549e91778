//! Products with a matrix of a GGUF file, floats or blocks of small numbers as they are.
//!
//! Each row of a product is computed alike whatever rows are beside it, bit for bit.

use candle_core::quantized::GgmlDType;
use kernels::{Activation, BlockForm, Cpu, PackedMatrix, Precision, Rows, RowsMut};

use crate::{
    LoadError,
    gguf::{Gguf, levels},
    transformer::Crew,
};

/// A matrix of one row for each output, and perhaps a bias.
pub(super) struct Matrix(PackedMatrix);

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
        let (kind, bytes) = gguf.stored_as(&weight, &[outputs, inputs])?;
        let matrix = match levels::form(kind) {
            Some(form) => of_blocks(cpu, (kind, form), bytes, (outputs, inputs), bias.as_deref()),
            None => {
                let numbers = gguf.numbers(&weight, &[outputs, inputs])?;
                let numbers = Rows::new(&numbers, outputs, inputs, inputs);
                Some(PackedMatrix::new(cpu, Precision::F32, numbers, bias.as_deref()))
            }
        };
        matrix.map(Self).ok_or_else(|| gguf.wrong(format!("tensor {weight:?} has a number that is not finite")))
    }

    /// `x · Wᵀ + bias`, row by row.
    pub(super) fn multiply(&self, crew: &mut Crew<'_>, x: &[f32]) -> Vec<f32> {
        let (outputs, inputs) = (self.0.outputs(), self.0.inputs());
        let rows = x.len() / inputs;
        let mut y = vec![0.0; rows * outputs];
        let (x, to) = (Rows::new(x, rows, inputs, inputs), RowsMut::new(&mut y, rows, outputs, outputs));
        crew.multiply(&self.0, Activation::None, x, None, to);
        y
    }
}

/// Packs a tensor of blocks, unless a number is not finite.
fn of_blocks(
    cpu: Cpu,
    (kind, form): (GgmlDType, BlockForm),
    bytes: &[u8],
    (outputs, inputs): (usize, usize),
    bias: Option<&[f32]>,
) -> Option<PackedMatrix> {
    let row_bytes = inputs / kind.block_size() * kind.type_size();
    let mut is_finite = true;
    let packed = PackedMatrix::of_blocks(cpu, form, (outputs, inputs), bias, |output, row| {
        levels::read(kind, &bytes[output * row_bytes..][..row_bytes], row);
        is_finite &= row.steps.iter().chain(&row.lows).all(|number| number.is_finite());
    });
    is_finite.then_some(packed)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor, quantized::QTensor};
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
            let form = levels::form(kind).expect("a form");
            let bytes = quantized.data().expect("bytes");
            let matrix = of_blocks(crew.cpu, (kind, form), &bytes, (outputs, inputs), Some(&bias));
            let matrix = Matrix(matrix.expect("finite"));
            let y = matrix.multiply(&mut crew, &x);
            for (x, y) in x.chunks_exact(inputs).zip(y.chunks_exact(outputs)) {
                for ((weights, bias), y) in weights.iter().zip(&bias).zip(y) {
                    let exact: f32 = weights.iter().zip(x).map(|(weight, x)| weight * x).sum::<f32>() + bias;
                    // Half a step of 127 for the largest number of a block, which is at most 1.
                    let most = weights.iter().map(|weight| weight.abs()).sum::<f32>() / 254.0 + 1e-3;
                    assert!((exact - y).abs() <= most, "{kind:?}: {y} is not {exact}");
                }
                assert_eq!(matrix.multiply(&mut crew, x), y, "{kind:?}: company changes a row");
            }
            for nothing in [f32::NAN, f32::INFINITY] {
                let mut spoilt = x.clone();
                spoilt[inputs + 3] = nothing;
                let spoilt = matrix.multiply(&mut crew, &spoilt);
                assert!(spoilt[outputs..2 * outputs].iter().all(|number| number.is_nan()), "{kind:?}: made numbers");
                assert_eq!(spoilt[2 * outputs..], y[2 * outputs..], "{kind:?}: others are spoilt");
            }
        }
    }
}
