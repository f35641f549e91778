//! What an encoder begins with: an embedding for each token's word, place and type.

use kernels::{Cpu, PackedMatrix, Rows, RowsMut, layer_norm};

use super::{config::Config, encoder::Text, words::Words};
use crate::{
    LoadError,
    transformer::{Norm, Tensors},
};

/// The tables of embeddings; `M` is how matrices are kept.
pub(super) struct Embeddings<M = PackedMatrix> {
    /// Columns of the tables.
    pub(super) width: usize,
    /// Vocabulary × width.
    pub(super) words: Words,
    /// Positions × width: the position's embedding and that of token type 0. Where padding is not counted, the first row is
    /// padding's.
    pub(super) positions: Vec<f32>,
    /// Types × width: how each type's embedding differs from that of type 0.
    pub(super) types: Vec<f32>,
    pub(super) norm: Norm,
    /// A token that positions do not count.
    padding: Option<u32>,
    /// Makes embeddings as wide as hidden states, where they are narrower.
    pub(super) widen: Option<M>,
}

/// The table of words.
pub(super) const WORDS: &str = "embeddings.word_embeddings.weight";

impl<M> Embeddings<M> {
    /// Reads the tables; `dense` reads a dense part of this name, these outputs and inputs.
    ///
    /// # Errors
    /// When one is missing or of another shape.
    pub(super) fn load(
        tensors: &Tensors<'_>,
        config: &Config,
        dense: impl FnOnce(&str, usize, usize) -> Result<M, LoadError>,
    ) -> Result<Self, LoadError> {
        let width = config.embedding_size();
        let table = |name: &str, rows: usize| tensors.numbers(name, &[rows, width]);
        let mut positions = table("embeddings.position_embeddings.weight", config.max_position_embeddings)?;
        if let Some(padding) = config.padding() {
            positions.drain(..padding as usize * width);
        }
        let mut types = match config.type_vocab_size {
            0 => vec![0.0; width],
            count => table("embeddings.token_type_embeddings.weight", count)?,
        };
        let (first, _) = types.split_at(width);
        let first = first.to_vec();
        for position in positions.chunks_exact_mut(width) {
            position.iter_mut().zip(&first).for_each(|(number, of_type)| *number += of_type);
        }
        for of_type in types.chunks_exact_mut(width) {
            of_type.iter_mut().zip(&first).for_each(|(number, of_first)| *number -= of_first);
        }
        let widen = || dense("embeddings_project", config.hidden_size, width);
        Ok(Self {
            width,
            words: Words::load(tensors, WORDS, [config.vocab_size, width])?,
            positions,
            types,
            norm: tensors.norm("embeddings.LayerNorm", width)?,
            padding: config.padding(),
            widen: (width != config.hidden_size).then(widen).transpose()?,
        })
    }

    /// The row of positions for each token of a text.
    pub(super) fn places(&self, ids: &[u32]) -> Vec<u32> {
        let Some(padding) = self.padding else { return (0..).take(ids.len()).collect() };
        let counted = ids.iter().scan(0, |counted, id| {
            let is_counted = *id != padding;
            *counted += u32::from(is_counted);
            Some(if is_counted { *counted } else { 0 })
        });
        counted.collect()
    }
}

impl Embeddings {
    /// Writes what each token is and where it stands, after layer norm, to `to`: a row for each, one text after the other.
    /// `sum` is room for as much.
    pub(super) fn of(&self, cpu: Cpu, texts: &[Text<'_>], sum: &mut [f32], to: &mut [f32]) {
        let width = self.width;
        let mut begin = 0;
        for text in texts {
            let numbers = begin..begin + text.ids.len() * width;
            begin = numbers.end;
            let sum = &mut sum[numbers.clone()];
            for (row, token) in sum.chunks_exact_mut(width).zip(text.ids) {
                self.words.write(*token as usize, row);
            }
            for (row, kind) in sum.chunks_exact_mut(width).zip(text.types) {
                let of_type = row_of(&self.types, *kind as usize, width);
                row.iter_mut().zip(of_type).for_each(|(number, of_type)| *number += of_type);
            }
            self.place(cpu, text.ids, sum, &mut to[numbers]);
        }
    }

    /// Writes the layer norm of each row and its position.
    fn place(&self, cpu: Cpu, ids: &[u32], sum: &[f32], to: &mut [f32]) {
        let width = self.width;
        let mut norm = |tokens: std::ops::Range<usize>, position: usize| {
            let (numbers, length) = (tokens.start * width..tokens.end * width, tokens.len());
            let positions = &self.positions[position * width..][..length * width];
            let to = RowsMut::new(&mut to[numbers.clone()], length, width, width);
            let rows = |numbers| Rows::new(numbers, length, width, width);
            layer_norm(cpu, self.norm.parameters(), rows(&sum[numbers]), Some(rows(positions)), to);
        };
        match self.padding {
            None => norm(0..ids.len(), 0),
            Some(padding) if !ids.contains(&padding) => norm(0..ids.len(), 1),
            // Somebody wrote the padding token into the text.
            Some(padding) => {
                let mut counted = 0;
                for (token, id) in ids.iter().enumerate() {
                    let is_counted = *id != padding;
                    counted += usize::from(is_counted);
                    norm(token..token + 1, if is_counted { counted } else { 0 });
                }
            }
        }
    }
}

fn row_of(table: &[f32], row: usize, width: usize) -> &[f32] {
    &table[row * width..][..width]
}
