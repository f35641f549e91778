//! Weights on their way from a file to a card.

use kernels::{Card, CardError, CardNorm, CardRows, Precision};

use crate::{LoadError, transformer::Tensors};

/// Where tensors come from, and where they are put.
#[derive(Clone, Copy)]
pub(super) struct Upload<'a> {
    pub(super) tensors: Tensors<'a>,
    pub(super) card: &'a Card,
    /// How numbers are kept there.
    pub(super) precision: Precision,
}

/// A dense part: a row of weights for each output, and a bias.
pub(super) struct Dense {
    pub(super) weights: CardRows,
    pub(super) bias: CardRows,
}

impl Upload<'_> {
    /// Numbers in rows of so many columns.
    ///
    /// # Errors
    /// When the card has no room for them.
    pub(super) fn put(&self, numbers: &[f32], columns: usize) -> Result<CardRows, LoadError> {
        self.card.rows(self.precision, numbers, columns).map_err(|error| self.refused(&error))
    }

    fn refused(&self, error: &CardError) -> LoadError {
        LoadError::new(self.tensors.weights.path(), format!("the device does not take its weights: {error}"))
    }

    /// Dense parts of the same inputs, side by side in one: `outputs` of each.
    ///
    /// # Errors
    /// When a tensor is missing or of another shape, or the card has no room for them.
    pub(super) fn dense(&self, names: &[String], outputs: usize, inputs: usize) -> Result<Dense, LoadError> {
        let (weights, bias) = self.tensors.side_by_side(names, outputs, inputs)?;
        Ok(Dense { weights: self.put(&weights, inputs)?, bias: self.put(&bias, bias.len())? })
    }

    /// A layer norm over so many columns.
    ///
    /// # Errors
    /// As [`dense`](Self::dense).
    pub(super) fn norm(&self, name: &str, size: usize) -> Result<CardNorm, LoadError> {
        self.put_norm(&self.tensors.norm(name, size)?)
    }

    /// A layer norm that was read.
    ///
    /// # Errors
    /// When the card has no room for it.
    pub(super) fn put_norm(&self, norm: &crate::transformer::Norm) -> Result<CardNorm, LoadError> {
        let norm = norm.parameters();
        let put = |numbers: &[f32]| self.put(numbers, numbers.len());
        Ok(CardNorm { weight: put(norm.weight)?, bias: put(norm.bias)?, epsilon: norm.epsilon })
    }
}
