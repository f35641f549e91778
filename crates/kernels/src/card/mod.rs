//! The steps of a text encoder where a card computes them: products, and between them few steps of much work each, over rows of texts
//! that lie one after the other without padding. [`Card::open`] is an NVIDIA card, with feature `cuda`; [`Card::plain`] takes the same
//! steps in plain loops on the processor, slowly: what is built on them can be tested without a card, and a card compared with it.
//!
//! A card only begins what a call asks for; [`Card::read`] and [`Card::synchronize`] wait, so their errors may be of earlier steps.

#[cfg(feature = "cuda")]
mod cuda;
mod memory;
mod plain;
mod steps;
#[cfg(test)]
mod tests;

use std::{error, fmt};

pub use self::memory::{CardIndices, CardRows, Part};
use self::{
    plain::Plain,
    steps::{Attend, Means, Steps, Term},
};
use crate::{Activation, Precision};

/// The most columns that one head of [`Card::attention`] may have.
pub const WIDEST_HEAD: usize = 128;

/// Memory is taken in multiples of so many bytes: where it changes with batches, so that those of about one size find room that was there,
/// and where it stays.
const PAGE: usize = 1 << 20;
const ALIGNED: usize = 256;

/// What computes. Threads may share it, but one at a time asks for steps: what another asks for while [`repeat`](Self::repeat) looks at
/// steps would be taken for one of them.
pub struct Card {
    steps: Box<dyn Steps>,
}

/// Why a card did not compute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CardError {
    /// Whether it has too little free memory; else something is broken.
    pub is_out_of_memory: bool,
    /// What CUDA says of it.
    pub reason: String,
}

impl fmt::Display for CardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl error::Error for CardError {}

type Result<T> = std::result::Result<T, CardError>;

/// What [`Card::finish`] takes of each number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// One of the functions between products.
    By(Activation),
    /// The hyperbolic tangent.
    Tanh,
}

/// A layer norm's parameters.
pub struct CardNorm {
    /// What each column is multiplied with after the norm: one row.
    pub weight: CardRows,
    /// What is added to each column at the end: one row.
    pub bias: CardRows,
    /// Added to the variance.
    pub epsilon: f32,
}

/// The heads of an attention.
#[derive(Clone, Copy)]
pub struct Heads<'a> {
    /// How many; each is as wide as its share of the columns.
    pub count: usize,
    /// What is added to scores by how far a key stands from its query, if anything: a row in f32 for each head, of as many numbers left of
    /// the middle one, where both are one token, as right of it.
    pub by_distance: Option<&'a CardRows>,
}

impl Card {
    /// No card: the same steps on the processor.
    #[must_use]
    pub fn plain() -> Self {
        Self { steps: Box::new(Plain) }
    }

    /// How many NVIDIA cards the machine has.
    ///
    /// # Errors
    /// When there is no driver, or it does not start.
    #[cfg(feature = "cuda")]
    pub fn count() -> Result<usize> {
        cuda::count()
    }

    /// The NVIDIA card of this index, as the driver counts them, with a stream of work of its own. Kernels are compiled for it, once in
    /// a process.
    ///
    /// # Errors
    /// When there is no such card, and when the driver or a library of CUDA's is missing or does not work.
    #[cfg(feature = "cuda")]
    pub fn open(index: usize) -> Result<Self> {
        Ok(Self { steps: Box::new(cuda::Cuda::open(index)?) })
    }

    /// What it computes in where this is asked for: cards before compute capability 8.0 have no bf16, and none has whole numbers of 8 bits.
    #[must_use]
    pub fn precision(&self, asked: Precision) -> Precision {
        if asked == Precision::Bf16 && self.steps.has_bf16() { Precision::Bf16 } else { Precision::F32 }
    }

    /// Bytes of its memory that are free; `None` for the processor, which is not asked.
    ///
    /// # Errors
    /// When the card fails.
    pub fn free_bytes(&self) -> Result<Option<u64>> {
        self.steps.free_bytes()
    }

    /// Waits until all that was begun has ended.
    ///
    /// # Errors
    /// When some of it failed.
    pub fn synchronize(&self) -> Result<()> {
        self.steps.synchronize()
    }

    /// No rows yet, of numbers that are kept so.
    ///
    /// # Panics
    /// When the card does not compute in this precision.
    #[must_use]
    pub fn empty(&self, precision: Precision) -> CardRows {
        assert_eq!(self.precision(precision), precision, "no precision of the card's");
        CardRows::new(precision)
    }

    /// Rows of these numbers, one after the other, rounded to the precision.
    ///
    /// # Errors
    /// When the card has no room for them, or fails.
    ///
    /// # Panics
    /// When that is no whole number of rows, and as [`empty`](Self::empty).
    pub fn rows(&self, precision: Precision, numbers: &[f32], columns: usize) -> Result<CardRows> {
        assert!(numbers.len().is_multiple_of(columns), "{} numbers in rows of {columns}", numbers.len());
        let mut rows = self.empty(precision);
        self.take(&mut rows, (numbers.len() / columns, columns), ALIGNED)?;
        self.steps.write(numbers, &mut rows)?;
        Ok(rows)
    }

    /// Room for so many rows, whatever it held before.
    ///
    /// # Errors
    /// When the card has too little; then there are no rows.
    pub fn make(&self, rows: &mut CardRows, count: usize, columns: usize) -> Result<()> {
        self.take(rows, (count, columns), PAGE)
    }

    fn take(&self, rows: &mut CardRows, (count, columns): (usize, usize), multiple: usize) -> Result<()> {
        rows.count = 0;
        let bytes = count * columns * rows.number_bytes();
        self.steps.reserve(&mut rows.memory, bytes, multiple)?;
        (rows.count, rows.columns) = (count, columns);
        Ok(())
    }

    /// Replaces lists of indices, all at once.
    ///
    /// # Errors
    /// When the card has no room for them, or fails; then there are no lists.
    pub fn write_indices(&self, lists: &[&[u32]], indices: &mut CardIndices) -> Result<()> {
        indices.replace(lists);
        let written = self.steps.write_indices(indices);
        if written.is_err() {
            indices.replace(&[]);
        }
        written
    }

    /// The numbers of rows in f32, once all that was begun has ended.
    ///
    /// # Errors
    /// When the card fails, or something that was begun did.
    ///
    /// # Panics
    /// When they are not in f32.
    pub fn read(&self, rows: &CardRows) -> Result<Vec<f32>> {
        assert_eq!(rows.precision, Precision::F32, "numbers to read");
        self.steps.read(rows)
    }

    /// Writes the product of each row of `x` with each row of `weights` to `y`; sums are in f32, and f32 is multiplied as such.
    ///
    /// # Errors
    /// When the card fails, or has no room for the result.
    ///
    /// # Panics
    /// When columns or precisions differ.
    pub fn multiply(&self, x: &CardRows, weights: &CardRows, y: &mut CardRows) -> Result<()> {
        assert_eq!(x.columns, weights.columns, "columns of a product");
        assert!(x.precision == weights.precision && x.precision == y.precision, "precisions of a product");
        self.make(y, x.count, weights.count)?;
        self.steps.multiply(x, weights, y)
    }

    /// Adds `bias`, one row, to each row of `y`, then takes the function of each number.
    ///
    /// # Errors
    /// When the card fails.
    ///
    /// # Panics
    /// When columns or precisions differ.
    pub fn finish(&self, y: &mut CardRows, bias: &CardRows, finish: Finish) -> Result<()> {
        bias.assert_one_row_of(y.columns, y.precision);
        self.steps.finish(y, bias, finish)
    }

    /// Writes the layer norm of each row of `x + residual + bias`, of which `bias` is one row for all, to `y`.
    ///
    /// # Errors
    /// When the card fails, or has no room for the result.
    ///
    /// # Panics
    /// When shapes or precisions differ.
    pub fn add_norm(
        &self,
        x: &CardRows,
        residual: &CardRows,
        bias: &CardRows,
        norm: &CardNorm,
        y: &mut CardRows,
    ) -> Result<()> {
        assert_eq!(x.count, residual.count, "rows of a residual");
        bias.assert_one_row_of(x.columns, x.precision);
        self.norm(x.count, [Some(Term::Each(x)), Some(Term::Each(residual)), Some(Term::One(bias))], norm, y)
    }

    /// Writes the layer norm of each sum of rows of two or three tables, chosen by lists of one length, to `y`.
    ///
    /// # Errors
    /// When the card fails, or has no room for the result.
    ///
    /// # Panics
    /// When there are not two or three, a table lacks a row that is chosen, and when shapes or precisions differ.
    pub fn embed(&self, tables: &[(&CardRows, Part<'_>)], norm: &CardNorm, y: &mut CardRows) -> Result<()> {
        assert!((2..=3).contains(&tables.len()), "{} tables", tables.len());
        let count = tables[0].1.numbers().len();
        for (table, chosen) in tables {
            assert_eq!(chosen.numbers().len(), count, "indices of a table");
            assert!(chosen.numbers().iter().all(|row| (*row as usize) < table.count), "no row of a table");
        }
        let term = |place: usize| tables.get(place).map(|(table, chosen)| Term::Chosen(table, *chosen));
        self.norm(count, [term(0), term(1), term(2)], norm, y)
    }

    fn norm(&self, count: usize, sum: [Option<Term<'_>>; 3], norm: &CardNorm, y: &mut CardRows) -> Result<()> {
        let columns = norm.weight.columns;
        for rows in sum.iter().flatten().map(|term| term.rows()) {
            assert!(rows.columns == columns && rows.precision == y.precision, "columns and precisions of a norm");
        }
        norm.weight.assert_one_row_of(columns, y.precision);
        norm.bias.assert_one_row_of(columns, y.precision);
        self.make(y, count, columns)?;
        if count > 0 { self.steps.norm(sum, norm, y) } else { Ok(()) }
    }

    /// Writes the mean of the rows of each text to `y`, in f32. Texts begin where `begins` says, one after the other, and it ends with where
    /// the last one ends.
    ///
    /// # Errors
    /// When the card fails, or has no room for the result.
    ///
    /// # Panics
    /// When a text has no rows or some that `x` lacks, and when `y` is not in f32.
    pub fn means(&self, x: &CardRows, begins: Part<'_>, y: &mut CardRows) -> Result<()> {
        let count = x.assert_texts(begins);
        self.pool(x, Means::OfTexts(begins), count, y)
    }

    /// Writes the first row of each text to `y`, in f32; the rest as for [`means`](Self::means).
    ///
    /// # Errors
    /// As [`means`](Self::means).
    ///
    /// # Panics
    /// As [`means`](Self::means).
    pub fn firsts(&self, x: &CardRows, begins: Part<'_>, y: &mut CardRows) -> Result<()> {
        let count = x.assert_texts(begins);
        self.pool(x, Means::Firsts(begins), count, y)
    }

    /// Writes rows to `y` as they are, but in f32.
    ///
    /// # Errors
    /// When the card fails, or has no room for the result.
    ///
    /// # Panics
    /// When `y` is not in f32.
    pub fn widen(&self, x: &CardRows, y: &mut CardRows) -> Result<()> {
        self.pool(x, Means::Each, x.count, y)
    }

    fn pool(&self, x: &CardRows, means: Means<'_>, count: usize, y: &mut CardRows) -> Result<()> {
        assert_eq!(y.precision, Precision::F32, "means");
        self.make(y, count, x.columns)?;
        if count > 0 { self.steps.means(x, means, y) } else { Ok(()) }
    }

    /// Writes the attention of each head, side by side, to `y`: rows of a text attend to the rows of that text. `states` are rows of
    /// queries, keys and values, of all heads each, without their `bias`, which is one such row. Texts lie as for [`means`](Self::means). Scores
    /// are divided by the root of the heads' width.
    ///
    /// # Errors
    /// When the card fails, or has no room for the result.
    ///
    /// # Panics
    /// When shapes do not fit each other, a head is wider than [`WIDEST_HEAD`], and when a text is longer than `by_distance` reaches.
    pub fn attention(
        &self,
        states: &CardRows,
        bias: &CardRows,
        begins: Part<'_>,
        heads: Heads<'_>,
        y: &mut CardRows,
    ) -> Result<()> {
        let inner = states.columns / 3;
        assert!(states.columns == 3 * inner && inner.is_multiple_of(heads.count), "columns of an attention");
        assert!(inner / heads.count <= WIDEST_HEAD, "a head of {} columns", inner / heads.count);
        assert_eq!(states.precision, y.precision, "precisions of an attention");
        bias.assert_one_row_of(states.columns, states.precision);
        states.assert_texts(begins);
        let longest = begins.lengths().max().unwrap_or_default();
        if let Some(by_distance) = heads.by_distance {
            let fits = by_distance.count == heads.count && longest <= by_distance.columns / 2 + 1;
            assert!(fits && by_distance.columns % 2 == 1, "numbers by distance for texts of {longest}");
            assert_eq!(by_distance.precision, Precision::F32, "numbers by distance");
        }
        self.make(y, states.count, inner)?;
        if longest == 0 {
            return Ok(());
        }
        self.steps.attention(Attend { states, bias, begins, heads, width: inner / heads.count }, y)
    }

    /// Takes steps that are the same again and again, apart from what numbers and indices are: a card records them, and begins all at
    /// once from the third time on. What is so little work that it would mostly wait to be begun is worth it; a card keeps a few
    /// recordings. `steps` may be called up to three times, writes nothing but rows, reads nothing from the card, opens and drops none, repeats
    /// nothing itself, and says whether it went to its end, as this does. Meanwhile no other thread asks for steps of this card.
    ///
    /// # Errors
    /// Those of the steps, and when the card fails.
    pub fn repeat(&self, mut steps: impl FnMut() -> Result<bool>) -> Result<bool> {
        self.steps.repeat(&mut steps)
    }
}
