//! Rotary position embeddings: pairs of a head's numbers are turned by angles that grow with the position (Su et al. 2021,
//! <https://arxiv.org/abs/2104.09864>).

use super::config::Config;

/// The angles of one position, and which numbers are pairs.
pub(super) struct Rope {
    /// Radians per position, for each pair.
    frequencies: Vec<f32>,
    turns_neighbours: bool,
}

/// Cosine and sine of each pair's angle at one position.
pub(super) type Turns = Vec<(f32, f32)>;

impl Rope {
    /// That of a decoder; `factors` divide the frequencies of its pairs, where the file has them (Llama 3.1 and later).
    pub(super) fn new(config: &Config, factors: Option<&[f32]>) -> Self {
        let frequency = |pair: usize| {
            let plain = config.rope_base.powf(-(2.0 * pair as f32) / config.head_width as f32);
            plain / factors.map_or(1.0, |factors| factors[pair]) / config.rope_factor
        };
        let frequencies = (0..config.head_width / 2).map(frequency).collect();
        Self { frequencies, turns_neighbours: config.family.turns_neighbours }
    }

    /// What turns the heads of a token at this position.
    pub(super) fn at(&self, position: usize) -> Turns {
        let turn = |frequency: &f32| {
            let (sine, cosine) = (position as f32 * frequency).sin_cos();
            (cosine, sine)
        };
        self.frequencies.iter().map(turn).collect()
    }

    /// Turns one head.
    pub(super) fn turn(&self, head: &mut [f32], turns: &Turns) {
        let half = head.len() / 2;
        for (pair, (cosine, sine)) in turns.iter().enumerate() {
            let (first, second) = if self.turns_neighbours { (2 * pair, 2 * pair + 1) } else { (pair, pair + half) };
            let (x, y) = (head[first], head[second]);
            head[first] = x * cosine - y * sine;
            head[second] = x * sine + y * cosine;
        }
    }
}
