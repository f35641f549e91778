//! A Hugging Face directory with narrower weights, and a manifest that asks for narrower products.

use std::{borrow::Cow, fs, path::Path};

use safetensors::{Dtype, SafeTensorError, View, serialize_to_file};
use toml::{Table, Value};

use super::Form;
use crate::{
    Description, LoadError, digest,
    manifest::{self, MANIFEST},
    map::{Stored, Weights},
    plain::WEIGHTS,
};

/// A tensor as it will be stored.
struct Narrow<'a> {
    dtype: Dtype,
    shape: &'a [usize],
    bytes: Cow<'a, [u8]>,
}

impl View for Narrow<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

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
            (name, Narrow { dtype: if is_narrowed { Dtype::BF16 } else { dtype }, shape, bytes })
        })
        .collect();
    let said = [("format".to_owned(), "pt".to_owned())].into();
    serialize_to_file(tensors, Some(said), to)
        .map_err(|error: SafeTensorError| LoadError::new(to, format!("cannot be written: {error}")))?;
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

/// Writes the manifest: the model's own where it has one, else one that says what its files said.
///
/// # Errors
/// When a file cannot be read or written.
pub(super) fn write_manifest(
    found: &Description,
    form: Form,
    name: &prediction::ModelName,
    to: &Path,
) -> Result<(), LoadError> {
    let (spec, path) = (&found.spec, found.dir.join(MANIFEST));
    let mut manifest: Table = match path.exists() {
        true => {
            let text = manifest::read_text(&path)?;
            text.parse().map_err(|error: toml::de::Error| LoadError::new(&path, error.to_string()))?
        }
        false => {
            let said = [("license", &spec.license), ("source", &spec.source)];
            let said = said.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?.into())));
            said.collect()
        }
    };
    let texts = [
        ("name", name.as_str()),
        ("task", &spec.task),
        ("architecture", "encoder"),
        ("description", &spec.description),
        ("precision", form.word()),
    ];
    manifest.extend(texts.map(|(key, text)| (key.to_owned(), text.into())));
    let schemas: Vec<_> =
        ["input_schema", "output_schema"].iter().filter_map(|key| manifest.get(*key)?.as_str()).collect();
    let read = found.files.iter().map(|file| &file.path);
    let read =
        read.filter(|file| **file != Path::new(MANIFEST) && !schemas.iter().any(|schema| Path::new(schema) == **file));
    let mut files = Vec::new();
    for file in read {
        let sha256 = digest::of_file(&to.join(file))?;
        let pinned = [("path", file.to_string_lossy().into_owned()), ("sha256", sha256)];
        files.push(Value::Table(pinned.map(|(key, text)| (key.to_owned(), text.into())).into_iter().collect()));
    }
    debug_assert!(to.join(WEIGHTS).exists(), "weights are written first");
    manifest.insert("files".to_owned(), Value::Array(files));
    let path = to.join(MANIFEST);
    fs::write(&path, manifest.to_string()).map_err(|error| LoadError::new(&path, format!("cannot be written: {error}")))
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
