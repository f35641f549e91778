//! Attention of new tokens to all before them, whose keys and values are in a cache.

use kernels::{Cpu, RowsMut, softmax};

/// Sums that are added up side by side, so that the compiler takes them into wide registers.
const LANES: usize = 16;

/// What one head of keys answers to the heads of queries that it serves, for the new tokens of one sequence.
pub(super) struct Share<'a> {
    /// For each new token, the queries of those heads, one after the other.
    pub(super) queries: Vec<f32>,
    /// The head's keys and values, token after token: of the tokens before, then of the new ones.
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
    /// Tokens before the new ones.
    pub(super) before: usize,
    /// How many heads of queries.
    pub(super) heads: usize,
    pub(super) head_width: usize,
    /// For each new token, what those heads give, one after the other.
    pub(super) answers: Vec<f32>,
}

impl Share<'_> {
    /// Writes the answers: for each token and head `softmax(q · Kᵀ / √width) · V` over the token itself and all before it. The order of
    /// sums depends on nothing else than the token's position.
    pub(super) fn answer(&mut self, cpu: Cpu, scores: &mut Vec<f32>) {
        let width = self.head_width;
        let scale = 1.0 / (width as f32).sqrt();
        let heads = self.queries.chunks_exact(width).zip(self.answers.chunks_exact_mut(width)).enumerate();
        for (index, (query, answer)) in heads {
            let visible = (self.before + index / self.heads + 1) * width;
            scores.clear();
            scores.extend(self.keys[..visible].chunks_exact(width).map(|key| dot(query, key) * scale));
            let count = scores.len();
            softmax(cpu, RowsMut::new(scores, 1, count, count));
            answer.fill(0.0);
            for (score, value) in scores.iter().zip(self.values[..visible].chunks_exact(width)) {
                answer.iter_mut().zip(value).for_each(|(sum, number)| *sum += score * number);
            }
        }
    }
}

/// The sum of products.
pub(super) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let (x_blocks, x_rest) = x.as_chunks::<LANES>();
    let (y_blocks, y_rest) = y.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (x, y) in x_blocks.iter().zip(y_blocks) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    let rest: f32 = x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f32>() + rest
}
