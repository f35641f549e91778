//! What transformers of texts and of images share: layers, their tensors, and threads that compute them together.

mod activation;
mod anatomy;
mod bias;
mod crew;
mod deal;
mod hidden;
mod layer;
mod pace;
mod pruned;
mod room;
mod tensors;
mod threads;

use kernels::{Rows, RowsMut};

pub(crate) use self::{
    activation::Activation,
    anatomy::Anatomy,
    bias::Bias,
    crew::Crew,
    hidden::Hidden,
    layer::{Layer, LayerNames, Order, Shape, States},
    pruned::PrunedHeads,
    room::{Room, UNDER_WAY},
    tensors::{Norm, Tensors},
    threads::Threads,
};

/// So many of the numbers; there are as many as ever were wanted at once.
pub(crate) fn room_for(numbers: &mut Vec<f32>, count: usize) -> &mut [f32] {
    if numbers.len() < count {
        numbers.resize(count, 0.0);
    }
    &mut numbers[..count]
}

/// Numbers as rows without gaps.
pub(crate) fn view(numbers: &[f32], rows: usize, columns: usize) -> Rows<'_> {
    Rows::new(numbers, rows, columns, columns)
}

/// The same to write, with room for them.
pub(crate) fn view_mut(numbers: &mut Vec<f32>, rows: usize, columns: usize) -> RowsMut<'_> {
    RowsMut::new(room_for(numbers, rows * columns), rows, columns, columns)
}
