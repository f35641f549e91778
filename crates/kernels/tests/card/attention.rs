//! Attention: in plain loops and on an NVIDIA card against a reference in f64.

use kernels::{Card, CardRows, Heads, Precision, WIDEST_HEAD};

use super::{Numbers, apart, card, indices, made, most, texts};

/// What attention is tried with.
struct Case {
    lengths: Vec<usize>,
    heads: usize,
    width: usize,
    has_distances: bool,
    states: Vec<f32>,
    bias: Vec<f32>,
    by_distance: Vec<f32>,
}

impl Case {
    fn new(lengths: &[usize], heads: usize, width: usize, has_distances: bool) -> Self {
        let mut numbers = Numbers((lengths.len() * 1000 + heads * 100 + width) as u64);
        let (columns, reach) = (3 * heads * width, lengths.iter().max().expect("some") + 3);
        Self {
            lengths: lengths.to_vec(),
            heads,
            width,
            has_distances,
            states: numbers.some(lengths.iter().sum::<usize>() * columns, 2.0),
            bias: numbers.some(columns, 1.0),
            by_distance: numbers.some(heads * (2 * reach - 1), 3.0),
        }
    }

    fn attend(&self, card: &Card, precision: Precision, to: &mut CardRows) {
        let columns = 3 * self.heads * self.width;
        let states = card.rows(precision, &self.states, columns).expect("room");
        let bias = card.rows(precision, &self.bias, columns).expect("room");
        let distances = self.by_distance.len() / self.heads;
        let by_distance = card.rows(Precision::F32, &self.by_distance, distances).expect("room");
        let begins = indices(card, &[&[7], &texts(&self.lengths)]);
        let heads = Heads { count: self.heads, by_distance: self.has_distances.then_some(&by_distance) };
        card.attention(&states, &bias, begins.part(1), heads, to).expect("attends");
    }

    /// The same in f64.
    fn reference(&self) -> Vec<f32> {
        let inner = self.heads * self.width;
        let number =
            |row: usize, column: usize| f64::from(self.states[row * 3 * inner + column]) + f64::from(self.bias[column]);
        let distances = self.by_distance.len() / self.heads;
        let mut result = Vec::new();
        for ends in texts(&self.lengths).windows(2).map(|ends| ends[0] as usize..ends[1] as usize) {
            for query in ends.clone() {
                for head in 0..self.heads {
                    let score = |key: usize| {
                        let columns = head * self.width..(head + 1) * self.width;
                        let product: f64 = columns.map(|at| number(query, at) * number(key, inner + at)).sum();
                        let at = head * distances + distances / 2 + key - query;
                        let bias = if self.has_distances { f64::from(self.by_distance[at]) } else { 0.0 };
                        product / (self.width as f64).sqrt() + bias
                    };
                    let scores: Vec<f64> = ends.clone().map(score).collect();
                    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let shares: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
                    let total: f64 = shares.iter().sum();
                    for column in head * self.width..(head + 1) * self.width {
                        let pairs = shares.iter().zip(ends.clone());
                        let sum: f64 = pairs.map(|(share, key)| share * number(key, 2 * inner + column)).sum();
                        result.push((sum / total) as f32);
                    }
                }
            }
        }
        result
    }
}

/// Lengths around those of tiles, alone and among others.
fn cases() -> Vec<Case> {
    let lengths: [&[usize]; 6] = [&[1], &[17, 1, 64, 65, 63, 2], &[512], &[128, 33, 32, 31], &[200, 3, 257], &[9; 40]];
    let heads = [(2, 32), (3, 64), (1, WIDEST_HEAD), (4, 8), (2, 33), (1, 100)];
    let all = heads.iter().flat_map(|heads| lengths.map(|lengths| (*heads, lengths)));
    let both = all.flat_map(|((heads, width), lengths)| {
        [false, true].map(|has_distances| Case::new(lengths, heads, width, has_distances))
    });
    both.collect()
}

#[test]
fn attention_in_plain_loops_is_that_of_the_reference() {
    for case in cases() {
        if case.lengths.iter().sum::<usize>() > 300 {
            continue;
        }
        let ours = made(&Card::plain(), Precision::F32, &|card, to| case.attend(card, Precision::F32, to));
        let apart = apart(&ours, &case.reference());
        assert!(apart <= 4e-6, "{:?}, {} × {}: {apart}", case.lengths, case.heads, case.width);
    }
}

#[test]
fn cuda_attention_is_that_of_the_reference() {
    let Some(card) = card("cuda_attention_is_that_of_the_reference") else { return };
    for case in cases() {
        let reference = case.reference();
        for precision in [Precision::F32, Precision::Bf16] {
            if card.precision(precision) != precision {
                continue;
            }
            let ours = made(&card, precision, &|card, to| case.attend(card, precision, to));
            let apart = apart(&ours, &reference);
            let what = format!("{:?}, {} × {}, {}", case.lengths, case.heads, case.width, case.has_distances);
            assert!(apart <= most(precision), "{what}, {precision:?}: {apart}");
        }
    }
}
