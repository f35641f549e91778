//! A safetensors file's tensors less heads, less layers, or with zeros in place of small numbers. Numbers stay of the kind that they
//! were of.

use std::path::Path;

use safetensors::Dtype;

use super::parts::{renumbered, share_of, some_columns, some_rows, without_smallest, zeros};
use crate::{
    LoadError,
    derived::{Tensor, write_tensors},
    map::{Stored, Weights},
    transformer::Anatomy,
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
        let (name, mut tensor) = as_it_is(stored);
        if let Some((layer, side)) = side_of_heads(anatomy, &name, tensor.shape.len()) {
            let heads = anatomy.heads[layer].len();
            let kept: Vec<_> = (0..heads).filter(|place| !removed[layer].contains(place)).collect();
            let length = tensor.shape[side];
            let bytes = match side {
                _ if !length.is_multiple_of(heads) => None,
                0 => some_rows(&tensor.bytes, heads, &kept),
                _ => some_columns(&tensor.bytes, tensor.shape[0], heads, &kept),
            };
            let shape = &tensor.shape;
            let whole = || format!("tensor {name:?} has shape {shape:?}, which is not of whole heads");
            tensor.bytes = bytes.ok_or_else(|| LoadError::new(weights.path(), whole()))?.into();
            tensor.shape.to_mut()[side] = length / heads * kept.len();
        }
        tensors.push((name, tensor));
    }
    write_tensors(tensors, to)
}

/// The layer of a tensor that is of heads, and along which of its sides they lie.
fn side_of_heads(anatomy: &Anatomy, name: &str, sides: usize) -> Option<(usize, usize)> {
    let (layer, part) = anatomy.place(name)?;
    let (part, _) = part.rsplit_once('.')?;
    if anatomy.names.query_key_value.contains(&part) {
        // Rows of the matrix, numbers of the bias.
        return (sides > 0).then_some((layer, 0));
    }
    (anatomy.names.attended == part && sides == 2).then_some((layer, 1))
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
            Some((layer, part)) => anatomy.name(renumbered(layer, removed)?, part),
            None => name,
        };
        Some((name, tensor))
    });
    write_tensors(tensors.collect(), to)
}

/// Writes all tensors, in each matrix zeros in place of the numbers nearest to 0, this share of them. How many numbers of the file are
/// 0, and how many it holds.
///
/// # Errors
/// When the file is not sound, its matrices are not of floats or have no share so small, or it cannot be written.
pub(super) fn write_sparse(
    weights: &Weights,
    is_matrix: impl Fn(&str) -> bool,
    share: f64,
    to: &Path,
) -> Result<(u64, u64), LoadError> {
    let (mut tensors, mut any, mut nothing) = (Vec::new(), false, 0);
    for stored in weights.stored()? {
        let (name, mut tensor) = as_it_is(stored);
        let count = share_of(share, if is_matrix(&name) { tensor.shape.iter().product() } else { 0 });
        any |= count > 0;
        tensor.bytes = match tensor.dtype {
            _ if count == 0 => tensor.bytes,
            Dtype::F32 => without_smallest::<4>(&tensor.bytes, count).into(),
            Dtype::F16 | Dtype::BF16 => without_smallest::<2>(&tensor.bytes, count).into(),
            other => {
                let reason = format!("tensor {name:?} holds {other:?}; F32, F16 and BF16 are read");
                return Err(LoadError::new(weights.path(), reason));
            }
        };
        nothing += match tensor.dtype {
            Dtype::F32 => zeros::<4>(&tensor.bytes),
            Dtype::F16 | Dtype::BF16 => zeros::<2>(&tensor.bytes),
            _ => 0,
        };
        tensors.push((name, tensor));
    }
    if !any {
        return Err(LoadError::new(weights.path(), format!("a share of {share} is no whole number of any matrix")));
    }
    write_tensors(tensors, to)?;
    Ok((nothing, weights.parameters()))
}

fn as_it_is(stored: Stored<'_>) -> (String, Tensor<'_>) {
    let Stored { name, dtype, shape, bytes } = stored;
    (name, Tensor { dtype, shape: shape.into(), bytes: bytes.into() })
}
