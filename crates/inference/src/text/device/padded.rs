//! Texts padded to the longest of them, as tensors on a device.

use candle_core::{DType, Device, Result, Tensor};

use crate::text::{embeddings::Embeddings, encoder::Text};

/// The tables of embeddings and of attention, on a device.
pub(super) struct Tables {
    pub(super) words: Tensor,
    pub(super) positions: Tensor,
    pub(super) types: Tensor,
    /// What is added to scores, as kernels read it, where anything is.
    pub(super) bias: Option<Tensor>,
}

/// Texts that are computed together.
pub(super) struct Padded {
    /// How many texts.
    pub(super) count: usize,
    /// Tokens of each, padding included.
    pub(super) length: usize,
    /// Tokens of each without padding.
    pub(super) lengths: Vec<usize>,
    /// The id of each token, the row of its position, and its type where any is not 0; padding is as token, row and type 0.
    pub(super) ids: Tensor,
    pub(super) places: Tensor,
    pub(super) types: Option<Tensor>,
    /// What is added to scores (1 × heads × queries × keys) by how far apart tokens stand, where anything is.
    pub(super) bias: Option<Tensor>,
    /// What is added to scores (texts × 1 × 1 × tokens) so that nothing attends to padding, where there is any.
    pub(super) mask: Option<Tensor>,
}

impl Padded {
    /// Pads texts. `dtype` is that of scores.
    ///
    /// # Panics
    /// When a table has no row for a token: a device would read whatever lies beyond it.
    pub(super) fn new<M>(
        texts: &[Text<'_>],
        embeddings: &Embeddings<M>,
        tables: &Tables,
        dtype: DType,
    ) -> Result<Self> {
        let device = tables.words.device();
        let lengths: Vec<usize> = texts.iter().map(|text| text.ids.len()).collect();
        let (count, length) = (texts.len(), lengths.iter().copied().max().unwrap_or_default());
        assert!(lengths.iter().all(|tokens| *tokens > 0), "a text without tokens");
        let rows = |table: &Tensor, of: &dyn Fn(&Text<'_>) -> Vec<u32>| {
            let known = table.dim(0)?;
            let mut rows = vec![0; count * length];
            for (row, text) in rows.chunks_exact_mut(length).zip(texts) {
                let numbers = of(text);
                assert!(numbers.iter().all(|number| (*number as usize) < known), "no embedding for a token");
                row[..numbers.len()].copy_from_slice(&numbers);
            }
            Tensor::from_vec(rows, count * length, device)
        };
        let has_types = texts.iter().any(|text| text.types.iter().any(|kind| *kind != 0));
        let has_padding = lengths.iter().any(|tokens| *tokens < length);
        let mask = || {
            let mask = filled(&lengths, length, |_| 0.0, f32::NEG_INFINITY);
            Tensor::from_vec(mask, (count, 1, 1, length), device)?.to_dtype(dtype)
        };
        Ok(Self {
            ids: rows(&tables.words, &|text| text.ids.to_vec())?,
            places: rows(&tables.positions, &|text| embeddings.places(text.ids))?,
            types: has_types.then(|| rows(&tables.types, &|text| text.types.to_vec())).transpose()?,
            bias: tables.bias.as_ref().map(|bias| by_places(bias, length)).transpose()?,
            mask: has_padding.then(mask).transpose()?,
            count,
            length,
            lengths,
        })
    }

    /// Each token's share of its text (texts × 1 × tokens), in f32: what makes means of a product.
    pub(super) fn shares(&self, device: &Device) -> Result<Tensor> {
        let shares = filled(&self.lengths, self.length, |tokens| 1.0 / tokens as f32, 0.0);
        Tensor::from_vec(shares, (self.count, 1, self.length), device)
    }
}

/// Of a row for each head, the number of each pair of a query and a key of so many (1 × heads × queries × keys): the middle one where
/// they are one token.
fn by_places(bias: &Tensor, length: usize) -> Result<Tensor> {
    let ((heads, numbers), device) = (bias.dims2()?, bias.device());
    // Padding has no position of its own, so positions alone do not bound the length.
    assert!(length <= numbers / 2 + 1, "a text of {length} tokens is longer than the encoder reaches");
    let (length_u32, middle) = (length as u32, (numbers / 2) as u32);
    let queries = Tensor::arange(0, length_u32, device)?.unsqueeze(1)?;
    let places = Tensor::arange(middle, middle + length_u32, device)?.broadcast_sub(&queries)?.flatten_all()?;
    bias.index_select(&places, 1)?.reshape((1, heads, length, length))
}

/// Of each text a number for each token, by how many it has, and another for each of its padding.
fn filled(lengths: &[usize], length: usize, token: impl Fn(usize) -> f32, padding: f32) -> Vec<f32> {
    let of_text = |tokens: &usize| {
        let mut row = vec![token(*tokens); *tokens];
        row.resize(length, padding);
        row
    };
    lengths.iter().flat_map(of_text).collect()
}
