//! The header of a GGUF file (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3), read strictly.

use std::{collections::BTreeMap, ops::Range};

use candle_core::quantized::GgmlDType;

use super::{cursor::Cursor, value::Value};

pub(super) const MAGIC: &[u8] = b"GGUF";

/// The longest header, in bytes; those of published models stay far below.
const LONGEST_HEADER: usize = 64 << 20;
const MOST_TENSORS: usize = 1 << 16;
const MOST_VALUES: usize = 1 << 12;
/// The longest name of a value or a tensor, in bytes.
const LONGEST_NAME: usize = 256;
const MOST_DIMENSIONS: u32 = 4;

/// Where tensors begin, unless the file says otherwise: at multiples of so many bytes.
const ALIGNMENT: usize = 32;
/// What the file may say; the least is enough for the widest number in any block.
const ALIGNMENTS: Range<usize> = 8..(1 << 16) + 1;

/// All that stands before the tensors.
pub(super) struct Header {
    pub(super) metadata: BTreeMap<String, Value>,
    /// Where each of them stands in the file with its name, in the file's order.
    pub(super) values: Vec<(String, Range<usize>)>,
    /// Tensors begin at multiples of so many bytes.
    pub(super) alignment: usize,
    pub(super) tensors: BTreeMap<String, Tensor>,
}

/// Where a tensor lies, and how it is stored.
pub(super) struct Tensor {
    pub(super) kind: GgmlDType,
    /// Rows first; the file has it the other way round.
    pub(super) shape: Vec<usize>,
    /// Its bytes in the file.
    pub(super) range: Range<usize>,
}

impl Tensor {
    pub(super) fn numbers(&self) -> u64 {
        // Checked to fit when the header was read.
        self.shape.iter().map(|side| *side as u64).product()
    }
}

impl Header {
    /// Reads it from the bytes of a whole file.
    ///
    /// # Errors
    /// Says what is wrong.
    pub(super) fn read(file: &[u8]) -> Result<Self, String> {
        let mut cursor = Cursor::new(&file[..file.len().min(LONGEST_HEADER)]);
        if cursor.take(MAGIC.len())? != MAGIC {
            return Err("does not begin with GGUF".into());
        }
        match cursor.number(u32::from_le_bytes)? {
            2 | 3 => {}
            other => return Err(format!("version {other} (or big-endian); 2 and 3 are read")),
        }
        let tensors = cursor.count(MOST_TENSORS, "tensors")?;
        let values = cursor.count(MOST_VALUES, "values")?;
        let (mut metadata, mut places) = (BTreeMap::new(), Vec::new());
        for _ in 0..values {
            let begin = cursor.position();
            let name = cursor.text(LONGEST_NAME)?;
            let value = Value::read(&mut cursor).map_err(|reason| format!("{name:?}: {reason}"))?;
            places.push((name.to_owned(), begin..cursor.position()));
            if metadata.insert(name.to_owned(), value).is_some() {
                return Err(format!("says {name:?} twice"));
            }
        }
        let alignment = alignment(&metadata)?;
        let stated: Vec<_> = (0..tensors).map(|_| Stated::read(&mut cursor)).collect::<Result<_, _>>()?;
        let start = cursor.position().next_multiple_of(alignment);
        let mut found = BTreeMap::new();
        for tensor in &stated {
            if found.insert(tensor.name.to_owned(), tensor.place(start, alignment, file.len())?).is_some() {
                return Err(format!("has tensor {:?} twice", tensor.name));
            }
        }
        refuse_overlaps(&found)?;
        Ok(Self { metadata, values: places, alignment, tensors: found })
    }
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<usize, String> {
    let Some(value) = metadata.get("general.alignment") else { return Ok(ALIGNMENT) };
    let alignment = value.count().filter(|alignment| alignment.is_power_of_two() && ALIGNMENTS.contains(alignment));
    alignment.ok_or_else(|| format!("general.alignment is {value:?}; powers of two from 8 to 65536 are read"))
}

/// A tensor as the header states it.
struct Stated<'a> {
    name: &'a str,
    /// Columns first.
    sides: Vec<u64>,
    kind: u32,
    offset: u64,
}

impl<'a> Stated<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Result<Self, String> {
        let name = cursor.text(LONGEST_NAME)?;
        let dimensions = cursor.number(u32::from_le_bytes)?;
        if dimensions == 0 || dimensions > MOST_DIMENSIONS {
            return Err(format!("tensor {name:?} has {dimensions} dimensions; 1 to {MOST_DIMENSIONS} are read"));
        }
        let sides = (0..dimensions).map(|_| cursor.number(u64::from_le_bytes)).collect::<Result<_, _>>()?;
        let kind = cursor.number(u32::from_le_bytes)?;
        Ok(Self { name, sides, kind, offset: cursor.number(u64::from_le_bytes)? })
    }

    /// Where it lies in a file of `length` bytes whose tensors begin at `start`.
    fn place(&self, start: usize, alignment: usize, length: usize) -> Result<Tensor, String> {
        let wrong = |reason: &str| format!("tensor {:?} {reason}", self.name);
        let kind =
            kind(self.kind).ok_or_else(|| wrong(&format!("is stored as kind {}, which is not read", self.kind)))?;
        let huge = || wrong(&format!("has sides {:?}, more than any file holds", self.sides));
        let sides = self.sides.iter().map(|side| usize::try_from(*side).ok().filter(|side| *side > 0));
        let mut shape = sides.collect::<Option<Vec<_>>>().ok_or_else(huge)?;
        let columns = shape[0];
        shape.reverse();
        let numbers = shape.iter().try_fold(1_usize, |product, side| product.checked_mul(*side)).ok_or_else(huge)?;
        if !columns.is_multiple_of(kind.block_size()) {
            return Err(wrong(&format!("has {columns} columns, no multiple of {}", kind.block_size())));
        }
        let bytes = (numbers / kind.block_size()).checked_mul(kind.type_size()).ok_or_else(huge)?;
        let offset = usize::try_from(self.offset).ok().filter(|offset| offset.is_multiple_of(alignment));
        let offset = offset.ok_or_else(|| wrong(&format!("begins at {}, no multiple of {alignment}", self.offset)))?;
        let begin = start.checked_add(offset).ok_or_else(huge)?;
        let end = begin.checked_add(bytes).filter(|end| *end <= length);
        let end = end.ok_or_else(|| wrong(&format!("of {bytes} bytes at {begin} lies outside the file")))?;
        Ok(Tensor { kind, shape, range: begin..end })
    }
}

fn refuse_overlaps(tensors: &BTreeMap<String, Tensor>) -> Result<(), String> {
    let mut places: Vec<_> = tensors.iter().map(|(name, tensor)| (&tensor.range, name)).collect();
    places.sort_by_key(|(range, _)| range.start);
    match places.windows(2).find(|pair| pair[0].0.end > pair[1].0.start) {
        Some(pair) => Err(format!("tensors {:?} and {:?} overlap", pair[0].1, pair[1].1)),
        None => Ok(()),
    }
}

/// The kinds that are read, with their numbers in files (`ggml_type` of ggml.h).
const KINDS: [(u32, GgmlDType); 13] = [
    (0, GgmlDType::F32),
    (1, GgmlDType::F16),
    (2, GgmlDType::Q4_0),
    (3, GgmlDType::Q4_1),
    (6, GgmlDType::Q5_0),
    (7, GgmlDType::Q5_1),
    (8, GgmlDType::Q8_0),
    (10, GgmlDType::Q2K),
    (11, GgmlDType::Q3K),
    (12, GgmlDType::Q4K),
    (13, GgmlDType::Q5K),
    (14, GgmlDType::Q6K),
    (30, GgmlDType::BF16),
];

fn kind(number: u32) -> Option<GgmlDType> {
    KINDS.into_iter().find(|(known, _)| *known == number).map(|(_, kind)| kind)
}

/// The number of a kind in files; `None` for one that is not read.
pub(super) fn number(kind: GgmlDType) -> Option<u32> {
    KINDS.into_iter().find(|(_, known)| *known == kind).map(|(number, _)| number)
}
