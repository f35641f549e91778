//! A Hugging Face directory's weights as narrower numbers.

use std::{borrow::Cow, path::Path};

use safetensors::Dtype;

use crate::{
    LoadError,
    derived::{Tensor, write_tensors},
    map::{Stored, Weights},
};

/// Writes a safetensors file whose matrices of 32-bit floats are bf16; all else, norms and biases too, stays as it is. Whether
/// anything became narrower.
///
/// # Errors
/// When the file is not sound or cannot be written.
pub(super) fn write_weights(from: &Path, to: &Path) -> Result<bool, LoadError> {
    let weights = Weights::open(from)?;
    let mut narrowed = false;
    let tensors: Vec<_> = weights
        .stored()?
        .into_iter()
        .map(|Stored { name, dtype, shape, bytes }| {
            let is_narrowed = dtype == Dtype::F32 && shape.len() > 1;
            narrowed |= is_narrowed;
            let bytes = if is_narrowed { Cow::Owned(to_bf16(bytes)) } else { Cow::Borrowed(bytes) };
            let dtype = if is_narrowed { Dtype::BF16 } else { dtype };
            (name, Tensor { dtype, shape: shape.into(), bytes })
        })
        .collect();
    write_tensors(tensors, to)?;
    Ok(narrowed)
}

/// The nearest numbers with 8 significant bits; of two as near, the even one.
fn to_bf16(floats: &[u8]) -> Vec<u8> {
    let (floats, _) = floats.as_chunks::<4>();
    let nearest = |float: &[u8; 4]| {
        let bits = u32::from_le_bytes(*float);
        let round = 0x7FFF + ((bits >> 16) & 1);
        ((bits.wrapping_add(round) >> 16) as u16).to_le_bytes()
    };
    floats.iter().flat_map(nearest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_to_the_nearest_and_ties_to_the_even() {
        let rounded = |number: f32| {
            let bytes = to_bf16(&number.to_le_bytes());
            f32::from_bits(u32::from(u16::from_le_bytes([bytes[0], bytes[1]])) << 16)
        };
        let step = 1.0 / 128.0;
        for (number, expected) in [
            (0.0, 0.0),
            (-1.5, -1.5),
            (1.0 + step / 2.0, 1.0),
            (1.0 + step * 1.5, 1.0 + step * 2.0),
            (1.0 + step * 0.51, 1.0 + step),
            (-(1.0 + step * 0.49), -1.0),
        ] {
            assert_eq!(rounded(number), expected, "{number}");
        }
    }
}
