//! Views of row-major matrices whose rows may lie further apart than they are long.

use std::{marker::PhantomData, ops::Range};

/// Rows to read. `stride` numbers lie from the beginning of one row to that of the next (BLAS's leading dimension).
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    stride: usize,
}

/// Rows to write. Can be cut into parts that do not overlap, for several threads.
#[derive(Debug)]
pub struct RowsMut<'a> {
    // Not a slice: the parts of a view cut by columns interleave in memory. Only the first `columns` numbers of each row
    // belong to the view.
    data: *mut f32,
    rows: usize,
    columns: usize,
    stride: usize,
    borrowed: PhantomData<&'a mut [f32]>,
}

// SAFETY: a view is the exclusive borrow of its numbers, as `&mut [f32]` is, which may go to another thread.
unsafe impl Send for RowsMut<'_> {}

// SAFETY: a shared view gives out nothing but its shape.
unsafe impl Sync for RowsMut<'_> {}

/// Panics unless so many numbers hold the rows.
fn check(length: usize, rows: usize, columns: usize, stride: usize) {
    assert!(stride >= columns, "rows of {columns} columns cannot begin every {stride} numbers");
    let needed = match rows.checked_sub(1) {
        Some(before) if columns > 0 => before.checked_mul(stride).and_then(|begin| begin.checked_add(columns)),
        _ => Some(0),
    };
    assert!(
        needed.is_some_and(|needed| needed <= length),
        "{length} numbers are too few for {rows} rows of {columns} columns that begin every {stride}"
    );
}

impl<'a> Rows<'a> {
    /// Views `data` as so many rows.
    ///
    /// # Panics
    /// When `data` is too short, or rows overlap.
    #[must_use]
    pub fn new(data: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        check(data.len(), rows, columns, stride);
        Self { data, rows, columns, stride }
    }

    /// How many rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many columns.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The numbers of one row.
    ///
    /// # Panics
    /// When there is no such row.
    #[must_use]
    pub fn row(&self, row: usize) -> &'a [f32] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        if self.columns == 0 { &[] } else { &self.data[row * self.stride..][..self.columns] }
    }

    /// Some of the columns.
    ///
    /// # Panics
    /// When there are no such columns.
    #[must_use]
    pub fn columns_in(&self, columns: Range<usize>) -> Self {
        assert!(columns.start <= columns.end && columns.end <= self.columns, "columns {columns:?} of {}", self.columns);
        let begin = columns.start.min(self.data.len());
        Self { data: &self.data[begin..], columns: columns.len(), ..*self }
    }

    /// Some of the rows.
    ///
    /// # Panics
    /// When there are no such rows.
    #[must_use]
    pub fn rows_in(&self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        let begin = rows.start.saturating_mul(self.stride).min(self.data.len());
        Self { data: &self.data[begin..], rows: rows.len(), ..*self }
    }

    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// Where the rows begin: row `r` and its `columns` numbers lie `r * stride` further.
    pub(crate) fn as_ptr(&self) -> *const f32 {
        self.data.as_ptr()
    }
}

impl<'a> RowsMut<'a> {
    /// Views `data` as so many rows.
    ///
    /// # Panics
    /// When `data` is too short, or rows overlap.
    #[must_use]
    pub fn new(data: &'a mut [f32], rows: usize, columns: usize, stride: usize) -> Self {
        check(data.len(), rows, columns, stride);
        Self { data: data.as_mut_ptr(), rows, columns, stride, borrowed: PhantomData }
    }

    /// How many rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many columns.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The same view for a shorter time.
    #[must_use]
    pub fn reborrow(&mut self) -> RowsMut<'_> {
        RowsMut { data: self.data, rows: self.rows, columns: self.columns, stride: self.stride, borrowed: PhantomData }
    }

    /// The first rows, and the others.
    ///
    /// # Panics
    /// When there are fewer rows.
    #[must_use]
    pub fn split_rows(self, at: usize) -> (Self, Self) {
        assert!(at <= self.rows, "row {at} of {}", self.rows);
        // Past the last row, and where rows are empty, there may be no memory to point to.
        let begin = if at < self.rows && self.columns > 0 { at * self.stride } else { 0 };
        // SAFETY: row `at` exists and has numbers, so it begins within the borrowed ones (or the offset is 0).
        let data = unsafe { self.data.add(begin) };
        (Self { rows: at, ..self }, Self { data, rows: self.rows - at, ..self })
    }

    /// The first columns of every row, and the others.
    ///
    /// # Panics
    /// When there are fewer columns.
    #[must_use]
    pub fn split_columns(self, at: usize) -> (Self, Self) {
        assert!(at <= self.columns, "column {at} of {}", self.columns);
        let begin = if self.rows > 0 { at } else { 0 };
        // SAFETY: the first row, where there is one, has at least `at` numbers.
        let data = unsafe { self.data.add(begin) };
        (Self { columns: at, ..self }, Self { data, columns: self.columns - at, ..self })
    }

    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// Where the rows begin: row `r` and its `columns` numbers lie `r * stride` further.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.data
    }
}
