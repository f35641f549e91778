//! What attention adds to scores by how far apart two rows stand, for each head; layers share it.

use std::sync::Arc;

use kernels::Rows;

/// The rows of some heads, as [`kernels::Attention`] reads them.
#[derive(Clone, Debug)]
pub(crate) struct Bias {
    heads: usize,
    numbers: Arc<[f32]>,
}

impl Bias {
    /// Of a row for each head, all of one odd length.
    pub(crate) fn new(rows: Vec<Vec<f32>>) -> Self {
        Self { heads: rows.len(), numbers: rows.concat().into() }
    }

    /// That of some of the heads; the same numbers where it is all of them.
    pub(crate) fn of(&self, heads: &[usize]) -> Self {
        if heads.iter().copied().eq(0..self.heads) {
            return self.clone();
        }
        let rows = self.rows();
        Self::new(heads.iter().map(|head| rows.row(*head).to_vec()).collect())
    }

    /// A row for each head.
    pub(crate) fn rows(&self) -> Rows<'_> {
        let columns = self.numbers.len() / self.heads;
        Rows::new(&self.numbers, self.heads, columns, columns)
    }
}
