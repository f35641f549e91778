//! What stands on top of an encoder: from the last hidden states to an embedding, or to the outputs of a classifier.

use kernels::{Activation, PackedMatrix, Precision};

use super::{
    family::Squash,
    files::{Pooling, Settings},
    task::Task,
};
use crate::{
    LoadError,
    transformer::{Crew, States, Tensors, room_for, view, view_mut},
};

/// What becomes of hidden states; `M` is how matrices are kept.
pub(super) enum Head<M = PackedMatrix> {
    /// One vector for each text, as wide as they are.
    Pool(Pooling),
    /// An output for each label for each text, from its first token.
    First { dense: M, squash: Squash, last: M },
    /// An output for each label for each token.
    Each(M),
}

impl<M> Head<M> {
    /// Reads the tensors of what the task needs; `dense` reads a dense part of this name, these outputs and inputs.
    ///
    /// # Errors
    /// When one is missing or of another shape.
    pub(super) fn load(
        encoder: Tensors<'_>,
        settings: &Settings,
        dense: impl Fn(&Tensors<'_>, &str, usize, usize) -> Result<M, LoadError>,
    ) -> Result<Self, LoadError> {
        let (width, wrong) = (settings.config.hidden_size, |reason| LoadError::new(encoder.weights.path(), reason));
        // So little work that it may as well be exact.
        let within = Tensors { precision: Precision::F32, ..encoder };
        let outside = Tensors { prefix: "", ..within };
        let labels = || settings.config.labels().map(|labels| labels.len()).map_err(wrong);
        match settings.task {
            Task::FeatureExtraction => Ok(Self::Pool(settings.pooling)),
            Task::TokenClassification => Ok(Self::Each(dense(&outside, "classifier", labels()?, width)?)),
            Task::TextClassification | Task::ZeroShotClassification => {
                let names = settings.config.family.classifier();
                let first = if names.within_encoder { within } else { outside };
                Ok(Self::First {
                    dense: dense(&first, names.dense, width, width)?,
                    squash: names.squash,
                    last: dense(&outside, names.last, labels()?, width)?,
                })
            }
        }
    }
}

impl Head {
    /// The numbers of each text, from hidden states so wide; overwrites what is between two steps.
    pub(super) fn of(&self, hidden: &[f32], width: usize, crew: &mut Crew<'_>, states: &mut States) -> Vec<Vec<f32>> {
        let States { offsets, sum, context, between, .. } = states;
        let texts = || offsets.windows(2).map(|ends| ends[0]..ends[1]);
        let plain = Activation::None;
        match self {
            Self::Pool(pooling) => texts().map(|rows| pooling.of(hidden, rows, width)).collect(),
            Self::First { dense, squash, last } => {
                let (count, labels) = (texts().len(), last.outputs());
                let first = room_for(sum, count * width);
                for (row, rows) in first.chunks_exact_mut(width).zip(texts()) {
                    row.copy_from_slice(&hidden[rows.start * width..][..width]);
                }
                let activation = match squash {
                    Squash::Tanh => plain,
                    Squash::By(activation) => *activation,
                };
                crew.multiply(dense, activation, view(sum, count, width), None, view_mut(context, count, width));
                if *squash == Squash::Tanh {
                    context[..count * width].iter_mut().for_each(|number| *number = number.tanh());
                }
                crew.multiply(last, plain, view(context, count, width), None, view_mut(between, count, labels));
                between[..count * labels].chunks_exact(labels).map(<[f32]>::to_vec).collect()
            }
            Self::Each(last) => {
                let (rows, labels) = (offsets.last().copied().unwrap_or_default(), last.outputs());
                crew.multiply(last, plain, view(hidden, rows, width), None, view_mut(between, rows, labels));
                texts().map(|rows| between[rows.start * labels..rows.end * labels].to_vec()).collect()
            }
        }
    }
}

impl Pooling {
    /// The embedding of the text in these rows.
    fn of(self, hidden: &[f32], rows: std::ops::Range<usize>, width: usize) -> Vec<f32> {
        let share = 1.0 / rows.len() as f32;
        let mut rows = hidden[rows.start * width..rows.end * width].chunks_exact(width);
        let mut embedding = rows.next().map(<[f32]>::to_vec).unwrap_or_default();
        if self == Self::Mean {
            for row in rows {
                embedding.iter_mut().zip(row).for_each(|(sum, number)| *sum += number);
            }
            embedding.iter_mut().for_each(|sum| *sum *= share);
        }
        embedding
    }
}
