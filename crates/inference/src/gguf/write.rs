//! Writing a GGUF file: what another says of its model, as it is, and that one's tensors in other kinds.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor},
};

use super::{Gguf, header};
use crate::LoadError;

/// The version of the format that is written.
const VERSION: u32 = 3;
/// The number that says "32-bit unsigned" among the kinds of values.
const U32: u32 = 4;

impl Gguf {
    /// Writes a file that says the same of its model, but for these 32-bit numbers, and holds each tensor in the kind that `kind_of`
    /// names for it. One tensor is in memory at a time.
    ///
    /// # Errors
    /// When a tensor is not finite or does not divide into the blocks of its kind, and when the file cannot be written.
    pub(crate) fn write_as(
        &self,
        path: &Path,
        numbers: &[(&str, u32)],
        kind_of: impl Fn(&str, GgmlDType, &[usize]) -> GgmlDType,
    ) -> Result<(), LoadError> {
        let failed = |error: io::Error| LoadError::new(path, format!("cannot be written: {error}"));
        let tensors = self.stored();
        let kinds: Vec<_> = tensors.iter().map(|(name, kind, shape)| kind_of(name, *kind, shape)).collect();
        let mut header = self.begin(tensors.len(), numbers);
        let mut offset = 0_usize;
        for ((name, _, shape), kind) in tensors.iter().zip(&kinds) {
            let number = header::number(*kind)
                .filter(|_| shape.last().is_some_and(|columns| columns.is_multiple_of(kind.block_size())))
                .ok_or_else(|| {
                    self.wrong(format!("tensor {name:?} of shape {shape:?} cannot be stored as {kind:?}"))
                })?;
            text(&mut header, name);
            header.extend((shape.len() as u32).to_le_bytes());
            shape.iter().rev().for_each(|side| header.extend((*side as u64).to_le_bytes()));
            header.extend(number.to_le_bytes());
            header.extend((offset as u64).to_le_bytes());
            let blocks = shape.iter().product::<usize>() / kind.block_size();
            offset = (offset + blocks * kind.type_size()).next_multiple_of(self.header.alignment);
        }
        header.resize(header.len().next_multiple_of(self.header.alignment), 0);
        let mut file = BufWriter::new(File::create(path).map_err(failed)?);
        file.write_all(&header).map_err(failed)?;
        for ((name, stored, shape), kind) in tensors.into_iter().zip(kinds) {
            let bytes = if stored == kind {
                self.map[self.tensor(name)?.range.clone()].to_vec()
            } else {
                let numbers = self.numbers(name, shape)?;
                let blocks = Tensor::from_vec(numbers, shape, &Device::Cpu)
                    .and_then(|numbers| QTensor::quantize(&numbers, kind)?.data().map(|data| data.into_owned()));
                blocks.map_err(|error| self.wrong(format!("tensor {name:?} cannot become {kind:?}: {error}")))?
            };
            let padding = bytes.len().next_multiple_of(self.header.alignment) - bytes.len();
            file.write_all(&bytes).and_then(|()| file.write_all(&vec![0; padding])).map_err(failed)?;
        }
        file.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)
    }

    /// All that stands before the tensors' names.
    fn begin(&self, tensors: usize, numbers: &[(&str, u32)]) -> Vec<u8> {
        let is_kept = |name: &str| numbers.iter().all(|(other, _)| *other != name);
        let kept: Vec<_> = self.header.values.iter().filter(|(name, _)| is_kept(name)).collect();
        let mut header = header::MAGIC.to_vec();
        header.extend(VERSION.to_le_bytes());
        header.extend((tensors as u64).to_le_bytes());
        header.extend(((kept.len() + numbers.len()) as u64).to_le_bytes());
        kept.into_iter().for_each(|(_, place)| header.extend_from_slice(&self.map[place.clone()]));
        for (name, number) in numbers {
            text(&mut header, name);
            header.extend(U32.to_le_bytes());
            header.extend(number.to_le_bytes());
        }
        header
    }
}

fn text(header: &mut Vec<u8>, text: &str) {
    header.extend((text.len() as u64).to_le_bytes());
    header.extend_from_slice(text.as_bytes());
}
