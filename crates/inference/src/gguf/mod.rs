//! GGUF files: mapped read-only, their header checked in full before anything it says is believed.

mod cursor;
mod header;
pub(crate) mod levels;
#[cfg(test)]
pub(crate) mod tests;
mod value;
mod write;

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use candle_core::{
    Device,
    quantized::{GgmlDType, QStorage, QTensor},
};
use memmap2::Mmap;

use self::header::{Header, Tensor};
use crate::{LoadError, map};

pub(crate) use self::{
    value::Value,
    write::{Change, Outline},
};

/// A mapped GGUF file whose header fits the file.
pub(crate) struct Gguf {
    path: PathBuf,
    map: Mmap,
    header: Header,
}

impl Gguf {
    /// Maps the file and checks its header: counts, lengths and kinds, and that tensors lie inside the file without overlaps, each
    /// with as many bytes as its shape says. What the header states is never allocated before the file is known to hold it.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub(crate) fn open(path: &Path) -> Result<Self, LoadError> {
        let map = map::map(path, &map::open(path)?)?;
        let header = Header::read(&map).map_err(|reason| LoadError::new(path, format!("not sound GGUF: {reason}")))?;
        Ok(Self { path: path.to_owned(), map, header })
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What is wrong with this file.
    pub(crate) fn wrong(&self, reason: impl Into<String>) -> LoadError {
        LoadError::new(&self.path, reason)
    }

    /// The names of all that is said of the model.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.header.metadata.keys().map(String::as_str)
    }

    /// What is said of the model under this name, as `read` takes it; `None` where nothing is.
    ///
    /// # Errors
    /// When it is of another kind.
    pub(crate) fn find<'a, T>(
        &'a self,
        key: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, LoadError> {
        let Some(value) = self.header.metadata.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| self.wrong(format!("{key} is {}, which it cannot be", value.kind())))
    }

    /// The same, where it must be there.
    ///
    /// # Errors
    /// When it is missing or of another kind.
    pub(crate) fn need<'a, T>(&'a self, key: &str, read: impl FnOnce(&'a Value) -> Option<T>) -> Result<T, LoadError> {
        self.find(key, read)?.ok_or_else(|| self.wrong(format!("{key} is missing")))
    }

    /// The names of all tensors.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &str> {
        self.header.tensors.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    pub(crate) fn has_tensor(&self, name: &str) -> bool {
        self.header.tensors.contains_key(name)
    }

    /// The rows and columns of a matrix.
    ///
    /// # Errors
    /// When there is no such tensor, or one of other than two dimensions.
    pub(crate) fn sides(&self, name: &str) -> Result<(usize, usize), LoadError> {
        match self.tensor(name)?.shape[..] {
            [rows, columns] => Ok((rows, columns)),
            ref shape => Err(self.wrong(format!("tensor {name:?} has shape {shape:?}; a matrix is needed"))),
        }
    }

    /// The name, the kind and the shape (rows first) of each tensor, in the file's order.
    pub(crate) fn stored(&self) -> Vec<(&str, GgmlDType, &[usize])> {
        let mut tensors: Vec<_> = self.header.tensors.iter().collect();
        tensors.sort_by_key(|(_, tensor)| tensor.range.start);
        tensors.into_iter().map(|(name, tensor)| (name.as_str(), tensor.kind, tensor.shape.as_slice())).collect()
    }

    /// How many numbers its tensors hold.
    pub(crate) fn parameters(&self) -> u64 {
        self.header.tensors.values().map(Tensor::numbers).sum()
    }

    /// The most bytes of memory that its tensors take: matrices of blocks as they are packed, all others as 32-bit floats. The
    /// embeddings are kept as they are, and packed where there is no matrix of their own for the last product.
    pub(crate) fn weight_bytes(&self) -> u64 {
        let has_output = self.has_tensor("output.weight");
        let bytes = self.header.tensors.iter().map(|(name, tensor)| {
            let is_embeddings = name == "token_embd.weight";
            let packed = match (levels::form(tensor.kind), &tensor.shape[..]) {
                (Some(form), [outputs, inputs]) => form.most_bytes(*outputs as u64, *inputs as u64),
                _ => tensor.numbers().saturating_mul(4),
            };
            let as_it_is = if is_embeddings { tensor.range.len() as u64 } else { 0 };
            if is_embeddings && has_output { as_it_is } else { as_it_is.saturating_add(packed) }
        });
        bytes.fold(0, u64::saturating_add)
    }

    /// The bytes of a tensor, as they are in the file.
    ///
    /// # Errors
    /// When there is no such tensor.
    pub(crate) fn bytes(&self, name: &str) -> Result<&[u8], LoadError> {
        self.tensor(name).map(|tensor| &self.map[tensor.range.clone()])
    }

    /// The kind of a tensor, and its bytes.
    ///
    /// # Errors
    /// When there is no such tensor, or one of another shape (rows first).
    pub(crate) fn stored_as(&self, name: &str, shape: &[usize]) -> Result<(GgmlDType, &[u8]), LoadError> {
        let tensor = self.tensor(name)?;
        if tensor.shape != shape {
            let reason = format!("tensor {name:?} has shape {:?}; the architecture needs {shape:?}", tensor.shape);
            return Err(self.wrong(reason));
        }
        Ok((tensor.kind, &self.map[tensor.range.clone()]))
    }

    /// A tensor as it is stored, copied out of the map.
    ///
    /// # Errors
    /// When there is no such tensor, or one of another shape (rows first).
    pub(crate) fn blocks(&self, name: &str, shape: &[usize]) -> Result<QTensor, LoadError> {
        let (kind, bytes) = self.stored_as(name, shape)?;
        let blocks = kind.from_data(Cow::Borrowed(bytes));
        QTensor::new(QStorage::Cpu(blocks), shape).map_err(|error| self.unreadable(name, &error))
    }

    /// A tensor's numbers, which must be finite.
    ///
    /// # Errors
    /// When there is no such tensor, or one of another shape (rows first), or a number is not finite.
    pub(crate) fn numbers(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        let numbers = self.blocks(name, shape)?.dequantize(&Device::Cpu);
        let numbers = numbers.and_then(|numbers| numbers.flatten_all()?.to_vec1::<f32>());
        let numbers = numbers.map_err(|error| self.unreadable(name, &error))?;
        if numbers.iter().any(|number| !number.is_finite()) {
            return Err(self.wrong(format!("tensor {name:?} has a number that is not finite")));
        }
        Ok(numbers)
    }

    fn unreadable(&self, name: &str, error: &candle_core::Error) -> LoadError {
        self.wrong(format!("tensor {name:?} cannot be read: {error}"))
    }

    fn tensor(&self, name: &str) -> Result<&Tensor, LoadError> {
        self.header.tensors.get(name).ok_or_else(|| self.wrong(format!("tensor {name:?} is missing")))
    }
}

pub(crate) fn is_float(kind: GgmlDType) -> bool {
    matches!(kind, GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16)
}
