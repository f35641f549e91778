//! An encoder's tensors less heads, less layers, or with zeros in place of small numbers. Numbers stay of the kind that they were of.

use std::{borrow::Cow, path::Path};

use safetensors::Dtype;

use crate::{
    LoadError,
    derived::{Tensor, write_tensors},
    map::{Stored, Weights},
    text::Anatomy,
};

/// Writes all tensors, but of each layer those of heads at these places among the heads that it has.
///
/// # Errors
/// When the file is not sound or cannot be written.
pub(super) fn write_without_heads(
    weights: &Weights,
    anatomy: &Anatomy,
    removed: &[Vec<usize>],
    to: &Path,
) -> Result<(), LoadError> {
    let mut tensors = Vec::new();
    for stored in weights.stored()? {
        let (name, tensor) = as_it_is(stored);
        let cut = anatomy.place(&name).and_then(|(layer, part)| {
            let (part, _) = part.rsplit_once('.')?;
            let kept = (0..anatomy.heads[layer].len()).filter(|place| !removed[layer].contains(place));
            if anatomy.names.query_key_value.contains(&part) {
                // Rows of the matrix, numbers of the bias.
                return Some(some_rows(&tensor, anatomy.heads[layer].len(), &kept.collect::<Vec<_>>()));
            }
            let is_matrix = anatomy.names.attended == part && tensor.shape.len() == 2;
            is_matrix.then(|| some_columns(&tensor, anatomy.heads[layer].len(), &kept.collect::<Vec<_>>()))
        });
        let tensor = match cut {
            Some(cut) => cut.ok_or_else(|| {
                let shape = &tensor.shape;
                LoadError::new(
                    weights.path(),
                    format!("tensor {name:?} has shape {shape:?}, which is not of whole heads"),
                )
            })?,
            None => tensor,
        };
        tensors.push((name, tensor));
    }
    write_tensors(tensors, to)
}

/// Writes all tensors but those of these layers; the others' layers are numbered anew.
///
/// # Errors
/// When the file is not sound or cannot be written.
pub(super) fn write_without_layers(
    weights: &Weights,
    anatomy: &Anatomy,
    removed: &[usize],
    to: &Path,
) -> Result<(), LoadError> {
    let tensors = weights.stored()?.into_iter().map(as_it_is).filter_map(|(name, tensor)| {
        let name = match anatomy.place(&name) {
            Some((layer, _)) if removed.contains(&layer) => return None,
            Some((layer, part)) => {
                anatomy.name(layer - removed.iter().filter(|removed| **removed < layer).count(), part)
            }
            None => name,
        };
        Some((name, tensor))
    });
    write_tensors(tensors.collect(), to)
}

/// Writes all tensors, in each matrix of each layer zeros in place of the numbers nearest to 0, this share of them. That is pruning by
/// magnitude (Han et al., "Learning both Weights and Connections for Efficient Neural Networks", 2015, arXiv 1506.02626), without
/// training again. How many numbers of the file are 0, and how many it holds.
///
/// # Errors
/// When the file is not sound, holds other numbers than floats, has none so small, or cannot be written.
pub(super) fn write_sparse(
    weights: &Weights,
    anatomy: &Anatomy,
    share: f64,
    to: &Path,
) -> Result<(u64, u64), LoadError> {
    let (mut tensors, mut any) = (Vec::new(), false);
    for stored in weights.stored()? {
        let (name, mut tensor) = as_it_is(stored);
        let names = &anatomy.names;
        let matrices = names.query_key_value.iter().chain([&names.attended, &names.up, &names.down]);
        let part = anatomy.place(&name).and_then(|(_, part)| part.strip_suffix(".weight"));
        if part.is_some_and(|part| matrices.into_iter().any(|matrix| *matrix == part)) {
            let count = (share * tensor.shape.iter().product::<usize>() as f64) as usize;
            any |= count > 0;
            tensor.bytes = match tensor.dtype {
                Dtype::F32 => without_smallest::<4>(&tensor.bytes, count).into(),
                Dtype::F16 | Dtype::BF16 => without_smallest::<2>(&tensor.bytes, count).into(),
                other => {
                    let reason = format!("tensor {name:?} holds {other:?}; F32, F16 and BF16 are read");
                    return Err(LoadError::new(weights.path(), reason));
                }
            };
        }
        tensors.push((name, tensor));
    }
    if !any {
        return Err(LoadError::new(weights.path(), format!("a share of {share} is no whole number of any matrix")));
    }
    let zeros = tensors.iter().map(|(_, tensor)| zeros(tensor)).sum();
    write_tensors(tensors, to)?;
    Ok((zeros, weights.parameters()))
}

fn as_it_is(stored: Stored<'_>) -> (String, Tensor<'_>) {
    let Stored { name, dtype, shape, bytes } = stored;
    (name, Tensor { dtype, shape: shape.into(), bytes: bytes.into() })
}

/// Of a tensor whose first side is so many equal parts, some of them.
fn some_rows<'a>(tensor: &Tensor<'a>, parts: usize, kept: &[usize]) -> Option<Tensor<'a>> {
    let rows = *tensor.shape.first().filter(|rows| rows.is_multiple_of(parts))?;
    let part = tensor.bytes.len() / parts;
    let mut shape = tensor.shape.to_vec();
    shape[0] = rows / parts * kept.len();
    let bytes = kept.iter().flat_map(|place| &tensor.bytes[place * part..][..part]).copied().collect();
    Some(Tensor { dtype: tensor.dtype, shape: shape.into(), bytes: Cow::Owned(bytes) })
}

/// Of a matrix whose second side is so many equal parts, some of them.
fn some_columns<'a>(tensor: &Tensor<'a>, parts: usize, kept: &[usize]) -> Option<Tensor<'a>> {
    let [rows, columns] = *tensor.shape else { return None };
    if rows == 0 || columns == 0 || !columns.is_multiple_of(parts) {
        return None;
    }
    let part = tensor.bytes.len() / rows / parts;
    let of_row =
        |row: &'_ [u8]| kept.iter().flat_map(|place| row[place * part..][..part].to_vec()).collect::<Vec<u8>>();
    let bytes = tensor.bytes.chunks_exact(part * parts).flat_map(of_row).collect();
    let shape = vec![rows, columns / parts * kept.len()];
    Some(Tensor { dtype: tensor.dtype, shape: shape.into(), bytes: Cow::Owned(bytes) })
}

/// Floats of so many bytes with zeros in place of the `count` smallest in magnitude; of equal ones, the first.
fn without_smallest<const BYTES: usize>(floats: &[u8], count: usize) -> Vec<u8> {
    let mut floats = floats.to_vec();
    let (numbers, _) = floats.as_chunks_mut::<BYTES>();
    // Among floats of one format, magnitudes are ordered as their bits are without the sign.
    let magnitudes: Vec<u32> = numbers.iter().map(magnitude).collect();
    let Some(last) = count.checked_sub(1) else { return floats };
    let threshold = *magnitudes.clone().select_nth_unstable(last).1;
    let mut equal = count - magnitudes.iter().filter(|magnitude| **magnitude < threshold).count();
    for (number, magnitude) in numbers.iter_mut().zip(magnitudes) {
        let is_last = magnitude == threshold && equal > 0;
        equal -= usize::from(is_last);
        if is_last || magnitude < threshold {
            *number = [0; BYTES];
        }
    }
    floats
}

/// How many numbers of a tensor of floats are 0.
fn zeros(tensor: &Tensor<'_>) -> u64 {
    let count = match tensor.dtype {
        Dtype::F32 => tensor.bytes.as_chunks::<4>().0.iter().filter(|number| magnitude(number) == 0).count(),
        Dtype::F16 | Dtype::BF16 => {
            tensor.bytes.as_chunks::<2>().0.iter().filter(|number| magnitude(number) == 0).count()
        }
        _ => 0,
    };
    count as u64
}

/// The bits of a little-endian float without its sign.
fn magnitude<const BYTES: usize>(number: &[u8; BYTES]) -> u32 {
    let bits = number.iter().rev().fold(0, |bits, byte| bits << 8 | u32::from(*byte));
    bits & !(1 << (8 * BYTES - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_become_zeros() {
        let floats = [-1.0_f32, 0.5, -0.25, 0.25, f32::MIN_POSITIVE, 2.0, -0.0];
        let bytes: Vec<u8> = floats.iter().flat_map(|float| float.to_le_bytes()).collect();
        let left = |count: usize| {
            let left = without_smallest::<4>(&bytes, count);
            left.as_chunks::<4>().0.iter().map(|number| f32::from_le_bytes(*number)).collect::<Vec<_>>()
        };
        assert_eq!(left(0), floats);
        assert_eq!(left(2), [-1.0, 0.5, -0.25, 0.25, 0.0, 2.0, 0.0]);
        assert_eq!(left(3), [-1.0, 0.5, 0.0, 0.25, 0.0, 2.0, 0.0], "of equal ones the first");
        assert_eq!(left(7), [0.0; 7]);
    }

    #[test]
    fn parts_are_cut_out_whole() {
        let tensor = |shape: &[usize]| Tensor {
            dtype: Dtype::BF16,
            shape: shape.to_vec().into(),
            bytes: (0..2 * shape.iter().product::<usize>() as u8).collect(),
        };
        let rows = some_rows(&tensor(&[4, 1]), 2, &[1]).expect("two parts");
        assert_eq!((&*rows.shape, &*rows.bytes), (&[2, 1][..], &[4, 5, 6, 7][..]));
        let columns = some_columns(&tensor(&[2, 3]), 3, &[0, 2]).expect("three parts");
        assert_eq!((&*columns.shape, &*columns.bytes), (&[2, 2][..], &[0, 1, 4, 5, 6, 7, 10, 11][..]));
        assert!(some_rows(&tensor(&[4, 1]), 3, &[0]).is_none() && some_columns(&tensor(&[2, 3]), 2, &[0]).is_none());
    }
}
