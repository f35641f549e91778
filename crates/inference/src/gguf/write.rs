//! Writing a GGUF file: what another says of its model, as it is but for some numbers, and tensors.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

use candle_core::{
    Device,
    quantized::{GgmlDType, QStorage, QTensor},
};

use super::{Gguf, header};
use crate::LoadError;

/// The version of the format that is written.
const VERSION: u32 = 3;
/// The numbers that say "32-bit unsigned" and "text" among the kinds of values.
const U32: u32 = 4;
const TEXT: u32 = 8;

/// What a file to be says under a name, instead of what the other says there, if anything.
#[derive(Clone, Copy)]
pub(crate) enum Change<'a> {
    Number(u32),
    Text(&'a str),
}

/// A tensor of a file to be.
pub(crate) struct Outline<'a> {
    /// What it is called.
    pub(crate) name: Cow<'a, str>,
    pub(crate) kind: GgmlDType,
    /// Rows first.
    pub(crate) shape: Cow<'a, [usize]>,
}

impl Outline<'_> {
    /// Its bytes in a file; `None` when its rows do not divide into blocks of its kind.
    fn bytes(&self) -> Option<usize> {
        let columns = self.shape.last().filter(|columns| columns.is_multiple_of(self.kind.block_size()));
        columns.map(|_| self.shape.iter().product::<usize>() / self.kind.block_size() * self.kind.type_size())
    }
}

impl Gguf {
    /// All tensors as they are, in the file's order.
    pub(crate) fn outlines(&self) -> Vec<Outline<'_>> {
        let outline = |(name, kind, shape)| Outline { name: Cow::Borrowed(name), kind, shape: Cow::Borrowed(shape) };
        self.stored().into_iter().map(outline).collect()
    }

    /// Writes a file that says the same of its model, but for these changes, and holds these tensors; `content` gives the
    /// bytes of each, told by its place. One tensor is in memory at a time.
    ///
    /// # Errors
    /// When a tensor does not divide into the blocks of its kind, or has other bytes, and when the file cannot be written.
    pub(crate) fn write_as<'a>(
        &self,
        path: &Path,
        changes: &[(String, Change<'_>)],
        tensors: &[Outline<'_>],
        mut content: impl FnMut(usize) -> Result<Cow<'a, [u8]>, LoadError>,
    ) -> Result<(), LoadError> {
        let failed = |error: io::Error| LoadError::new(path, format!("cannot be written: {error}"));
        let mut header = self.begin(tensors.len(), changes);
        let (mut offset, mut lengths) = (0_usize, Vec::with_capacity(tensors.len()));
        for tensor in tensors {
            let Outline { name, kind, shape } = tensor;
            let (number, length) = header::number(*kind).zip(tensor.bytes()).ok_or_else(|| {
                self.wrong(format!("tensor {name:?} of shape {shape:?} cannot be stored as {kind:?}"))
            })?;
            text(&mut header, name);
            header.extend((shape.len() as u32).to_le_bytes());
            shape.iter().rev().for_each(|side| header.extend((*side as u64).to_le_bytes()));
            header.extend(number.to_le_bytes());
            header.extend((offset as u64).to_le_bytes());
            offset = (offset + length).next_multiple_of(self.header.alignment);
            lengths.push(length);
        }
        header.resize(header.len().next_multiple_of(self.header.alignment), 0);
        let mut file = BufWriter::new(File::create(path).map_err(failed)?);
        file.write_all(&header).map_err(failed)?;
        for (place, length) in lengths.into_iter().enumerate() {
            let bytes = content(place)?;
            if bytes.len() != length {
                let name = &tensors[place].name;
                return Err(self.wrong(format!("tensor {name:?} has {} bytes; its shape has {length}", bytes.len())));
            }
            let padding = bytes.len().next_multiple_of(self.header.alignment) - bytes.len();
            file.write_all(&bytes).and_then(|()| file.write_all(&vec![0; padding])).map_err(failed)?;
        }
        file.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)
    }

    /// Numbers, row by row, in a kind, as a file holds them.
    ///
    /// # Errors
    /// When candle cannot make that of them.
    pub(crate) fn encoded(&self, numbers: Vec<f32>, tensor: &Outline<'_>) -> Result<Vec<u8>, LoadError> {
        let Outline { name, kind, shape } = tensor;
        let blocks = candle_core::Tensor::from_vec(numbers, &**shape, &Device::Cpu)
            .and_then(|numbers| QTensor::quantize(&numbers, *kind)?.data().map(Cow::into_owned));
        blocks.map_err(|error| self.wrong(format!("tensor {name:?} cannot become {kind:?}: {error}")))
    }

    /// The numbers that a file's bytes of a tensor stand for.
    ///
    /// # Errors
    /// When candle cannot read them.
    pub(crate) fn decoded(&self, bytes: &[u8], tensor: &Outline<'_>) -> Result<Vec<f32>, LoadError> {
        let blocks = tensor.kind.from_data(Cow::Borrowed(bytes));
        let numbers = QTensor::new(QStorage::Cpu(blocks), &*tensor.shape)
            .and_then(|blocks| blocks.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>());
        numbers.map_err(|error| self.unreadable(&tensor.name, &error))
    }

    /// All that stands before the tensors' names.
    fn begin(&self, tensors: usize, changes: &[(String, Change<'_>)]) -> Vec<u8> {
        let is_kept = |name: &str| changes.iter().all(|(other, _)| other != name);
        let kept: Vec<_> = self.header.values.iter().filter(|(name, _)| is_kept(name)).collect();
        let mut header = header::MAGIC.to_vec();
        header.extend(VERSION.to_le_bytes());
        header.extend((tensors as u64).to_le_bytes());
        header.extend(((kept.len() + changes.len()) as u64).to_le_bytes());
        kept.into_iter().for_each(|(_, place)| header.extend_from_slice(&self.map[place.clone()]));
        for (name, change) in changes {
            text(&mut header, name);
            match change {
                Change::Number(number) => header.extend([U32, *number].map(u32::to_le_bytes).as_flattened()),
                Change::Text(words) => {
                    header.extend(TEXT.to_le_bytes());
                    text(&mut header, words);
                }
            }
        }
        header
    }
}

fn text(header: &mut Vec<u8>, text: &str) {
    header.extend((text.len() as u64).to_le_bytes());
    header.extend_from_slice(text.as_bytes());
}
