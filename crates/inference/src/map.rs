//! Weights: one safetensors file, checked before a byte of it is used. What becomes numbers is read from it a little at a time, since pages
//! that are mapped cost more than the copy; what is passed on as it is, and the header, is mapped read-only.

use std::{
    fs::File,
    ops::Range,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use candle_core::{DType, Device, Tensor};
use kernels::{Arena, PackedMatrix, in_huge_pages, mapped};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors, tensor::Metadata};

use crate::{
    LoadError,
    identity::Identity,
    kept::{KeptWeights, Packing, Places, Shelf, Unkept},
};

/// The longest header read, in bytes; the largest published models stay far below.
const MAX_HEADER: u64 = 16 << 20;

/// Bytes of the header's length, a little-endian number at the start of the file.
const LENGTH_BYTES: usize = 8;

/// Bytes that are read at a time: they stay in the second-level cache.
const CHUNK: usize = 1 << 16;

/// A safetensors file whose header was checked against the file's length.
pub(crate) struct Weights {
    file: Arc<Named>,
    map: Mmap,
    metadata: Metadata,
    data_start: usize,
    is_trusted: bool,
    /// What an earlier start has packed of them.
    kept: Option<Box<KeptWeights>>,
    arena: Arena,
    /// What lies where in the arena.
    places: Mutex<Places>,
    /// What matrices are read into before they are packed: the same memory again and again, since new memory costs more than what is
    /// done with it.
    desks: Mutex<Vec<Vec<f32>>>,
}

/// An open file of weights.
struct Named {
    path: PathBuf,
    file: File,
    identity: Identity,
}

/// The numbers of a tensor in their file, which can be read when the rest of it is not needed any more.
pub(crate) struct Numbers {
    file: Arc<Named>,
    name: String,
    dtype: Dtype,
    /// Where they are in the file.
    bytes: Range<usize>,
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
        let identity = file.metadata().map(|metadata| Identity::of(&metadata));
        let identity = identity.map_err(|error| LoadError::new(path, format!("cannot be read: {error}")))?;
        let length = map.first_chunk::<LENGTH_BYTES>().map(|bytes| u64::from_le_bytes(*bytes));
        let length = length.ok_or_else(|| LoadError::new(path, "not safetensors: shorter than a header"))?;
        if length > MAX_HEADER {
            return Err(LoadError::new(path, format!("header of {length} bytes; at most {MAX_HEADER} are read")));
        }
        let (header, metadata) = SafeTensors::read_metadata(&map)
            .map_err(|error| LoadError::new(path, format!("not sound safetensors: {error}")))?;
        let file = Arc::new(Named { path: path.to_owned(), file, identity });
        let (data_start, desks) = (LENGTH_BYTES + header, Mutex::default());
        let (kept, arena, places) = (None, Arena::new(0), Mutex::default());
        let mut weights = Self { file, map, metadata, data_start, is_trusted: false, kept, arena, places, desks };
        // Packed they take no more, but for what is beyond their last outputs.
        let bytes = usize::try_from(weights.parameters()).unwrap_or_default().saturating_mul(size_of::<f32>());
        weights.arena = Arena::new(bytes);
        Ok(weights)
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.file.path
    }

    /// Says that its numbers were checked by an earlier start, which may have kept what it packed of them.
    pub(crate) fn trust(&mut self, kept: Option<Box<KeptWeights>>) {
        (self.is_trusted, self.kept) = (true, kept);
    }

    /// Whether its numbers were checked by an earlier start, so that what is not needed at once may be read later.
    pub(crate) fn is_trusted(&self) -> bool {
        self.is_trusted
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
            let bytes = bytes.ok_or_else(|| LoadError::new(self.path(), format!("tensor {name:?} lies outside it")))?;
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

    /// What an earlier start has packed of them.
    pub(crate) fn kept(&self) -> Option<&KeptWeights> {
        self.kept.as_deref()
    }

    /// Remembers where a matrix lies in the arena, if it does.
    pub(crate) fn place(&self, key: String, matrix: &PackedMatrix) {
        if let Some(places) = matrix.places(&self.arena) {
            self.places.lock().unwrap_or_else(PoisonError::into_inner).insert(key, places);
        }
    }

    /// What became of what was packed of them, all of which has been.
    pub(crate) fn packing(self, shelf: Shelf) -> Option<Packing> {
        if let Some(kept) = self.kept.filter(|kept| kept.is_used()) {
            return Some(Packing::Kept(kept));
        }
        let places = self.places.into_inner().unwrap_or_else(PoisonError::into_inner);
        Unkept::new(shelf, self.arena.filled()?, places).map(Packing::Unkept)
    }

    /// Works with room for so many numbers that are needed for a moment, whatever they are at first.
    pub(crate) fn at_desk<T>(&self, count: usize, work: impl FnOnce(&mut [f32]) -> T) -> T {
        let desks = || self.desks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut desk = desks().pop().unwrap_or_default();
        if desk.len() < count {
            grow(&mut desk, count);
        }
        let made = work(&mut desk[..count]);
        desks().push(desk);
        made
    }

    /// The numbers of a tensor, row by row, as 32-bit floats.
    ///
    /// # Errors
    /// When the file has no such tensor, or one of another shape, or one that is not of finite floats, and when it cannot be read.
    pub(crate) fn numbers(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        self.tensor(name, shape)?.all()
    }

    /// Where the numbers of a tensor are.
    ///
    /// # Errors
    /// When the file has no such tensor, or one of another shape, or one that is not of floats.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Numbers, LoadError> {
        let wrong = |reason: String| LoadError::new(self.path(), format!("tensor {name:?} {reason}"));
        let info = self.metadata.info(name).ok_or_else(|| wrong("is missing".into()))?;
        if info.shape != shape {
            return Err(wrong(format!("has shape {:?}; the architecture needs {shape:?}", info.shape)));
        }
        if width(info.dtype).is_none() {
            return Err(wrong(format!("holds {:?}; F32, F16 and BF16 are read", info.dtype)));
        }
        let (start, end) = info.data_offsets;
        let bytes = self.data_start + start..self.data_start + end;
        Ok(Numbers { file: Arc::clone(&self.file), name: name.to_owned(), dtype: info.dtype, bytes })
    }
}

impl Numbers {
    /// How many they are.
    pub(crate) fn count(&self) -> usize {
        self.bytes.len() / self.width()
    }

    /// Bytes of each.
    fn width(&self) -> usize {
        width(self.dtype).expect("looked at when it was found")
    }

    /// All of them.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn all(&self) -> Result<Vec<f32>, LoadError> {
        let mut numbers = Vec::new();
        grow(&mut numbers, self.count());
        self.read(0, &mut numbers)?;
        Ok(numbers)
    }

    /// Writes as many as there is room for, from the one at `first` on.
    ///
    /// # Errors
    /// When they cannot be read, and when one is not finite.
    pub(crate) fn read(&self, first: usize, to: &mut [f32]) -> Result<(), LoadError> {
        let wrong = |reason: String| LoadError::new(&self.file.path, format!("tensor {:?} {reason}", self.name));
        let cannot_be_read = |error: &dyn std::fmt::Display| wrong(format!("cannot be read: {error}"));
        let mut at = self.bytes.start + first * self.width();
        let mut halves: Vec<u16> = Vec::new();
        for some in to.chunks_mut(CHUNK / size_of::<f32>()) {
            let mut read = |bytes: &mut [u8]| {
                let read = self.file.file.read_exact_at(bytes, at as u64);
                at += bytes.len();
                read.map_err(|error| cannot_be_read(&error))
            };
            if self.dtype == Dtype::F32 {
                read(bytemuck::cast_slice_mut(some))?;
                if cfg!(target_endian = "big") {
                    some.iter_mut().for_each(|number| *number = f32::from_bits(number.to_bits().swap_bytes()));
                }
            } else {
                halves.resize(some.len(), 0);
                read(bytemuck::cast_slice_mut(&mut halves))?;
                if self.dtype == Dtype::BF16 {
                    // The upper half of a 32-bit float.
                    let wide = halves.iter().map(|half| f32::from_bits(u32::from(u16::from_le(*half)) << 16));
                    some.iter_mut().zip(wide).for_each(|(number, wide)| *number = wide);
                } else {
                    let wide = widened(bytemuck::cast_slice(&halves)).map_err(|error| cannot_be_read(&error))?;
                    some.copy_from_slice(&wide);
                }
            }
            // While they are in a cache.
            if some.iter().fold(false, |is_broken, number| is_broken | !number.is_finite()) {
                return Err(wrong("has a number that is not finite".into()));
            }
        }
        Ok(())
    }

    /// As [`read`](Self::read), long after the file was opened.
    ///
    /// # Errors
    /// When the file has been written since, too.
    pub(crate) fn read_late(&self, first: usize, to: &mut [f32]) -> Result<(), LoadError> {
        self.read(first, to)?;
        let Named { path, file, identity } = &*self.file;
        match file.metadata() {
            Ok(metadata) if identity.was_not_written_since(&Identity::of(&metadata)) => Ok(()),
            Ok(_) => Err(LoadError::new(path, "was changed in place while its model ran")),
            Err(error) => Err(LoadError::new(path, format!("cannot be read: {error}"))),
        }
    }
}

/// Makes room for so many numbers, in huge pages if there are such.
fn grow(numbers: &mut Vec<f32>, count: usize) {
    numbers.clear();
    numbers.reserve_exact(count);
    in_huge_pages(numbers);
    numbers.resize(count, 0.0);
}

/// Bytes of a number of a kind that is read.
fn width(dtype: Dtype) -> Option<usize> {
    match dtype {
        Dtype::F32 => Some(4),
        Dtype::BF16 | Dtype::F16 => Some(2),
        _ => None,
    }
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

/// Maps a whole file read-only. Model files are the operator's, read-only to us, and installed by renaming, never rewritten in
/// place; the map lives only while a model loads, and tensors are copied out.
pub(crate) fn map(path: &Path, file: &File) -> Result<Mmap, LoadError> {
    mapped(file).map_err(|error| LoadError::new(path, format!("cannot be mapped: {error}")))
}
