//! What lies on a card: rows of numbers, and lists of indices.

use std::iter;

use crate::Precision;

/// Rows of numbers without gaps, on a card. Their room grows with what is written there, and is kept.
pub struct CardRows {
    pub(super) count: usize,
    pub(super) columns: usize,
    pub(super) precision: Precision,
    pub(super) memory: Memory,
}

/// Lists of indices on a card, and here as well: what an index leads to is checked before a card follows it.
#[derive(Default)]
pub struct CardIndices {
    pub(super) numbers: Vec<u32>,
    /// Where each list ends.
    ends: Vec<usize>,
    #[cfg(feature = "cuda")]
    pub(super) memory: Memory,
}

/// One of some lists of indices.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    pub(super) indices: &'a CardIndices,
    list: usize,
}

/// Where numbers lie.
#[derive(Default)]
pub(super) enum Memory {
    /// Nowhere yet.
    #[default]
    Nothing,
    /// On the processor, whatever precision they are rounded to.
    Plain(Vec<f32>),
    /// On an NVIDIA card.
    #[cfg(feature = "cuda")]
    Cuda(super::cuda::Buffer),
}

impl CardRows {
    pub(super) fn new(precision: Precision) -> Self {
        Self { count: 0, columns: 0, precision, memory: Memory::default() }
    }

    /// How many rows there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Columns of each.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes of one number.
    pub(super) fn number_bytes(&self) -> usize {
        if self.precision == Precision::Bf16 { 2 } else { 4 }
    }

    /// # Panics
    /// When it is not.
    pub(super) fn assert_one_row_of(&self, columns: usize, precision: Precision) {
        assert_eq!((self.count, self.columns, self.precision), (1, columns, precision), "one row for all");
    }

    /// How many texts these rows are, by where they begin.
    ///
    /// # Panics
    /// When one has no rows, or some that are not there.
    pub(super) fn assert_texts(&self, begins: Part<'_>) -> usize {
        let numbers = begins.numbers();
        assert!(numbers.windows(2).all(|ends| ends[0] < ends[1]), "a text without tokens");
        assert!(numbers.last().is_some_and(|end| *end as usize <= self.count), "rows of texts");
        numbers.len() - 1
    }
}

impl CardIndices {
    pub(super) fn replace(&mut self, lists: &[&[u32]]) {
        self.wait();
        self.numbers.clear();
        self.ends.clear();
        for list in lists {
            self.numbers.extend_from_slice(list);
            self.ends.push(self.numbers.len());
        }
    }

    /// A card may read the numbers here until it has done what was begun.
    fn wait(&self) {
        #[cfg(feature = "cuda")]
        if let Memory::Cuda(buffer) = &self.memory {
            buffer.wait();
        }
    }

    /// The list of this place.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn part(&self, list: usize) -> Part<'_> {
        assert!(list < self.ends.len(), "no list {list} of {}", self.ends.len());
        Part { indices: self, list }
    }
}

impl Drop for CardIndices {
    fn drop(&mut self) {
        self.wait();
    }
}

impl<'a> Part<'a> {
    /// Where it begins among all lists.
    pub(super) fn begin(self) -> usize {
        self.list.checked_sub(1).map_or(0, |before| self.indices.ends[before])
    }

    pub(super) fn numbers(self) -> &'a [u32] {
        &self.indices.numbers[self.begin()..self.indices.ends[self.list]]
    }

    /// How far each number is from the one before it.
    pub(super) fn lengths(self) -> impl Iterator<Item = usize> {
        self.numbers().windows(2).map(|ends| (ends[1] - ends[0]) as usize)
    }
}

impl Memory {
    /// Numbers on the processor.
    ///
    /// # Panics
    /// When they lie on a card.
    pub(super) fn plain(&self) -> &[f32] {
        match self {
            Self::Plain(numbers) => numbers,
            _ => panic!("numbers of another card"),
        }
    }

    /// Room for so many numbers on the processor, which hold what was there.
    pub(super) fn plain_mut(&mut self, count: usize) -> &mut [f32] {
        if !matches!(self, Self::Plain(_)) {
            *self = Self::Plain(Vec::new());
        }
        match self {
            Self::Plain(numbers) => {
                numbers.extend(iter::repeat_n(0.0, count.saturating_sub(numbers.len())));
                &mut numbers[..count]
            }
            _ => panic!("numbers of another card"),
        }
    }
}
