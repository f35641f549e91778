//! Weights: one safetensors file, checked before a byte of it is used. What becomes numbers is read from it a little at a time, since pages
//! that are mapped cost more than the copy; what is passed on as it is, and the header, is mapped read-only.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use candle_core::{DType, Device, Tensor};
use kernels::{Arena, in_huge_pages};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors, tensor::Metadata};

use crate::LoadError;

/// The longest header read, in bytes; the largest published models stay far below.
const MAX_HEADER: u64 = 16 << 20;

/// Bytes of the header's length, a little-endian number at the start of the file.
const LENGTH_BYTES: usize = 8;

/// Bytes that are read at a time: they stay in the second-level cache.
const CHUNK: usize = 1 << 16;

/// Numbers that become floats at a time: they stay in the first-level cache.
const IN_CACHE: usize = 2048;

/// A safetensors file whose header was checked against the file's length.
pub(crate) struct Weights {
    path: PathBuf,
    file: File,
    map: Mmap,
    metadata: Metadata,
    data_start: usize,
    arena: Arena,
    /// What a matrix is read into before it is packed: the same memory for all, since new memory costs more than what is done with it.
    desk: Mutex<Vec<f32>>,
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
        let file = open(path)?;
        let map = map(path, &file)?;
        let length = map.first_chunk::<LENGTH_BYTES>().map(|bytes| u64::from_le_bytes(*bytes));
        let length = length.ok_or_else(|| LoadError::new(path, "not safetensors: shorter than a header"))?;
        if length > MAX_HEADER {
            return Err(LoadError::new(path, format!("header of {length} bytes; at most {MAX_HEADER} are read")));
        }
        let (header, metadata) = SafeTensors::read_metadata(&map)
            .map_err(|error| LoadError::new(path, format!("not sound safetensors: {error}")))?;
        let (path, data_start, desk) = (path.to_owned(), LENGTH_BYTES + header, Mutex::default());
        let mut weights = Self { path, file, map, metadata, data_start, arena: Arena::new(0), desk };
        // Packed they take no more, but for what is beyond their last outputs.
        let bytes = usize::try_from(weights.parameters()).unwrap_or_default().saturating_mul(size_of::<f32>());
        weights.arena = Arena::new(bytes);
        Ok(weights)
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

    /// Memory for what is packed of them.
    pub(crate) fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Room for numbers that are needed for a moment, empty; of one at a time.
    pub(crate) fn desk(&self) -> MutexGuard<'_, Vec<f32>> {
        let mut desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        desk.clear();
        desk
    }

    /// The numbers of a tensor, row by row, as 32-bit floats.
    ///
    /// # Errors
    /// When the file has no such tensor, or one of another shape, or one that is not of finite floats, and when it cannot be read.
    pub(crate) fn numbers(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        let mut numbers = Vec::new();
        self.read(name, shape, &mut numbers)?;
        Ok(numbers)
    }

    /// Adds them to these.
    ///
    /// # Errors
    /// As [`numbers`](Self::numbers).
    pub(crate) fn read(&self, name: &str, shape: &[usize], numbers: &mut Vec<f32>) -> Result<(), LoadError> {
        let wrong = |reason: String| LoadError::new(&self.path, format!("tensor {name:?} {reason}"));
        let info = self.metadata.info(name).ok_or_else(|| wrong("is missing".into()))?;
        if info.shape != shape {
            return Err(wrong(format!("has shape {:?}; the architecture needs {shape:?}", info.shape)));
        }
        let (start, end) = info.data_offsets;
        let each = match info.dtype {
            Dtype::F32 => 4,
            Dtype::BF16 | Dtype::F16 => 2,
            other => return Err(wrong(format!("holds {other:?}; F32, F16 and BF16 are read"))),
        };
        numbers.reserve_exact((end - start) / each);
        if numbers.is_empty() {
            in_huge_pages(numbers);
        }
        let mut chunk = vec![0; CHUNK.min(end - start)];
        for begin in (start..end).step_by(CHUNK) {
            let bytes = &mut chunk[..CHUNK.min(end - begin)];
            let at = (self.data_start + begin) as u64;
            self.file.read_exact_at(bytes, at).map_err(|error| wrong(format!("cannot be read: {error}")))?;
            let is_finite = match info.dtype {
                Dtype::F32 => add(numbers, bytes, f32::from_le_bytes),
                // The upper half of a 32-bit float.
                Dtype::BF16 => add(numbers, bytes, |[low, high]| f32::from_le_bytes([0, 0, low, high])),
                _ => {
                    let wide = widened(bytes).map_err(|error| wrong(format!("cannot be read: {error}")))?;
                    numbers.extend_from_slice(&wide);
                    wide.iter().all(|number| number.is_finite())
                }
            };
            if !is_finite {
                return Err(wrong("has a number that is not finite".into()));
            }
        }
        Ok(())
    }
}

/// Adds numbers of so many bytes each, and says whether all are finite.
fn add<const BYTES: usize>(numbers: &mut Vec<f32>, bytes: &[u8], number: impl Fn([u8; BYTES]) -> f32) -> bool {
    let (all, _) = bytes.as_chunks::<BYTES>();
    // Looked at while they are in the first-level cache, and all at once.
    all.chunks(IN_CACHE).all(|some| {
        let begin = numbers.len();
        numbers.extend(some.iter().map(|bytes| number(*bytes)));
        let largest = numbers[begin..].iter().fold(0, |largest: u32, number| largest.max(number.abs().to_bits()));
        largest < f32::INFINITY.to_bits()
    })
}

/// Numbers of 16 bits as IEEE 754 has them.
fn widened(bytes: &[u8]) -> candle_core::Result<Vec<f32>> {
    let tensor = Tensor::from_raw_buffer(bytes, DType::F16, &[bytes.len() / 2], &Device::Cpu)?;
    tensor.to_dtype(DType::F32)?.to_vec1()
}

/// Opens what is a file.
pub(crate) fn open(path: &Path) -> Result<File, LoadError> {
    let file = File::open(path).map_err(|error| LoadError::new(path, format!("cannot be opened: {error}")))?;
    let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
    if is_file { Ok(file) } else { Err(LoadError::new(path, "not a file")) }
}

/// Maps a whole file read-only.
pub(crate) fn map(path: &Path, file: &File) -> Result<Mmap, LoadError> {
    // SAFETY: a map is sound while nobody changes the file under it. Model files are the operator's, read-only to us, and
    // installed by renaming, never rewritten in place; the map lives only while a model loads, and tensors are copied out.
    #[allow(unsafe_code)]
    let map = unsafe { Mmap::map(file) };
    map.map_err(|error| LoadError::new(path, format!("cannot be mapped: {error}")))
}
