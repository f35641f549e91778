//! What every card must do. What it is asked for has been checked.

use super::{CardIndices, CardNorm, CardRows, Finish, Heads, Part, Result, memory::Memory};

/// Of each row of a sum, a row.
#[derive(Clone, Copy)]
pub(super) enum Term<'a> {
    /// The one of the same place.
    Each(&'a CardRows),
    /// The one of this index.
    Chosen(&'a CardRows, Part<'a>),
    /// The only one.
    One(&'a CardRows),
}

impl<'a> Term<'a> {
    pub(super) fn rows(self) -> &'a CardRows {
        match self {
            Self::Each(rows) | Self::Chosen(rows, _) | Self::One(rows) => rows,
        }
    }
}

/// Whose means are taken.
#[derive(Clone, Copy)]
pub(super) enum Means<'a> {
    /// Of all rows of each text.
    OfTexts(Part<'a>),
    /// Of the first row of each text alone.
    Firsts(Part<'a>),
    /// Of each row alone.
    Each,
}

/// What attention is taken of.
#[derive(Clone, Copy)]
pub(super) struct Attend<'a> {
    pub(super) states: &'a CardRows,
    pub(super) bias: &'a CardRows,
    pub(super) begins: Part<'a>,
    pub(super) heads: Heads<'a>,
    /// Columns of a head.
    pub(super) width: usize,
}

/// The steps of [`Card`](super::Card), as it describes them.
pub(super) trait Steps: Send + Sync {
    fn has_bf16(&self) -> bool;

    fn free_bytes(&self) -> Result<Option<u64>>;

    fn synchronize(&self) -> Result<()>;

    /// Sees that memory has so many bytes at least; what is taken anew is a multiple.
    fn reserve(&self, memory: &mut Memory, bytes: usize, multiple: usize) -> Result<()>;

    /// Writes as many numbers as the rows have.
    fn write(&self, numbers: &[f32], to: &mut CardRows) -> Result<()>;

    /// Brings all lists to where steps read them, perhaps later: until then they stay as they are.
    fn write_indices(&self, indices: &mut CardIndices) -> Result<()>;

    fn read(&self, rows: &CardRows) -> Result<Vec<f32>>;

    fn multiply(&self, x: &CardRows, weights: &CardRows, y: &mut CardRows) -> Result<()>;

    fn finish(&self, y: &mut CardRows, bias: &CardRows, finish: Finish) -> Result<()>;

    fn norm(&self, sum: [Option<Term<'_>>; 3], norm: &CardNorm, y: &mut CardRows) -> Result<()>;

    fn means(&self, x: &CardRows, means: Means<'_>, y: &mut CardRows) -> Result<()>;

    fn attention(&self, input: Attend<'_>, y: &mut CardRows) -> Result<()>;

    /// Takes steps that may have been taken before.
    fn repeat(&self, steps: &mut dyn FnMut() -> Result<bool>) -> Result<bool>;
}
