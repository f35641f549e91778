//! The table of words: an embedding for each token of the vocabulary, and half of a small encoder's weights. Texts need few of its rows, so
//! where an earlier start has checked the file, rows are read when a text first needs them, until all are there.

use std::{
    mem,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{LoadError, map::Numbers, transformer::Tensors};

/// Rows that are read together.
const TOGETHER: usize = 64;

/// The table of words, whole or growing.
pub(super) struct Words {
    /// Columns.
    width: usize,
    table: Table,
    /// Whether rows could not be read.
    is_lost: AtomicBool,
}

enum Table {
    /// Row by row.
    Whole(Vec<f32>),
    Growing {
        file: Numbers,
        parts: Vec<OnceLock<Vec<f32>>>,
    },
}

impl Words {
    /// Reads the table of this name, or finds it where it may be read later.
    ///
    /// # Errors
    /// When it is missing or of another shape, when it cannot be read, and when it has numbers that are not finite.
    pub(super) fn load(tensors: &Tensors<'_>, name: &str, [rows, width]: [usize; 2]) -> Result<Self, LoadError> {
        let table = if tensors.weights.is_trusted() {
            let file = tensors.tensor(name, &[rows, width])?;
            Table::Growing { file, parts: (0..rows.div_ceil(TOGETHER)).map(|_| OnceLock::new()).collect() }
        } else {
            Table::Whole(tensors.numbers(name, &[rows, width])?)
        };
        Ok(Self { width, table, is_lost: AtomicBool::new(false) })
    }

    /// Writes the embedding of a token, or nothing of use where it cannot be read, which [`is_lost`](Self::is_lost) tells from then on.
    ///
    /// # Panics
    /// When the vocabulary has no such token.
    pub(super) fn write(&self, token: usize, to: &mut [f32]) {
        let (part, row) = match &self.table {
            Table::Whole(table) => (table.as_slice(), token),
            Table::Growing { file, parts } => match self.part(file, parts, token / TOGETHER) {
                Ok(part) => (part, token % TOGETHER),
                Err(error) => return self.lose(&error),
            },
        };
        to.copy_from_slice(&part[row * self.width..][..self.width]);
    }

    /// Reads what is not there yet.
    ///
    /// # Errors
    /// When it cannot be read, or is not what it was; then [`is_lost`](Self::is_lost).
    pub(super) fn complete(&self) -> Result<(), LoadError> {
        let Table::Growing { file, parts } = &self.table else { return Ok(()) };
        (0..parts.len())
            .try_for_each(|index| self.part(file, parts, index).map(drop))
            .inspect_err(|error| self.lose(error))
    }

    /// Whether rows could not be read, so that what is computed is worth nothing.
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Acquire)
    }

    /// All of it, row by row, for whoever keeps it elsewhere: nothing is left here.
    ///
    /// # Errors
    /// As [`complete`](Self::complete).
    pub(super) fn take(&mut self) -> Result<Vec<f32>, LoadError> {
        match mem::replace(&mut self.table, Table::Whole(Vec::new())) {
            Table::Whole(table) => Ok(table),
            Table::Growing { file, .. } => {
                let mut table = vec![0.0; file.count()];
                file.read_late(0, &mut table)?;
                Ok(table)
            }
        }
    }

    fn part<'a>(&self, file: &Numbers, parts: &'a [OnceLock<Vec<f32>>], index: usize) -> Result<&'a [f32], LoadError> {
        let part = &parts[index];
        if let Some(numbers) = part.get() {
            return Ok(numbers);
        }
        let first = index * TOGETHER * self.width;
        let mut numbers = vec![0.0; (TOGETHER * self.width).min(file.count() - first)];
        file.read_late(first, &mut numbers)?;
        // Another thread may have read the same.
        Ok(part.get_or_init(|| numbers))
    }

    fn lose(&self, error: &LoadError) {
        if !self.is_lost.swap(true, Ordering::AcqRel) {
            tracing::error!(path = %error.path.display(), reason = error.reason, "a model lost its weights while it ran");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, fs, path::Path};

    use kernels::{Cpu, Precision};
    use safetensors::{Dtype, tensor::TensorView};

    use super::*;
    use crate::map::Weights;

    const ROWS: usize = 2 * TOGETHER + 7;
    const WIDTH: usize = 3;

    fn number(index: usize) -> f32 {
        index as f32 / 8.0
    }

    /// Weights with a table, and the table as it is found in them.
    fn words(file: &Path, is_trusted: bool) -> (Weights, Words) {
        let bytes: Vec<u8> = (0..ROWS * WIDTH).flat_map(|index| number(index).to_le_bytes()).collect();
        let view = TensorView::new(Dtype::F32, vec![ROWS, WIDTH], &bytes).expect("a tensor");
        safetensors::serialize_to_file(HashMap::from([("table", view)]), None, file).expect("writes");
        let mut weights = Weights::open(file).expect("sound");
        if is_trusted {
            weights.trust(None);
        }
        let precision = Precision::F32;
        let tensors = Tensors { weights: &weights, prefix: "", cpu: Cpu::best(), precision, epsilon: 0.0 };
        let words = Words::load(&tensors, "table", [ROWS, WIDTH]).expect("loads");
        (weights, words)
    }

    fn row(words: &Words, token: usize) -> Vec<f32> {
        let mut row = vec![-1.0; WIDTH];
        words.write(token, &mut row);
        row
    }

    #[test]
    fn rows_are_those_of_the_file_however_they_are_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let expected = |token: usize| -> Vec<f32> { (0..WIDTH).map(|column| number(token * WIDTH + column)).collect() };
        for is_trusted in [false, true] {
            let (weights, mut words) = words(&dir.path().join("model.safetensors"), is_trusted);
            drop(weights);
            for token in [ROWS - 1, 0, TOGETHER, TOGETHER - 1] {
                assert_eq!(row(&words, token), expected(token), "{token}");
            }
            words.complete().expect("all of it");
            assert!((0..ROWS).all(|token| row(&words, token) == expected(token)));
            assert_eq!(words.take().expect("all of it"), (0..ROWS).flat_map(expected).collect::<Vec<_>>());
            assert!(!words.is_lost());
        }
    }

    #[test]
    fn a_file_that_is_changed_in_place_before_all_was_read_is_lost() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("model.safetensors");
        let (_weights, words) = words(&file, true);
        let before = row(&words, 1);
        // Of the same length.
        let bytes = fs::read(&file).expect("reads");
        fs::write(&file, bytes).expect("writes in place");
        assert_eq!(row(&words, 1), before, "what was read is kept");
        assert!(!words.is_lost());
        assert_eq!(row(&words, ROWS - 1), vec![-1.0; WIDTH]);
        assert!(words.is_lost() && words.complete().expect_err("it is lost").reason.contains("changed in place"));
    }

    #[test]
    fn a_file_that_is_replaced_is_read_as_it_was() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("model.safetensors");
        let (_weights, words) = words(&file, true);
        fs::write(dir.path().join("other"), "not weights").expect("writes");
        fs::rename(dir.path().join("other"), &file).expect("replaces");
        words.complete().expect("the file is there as long as it is open");
        assert_eq!(row(&words, ROWS - 1)[WIDTH - 1], number(ROWS * WIDTH - 1));
        assert!(!words.is_lost());
    }
}
