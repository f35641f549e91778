//! Weights: one safetensors file, mapped read-only and checked before a byte of it is used.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors, tensor::Metadata};

use crate::LoadError;

/// The longest header read, in bytes; the largest published models stay far below.
const MAX_HEADER: u64 = 16 << 20;

/// Bytes of the header's length, a little-endian number at the start of the file.
const LENGTH_BYTES: usize = 8;

/// Numbers that are read at a time.
const IN_CACHE: usize = 2048;

/// A mapped safetensors file whose header was checked against the file's length.
pub(crate) struct Weights {
    path: PathBuf,
    map: Mmap,
    metadata: Metadata,
    data_start: usize,
}

/// A tensor as it is in the file.
pub(crate) struct Stored<'a> {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: &'a [usize],
    pub(crate) bytes: &'a [u8],
}

impl Weights {
    /// Maps the file and checks its header: its length, its JSON, that tensors lie inside the file without gaps or overlaps,
    /// and that each has as many bytes as its shape says.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub(crate) fn open(path: &Path) -> Result<Self, LoadError> {
        let map = map(path)?;
        let length = map.first_chunk::<LENGTH_BYTES>().map(|bytes| u64::from_le_bytes(*bytes));
        let length = length.ok_or_else(|| LoadError::new(path, "not safetensors: shorter than a header"))?;
        if length > MAX_HEADER {
            return Err(LoadError::new(path, format!("header of {length} bytes; at most {MAX_HEADER} are read")));
        }
        let (header, metadata) = SafeTensors::read_metadata(&map)
            .map_err(|error| LoadError::new(path, format!("not sound safetensors: {error}")))?;
        Ok(Self { path: path.to_owned(), map, metadata, data_start: LENGTH_BYTES + header })
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How many tensors it holds.
    pub(crate) fn len(&self) -> usize {
        self.metadata.offset_keys().len()
    }

    /// How many numbers its tensors hold.
    pub(crate) fn parameters(&self) -> u64 {
        let tensors = self.metadata.tensors();
        tensors.values().map(|info| info.shape.iter().map(|side| *side as u64).product::<u64>()).sum()
    }

    /// All tensors, as they are in the file.
    ///
    /// # Errors
    /// When one lies outside the file.
    pub(crate) fn stored(&self) -> Result<Vec<Stored<'_>>, LoadError> {
        let stored = self.metadata.tensors().into_iter().map(|(name, info)| {
            let (start, end) = info.data_offsets;
            let bytes = self.map.get(self.data_start + start..self.data_start + end);
            let bytes = bytes.ok_or_else(|| LoadError::new(&self.path, format!("tensor {name:?} lies outside it")))?;
            Ok(Stored { name, dtype: info.dtype, shape: &info.shape, bytes })
        });
        stored.collect()
    }

    /// The shape of a tensor, if the file has it.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.metadata.info(name).map(|info| info.shape.as_slice())
    }

    /// The numbers of a tensor, row by row, as 32-bit floats; copied out of the map, so that nothing refers to the file afterwards.
    ///
    /// # Errors
    /// When the file has no such tensor, or one of another shape, or one that is not of finite floats.
    pub(crate) fn numbers(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        let wrong = |reason: String| LoadError::new(&self.path, format!("tensor {name:?} {reason}"));
        let info = self.metadata.info(name).ok_or_else(|| wrong("is missing".into()))?;
        if info.shape != shape {
            return Err(wrong(format!("has shape {:?}; the architecture needs {shape:?}", info.shape)));
        }
        let (start, end) = info.data_offsets;
        let bytes = self.map.get(self.data_start + start..self.data_start + end);
        let bytes = bytes.ok_or_else(|| wrong("lies outside the file".into()))?;
        let numbers = match info.dtype {
            Dtype::F32 => read(bytes, f32::from_le_bytes),
            // The upper half of a 32-bit float.
            Dtype::BF16 => read(bytes, |[low, high]| f32::from_le_bytes([0, 0, low, high])),
            Dtype::F16 => {
                let numbers = widened(bytes).map_err(|error| wrong(format!("cannot be read: {error}")))?;
                numbers.iter().all(|number| number.is_finite()).then_some(numbers)
            }
            other => return Err(wrong(format!("holds {other:?}; F32, F16 and BF16 are read"))),
        };
        numbers.ok_or_else(|| wrong("has a number that is not finite".into()))
    }
}

/// Numbers of so many bytes each, unless one is not finite.
fn read<const BYTES: usize>(bytes: &[u8], number: impl Fn([u8; BYTES]) -> f32) -> Option<Vec<f32>> {
    let (numbers, _) = bytes.as_chunks::<BYTES>();
    let mut read = Vec::with_capacity(numbers.len());
    // Looked at while they are in the first-level cache, and all at once.
    for some in numbers.chunks(IN_CACHE) {
        let begin = read.len();
        read.extend(some.iter().map(|bytes| number(*bytes)));
        let largest = read[begin..].iter().fold(0, |largest: u32, number| largest.max(number.abs().to_bits()));
        if largest >= f32::INFINITY.to_bits() {
            return None;
        }
    }
    Some(read)
}

/// Numbers of 16 bits as IEEE 754 has them.
fn widened(bytes: &[u8]) -> candle_core::Result<Vec<f32>> {
    let tensor = Tensor::from_raw_buffer(bytes, DType::F16, &[bytes.len() / 2], &Device::Cpu)?;
    tensor.to_dtype(DType::F32)?.to_vec1()
}

/// Maps a whole file read-only.
pub(crate) fn map(path: &Path) -> Result<Mmap, LoadError> {
    let file = File::open(path).map_err(|error| LoadError::new(path, format!("cannot be opened: {error}")))?;
    let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
    if !is_file {
        return Err(LoadError::new(path, "not a file"));
    }
    // SAFETY: a map is sound while nobody changes the file under it. Model files are the operator's, read-only to us, and
    // installed by renaming, never rewritten in place; the map lives only while a model loads, and tensors are copied out.
    #[allow(unsafe_code)]
    let map = unsafe { Mmap::map(&file) };
    map.map_err(|error| LoadError::new(path, format!("cannot be mapped: {error}")))
}
